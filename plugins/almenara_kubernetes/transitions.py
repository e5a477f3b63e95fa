"""What happened between two states of a resource, as events.

An id is made of the object's uid and of what happened, never of when it was seen, so that what is
seen twice, such as after a restart, is one event.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from almenara.sdk import now
from almenara.signals import Event, Resource, Severity
from almenara_kubernetes.cluster import EXPIRES_SOON, is_pressure
from almenara_kubernetes.workloads import COMPLETE, ROLLOUT_OF, STALLED

RECENT: Final = 600_000_000
"""Microseconds: what happened to an object before it was first seen is told if it is not older."""
OOM: Final = "OOMKilled"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to an object."""

    type: str
    """Without the `kubernetes.` in front: `pod.restarted`."""
    key: str
    """What makes the event's id, with the uid of the object."""
    time: int | None
    """Microseconds since the epoch; None for now."""
    severity: Severity
    data: dict[str, Any]


def of_pod(before: Resource | None, after: Resource) -> Iterator[Told]:
    """Became ready or unready, restarted, was OOM-killed, was evicted, failed."""
    old: Mapping[str, Any] = before.state if before is not None else {}
    new = after.state
    yield from _readiness(before, after)
    known = {it["name"]: it for it in old.get("containers", ())}
    for it in new.get("containers", ()):
        yield from _of_container(known.get(it["name"]), it)
    if new.get("phase") == "Failed" and old.get("phase") != "Failed":
        evicted = new.get("reason") == "Evicted"
        yield Told(
            type="pod.evicted" if evicted else "pod.failed",
            key="failed",
            time=_latest(new),
            severity=Severity.ERROR,
            data={
                "reason": new.get("reason") or after.status,
                "message": new.get("message", ""),
                "node": new.get("node", ""),
            },
        )


def _readiness(before: Resource | None, after: Resource) -> Iterator[Told]:
    now_ready, then_ready = _condition(after, "Ready"), _condition(before, "Ready")
    if now_ready is None or (
        then_ready is not None and then_ready.get("status") == now_ready.get("status")
    ):
        return
    since = now_ready.get("since")
    if now_ready.get("status") == "True":
        yield Told(
            type="pod.ready", key=f"ready/{since}", time=since, severity=Severity.INFO,
            data=_took(after, since),
        )  # fmt: skip
    elif then_ready is not None and then_ready.get("status") == "True":
        # One that ends is not ready either, and that is as it should be.
        if after.state.get("deleted") or after.status == "Completed":
            return
        yield Told(
            type="pod.unready", key=f"unready/{since}", time=since, severity=Severity.WARN,
            data={
                "reason": now_ready.get("reason") or after.status,
                "message": now_ready.get("message", ""),
                "status": after.status,
            },
        )  # fmt: skip


def _took(after: Resource, since: Any) -> dict[str, Any]:
    created = after.state.get("created")
    found: dict[str, Any] = {"node": after.state.get("node", "")}
    if isinstance(since, int) and isinstance(created, int) and after.state.get("restarts") == 0:
        found["seconds_after_creation"] = max(0, (since - created) // 1_000_000)
    return found


def _of_container(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Iterator[Told]:
    name = new["name"]
    last: Mapping[str, Any] = new.get("last", {})
    past: Mapping[str, Any] = old.get("last", {}) if old is not None else {}
    ended = new.get("since") if new.get("state") == OOM else None
    if last.get("reason") == OOM:
        ended = ended or last.get("finished")
    known = {past.get("finished")} if past.get("reason") == OOM else set()
    if old is not None and old.get("state") == OOM:
        known.add(old.get("since"))
    if ended is not None and ended not in known:
        yield Told(
            type="pod.oom_killed", key=f"{name}/oom/{ended}", time=ended,
            severity=Severity.ERROR,
            data={"container": name, "memory_limit": new.get("memory_limit")},
        )  # fmt: skip
    count, before = new.get("restarts", 0), old.get("restarts", 0) if old is not None else 0
    if count > before:
        data = {
            "reason": last.get("reason", ""),
            "container": name,
            "restarts": count,
            "exit_code": last.get("exit_code"),
        }
        if "message" in last:
            data["message"] = last["message"]
        yield Told(
            type="pod.restarted", key=f"{name}/restart/{count}",
            time=(new.get("since") if new.get("state") == "Running" else None)
            or last.get("finished"),
            severity=Severity.WARN, data=data,
        )  # fmt: skip


def of_workload(before: Resource | None, after: Resource) -> Iterator[Told]:
    """A rollout began, finished or stalled."""
    old: Mapping[str, Any] = before.state if before is not None else {}
    new = after.state
    revision, rollout = new.get("revision"), new.get("rollout")
    if not revision or rollout is None:
        return
    data = {
        "revision": revision,
        "version": new.get("version", ""),
        "image": new.get("image", ""),
        "desired": new.get("desired", 0),
    }
    # A revision may come back, as that of a StatefulSet does when it is undone.
    key = f"rollout/{revision}/{new.get(ROLLOUT_OF, 0)}"
    if before is None:
        # A new one: its first rollout began with it.
        if rollout != COMPLETE and new.get("created", 0) >= now() - RECENT:
            yield Told(
                type="rollout.began", key=f"rollout/{revision}/began", time=new.get("created"),
                severity=Severity.INFO, data=data,
            )  # fmt: skip
        return
    fresh = old.get("revision") != revision
    if fresh:
        earlier = {"from_version": old["version"]} if old.get("version") else {}
        # The first revision may come a moment after the object.
        first = not old.get("revision")
        yield Told(
            type="rollout.began",
            key=f"rollout/{revision}/began" if first else f"{key}/began",
            time=None,
            severity=Severity.INFO,
            data={**data, **earlier},
        )
    if old.get("rollout") == rollout and not fresh:
        return
    if rollout == COMPLETE and ROLLOUT_OF in new:
        yield Told(
            type="rollout.finished", key=f"{key}/finished", time=None, severity=Severity.INFO,
            data=data,
        )  # fmt: skip
    elif rollout == STALLED:
        yield Told(
            type="rollout.stalled", key=f"{key}/stalled", time=None,
            severity=Severity.ERROR,
            data={"reason": "ProgressDeadlineExceeded", "message": new.get("message", ""), **data},
        )  # fmt: skip


def of_job(before: Resource | None, after: Resource) -> Iterator[Told]:
    """A job completed or failed."""
    if after.status not in ("Complete", "Failed"):
        return
    if before is not None and before.status == after.status:
        return
    good = after.status == "Complete"
    yield Told(
        type="job.completed" if good else "job.failed", key=after.status.lower(),
        time=after.state.get("finished") or _latest(after.state),
        severity=Severity.INFO if good else Severity.ERROR,
        data={
            "message": after.state.get("message", ""),
            "succeeded": after.state.get("succeeded", 0),
            "failed": after.state.get("failed", 0),
        },
    )  # fmt: skip


def of_node(before: Resource | None, after: Resource) -> Iterator[Told]:
    """A node became ready or stopped being so, or came under pressure."""
    for new in after.state.get("conditions", ()):
        old = _condition(before, new["type"])
        if old is not None and old.get("status") == new.get("status"):
            continue
        since = new.get("since")
        why = {"reason": new.get("reason", ""), "message": new.get("message", "")}
        if new["type"] == "Ready":
            good = new.get("status") == "True"
            yield Told(
                type="node.ready" if good else "node.not_ready",
                key=f"{'ready' if good else 'not_ready'}/{since}", time=since,
                severity=Severity.INFO if good else Severity.ERROR, data=why,
            )  # fmt: skip
        elif is_pressure(new["type"], new.get("status", "")):
            yield Told(
                type="node.pressure", key=f"{new['type']}/{since}", time=since,
                severity=Severity.WARN, data={**why, "condition": new["type"]},
            )  # fmt: skip


def of_certificate(before: Resource | None, after: Resource) -> Iterator[Told]:
    """A certificate comes within 14 days of its expiry, or passes it."""
    expires = after.state.get("expires")
    if expires is None or (before is not None and before.status == after.status):
        return
    data = {"names": after.state.get("names", ""), "expires_at": expires}
    if after.status == "Expires soon":
        yield Told(
            type="certificate.expires_soon", key=f"soon/{expires}", time=expires - EXPIRES_SOON,
            severity=Severity.WARN, data=data,
        )  # fmt: skip
    elif after.status == "Expired":
        yield Told(
            type="certificate.expired", key=f"expired/{expires}", time=expires,
            severity=Severity.ERROR, data=data,
        )  # fmt: skip


TRANSITIONS: Final = {
    "kubernetes.pod": of_pod,
    "kubernetes.deployment": of_workload,
    "kubernetes.statefulset": of_workload,
    "kubernetes.daemonset": of_workload,
    "kubernetes.job": of_job,
    "kubernetes.node": of_node,
    "kubernetes.certificate": of_certificate,
}
"""By the kind of the resource."""

STANDING: Final = frozenset(("certificate.expires_soon", "certificate.expired", "node.not_ready"))
"""What is worth telling however long ago it began, because it still is so."""


def happened(
    before: Resource | None, after: Resource, *, subject: str, correlation: str, source: str
) -> Iterable[Event]:
    """The events of a change; of an object that was not known only what is recent."""
    find = TRANSITIONS.get(after.kind)
    if find is None:
        return
    moment = now()
    for it in find(before, after):
        old = it.time is None or it.time < moment - RECENT
        if before is None and old and it.type not in STANDING:
            continue
        when = it.time if it.time is not None else moment
        yield Event(
            id=f"{after.state.get('uid', subject)}/{it.key}",
            source=source,
            type=f"kubernetes.{it.type}",
            subject=subject,
            time=when,
            severity=it.severity,
            correlation=correlation,
            attributes=about(after.namespace, after.state.get("labels", {})),
            data={name: value for name, value in it.data.items() if value not in (None, "")},
        )


def about(namespace: str, labels: Mapping[str, str] = {}) -> dict[str, str]:
    """The attributes by which an event is known to be among what somebody may see."""
    joined = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return {name: text for name, text in (("namespace", namespace), ("labels", joined)) if text}


def _condition(resource: Resource | None, kind: str) -> Mapping[str, Any] | None:
    if resource is None:
        return None
    found: Iterable[Mapping[str, Any]] = resource.state.get("conditions", ())
    return next((it for it in found if it.get("type") == kind), None)


def _latest(state: Mapping[str, Any]) -> int | None:
    """The newest time that the object itself tells."""
    times = [
        it[name]
        for part in ("containers", "conditions")
        for it in state.get(part, ())
        for name in ("since",)
        if isinstance(it.get(name), int)
    ]
    return max(times, default=None)
