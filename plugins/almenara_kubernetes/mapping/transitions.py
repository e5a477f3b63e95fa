"""The transitions between two states of a resource, as events.

An id is made of the object's uid and of the transition, never of when it was observed, so that one
that is observed twice, such as after a restart, is one event.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from almenara.sdk import now
from almenara.signals import Event, Resource, Severity
from almenara.units import MINUTE, SECOND
from almenara_kubernetes.mapping.certificates import expires_soon_at
from almenara_kubernetes.mapping.nodes import is_pressure
from almenara_kubernetes.mapping.workloads import COMPLETE, ROLLOUT_OF, STALLED

RECENT: Final = 10 * MINUTE
"""Transitions from before an object was first observed are reported up to this age."""
OOM: Final = "OOMKilled"


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A change of an object that is worth an event."""

    type: str
    """Without the `kubernetes.` in front: `pod.restarted`."""
    key: str
    """What makes the event's id, with the uid of the object."""
    time: int | None
    """Microseconds since the epoch; None for the present."""
    severity: Severity
    data: dict[str, Any]


def pod_transitions(before: Resource | None, after: Resource) -> Iterator[Transition]:
    """Became ready or unready, restarted, was OOM-killed, was evicted, failed."""
    old: Mapping[str, Any] = before.state if before is not None else {}
    new = after.state
    yield from _readiness(before, after)
    known = {container["name"]: container for container in old.get("containers", ())}
    for container in new.get("containers", ()):
        yield from _container_transitions(known.get(container["name"]), container)
    if new.get("phase") == "Failed" and old.get("phase") != "Failed":
        evicted = new.get("reason") == "Evicted"
        yield Transition(
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


def _readiness(before: Resource | None, after: Resource) -> Iterator[Transition]:
    ready, was_ready = _condition(after, "Ready"), _condition(before, "Ready")
    if ready is None or (was_ready is not None and was_ready.get("status") == ready.get("status")):
        return
    since = ready.get("since")
    if ready.get("status") == "True":
        yield Transition(
            type="pod.ready", key=f"ready/{since}", time=since, severity=Severity.INFO,
            data=_readiness_data(was_ready, after, since),
        )  # fmt: skip
    elif was_ready is not None and was_ready.get("status") == "True":
        # A pod that is deleted or completes becomes unready as well, which is no problem.
        if after.state.get("deleted") or after.status == "Completed":
            return
        yield Transition(
            type="pod.unready", key=f"unready/{since}", time=since, severity=Severity.WARN,
            data={
                "reason": ready.get("reason") or after.status,
                "message": ready.get("message", ""),
                "status": after.status,
            },
        )  # fmt: skip


def _readiness_data(
    was_ready: Mapping[str, Any] | None, after: Resource, since: Any
) -> dict[str, Any]:
    created = after.state.get("created")
    data: dict[str, Any] = {"node": after.state.get("node", "")}
    if isinstance(since, int) and isinstance(created, int) and _is_first(was_ready, after):
        data["seconds_after_creation"] = max(0, (since - created) // SECOND)
    return data


def _is_first(was_ready: Mapping[str, Any] | None, after: Resource) -> bool:
    """Whether a pod has become ready for the first time, as far as its state tells.

    A pod that was never ready is unready since before its containers started.
    """
    if after.state.get("restarts") != 0:
        return False
    unready_since = None if was_ready is None else was_ready.get("since")
    starts = [
        container["since"]
        for container in after.state.get("containers", ())
        if isinstance(container.get("since"), int)
    ]
    return not (isinstance(unready_since, int) and starts and unready_since > max(starts))


def _container_transitions(
    old: Mapping[str, Any] | None, new: Mapping[str, Any]
) -> Iterator[Transition]:
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
        yield Transition(
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
        yield Transition(
            type="pod.restarted", key=f"{name}/restart/{count}",
            time=(new.get("since") if new.get("state") == "Running" else None)
            or last.get("finished"),
            severity=Severity.WARN, data=data,
        )  # fmt: skip


def workload_transitions(before: Resource | None, after: Resource) -> Iterator[Transition]:
    """A rollout started, finished or stalled."""
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
        # A new one: its first rollout started with it.
        if rollout != COMPLETE and new.get("created", 0) >= now() - RECENT:
            yield Transition(
                type="rollout.started", key=f"rollout/{revision}/started", time=new.get("created"),
                severity=Severity.INFO, data=data,
            )  # fmt: skip
        return
    is_new_revision = old.get("revision") != revision
    if is_new_revision:
        earlier = {"from_version": old["version"]} if old.get("version") else {}
        # The first revision may follow the object by a moment.
        is_first = not old.get("revision")
        yield Transition(
            type="rollout.started",
            key=f"rollout/{revision}/started" if is_first else f"{key}/started",
            time=None,
            severity=Severity.INFO,
            data={**data, **earlier},
        )
    if old.get("rollout") == rollout and not is_new_revision:
        return
    if rollout == COMPLETE and ROLLOUT_OF in new:
        yield Transition(
            type="rollout.finished", key=f"{key}/finished", time=None, severity=Severity.INFO,
            data=data,
        )  # fmt: skip
    elif rollout == STALLED:
        yield Transition(
            type="rollout.stalled", key=f"{key}/stalled", time=None,
            severity=Severity.ERROR,
            data={"reason": "ProgressDeadlineExceeded", "message": new.get("message", ""), **data},
        )  # fmt: skip


def job_transitions(before: Resource | None, after: Resource) -> Iterator[Transition]:
    """A job completed or failed."""
    if after.status not in ("Complete", "Failed"):
        return
    if before is not None and before.status == after.status:
        return
    has_completed = after.status == "Complete"
    yield Transition(
        type="job.completed" if has_completed else "job.failed", key=after.status.lower(),
        time=after.state.get("finished") or _latest(after.state),
        severity=Severity.INFO if has_completed else Severity.ERROR,
        data={
            "message": after.state.get("message", ""),
            "succeeded": after.state.get("succeeded", 0),
            "failed": after.state.get("failed", 0),
        },
    )  # fmt: skip


def node_transitions(before: Resource | None, after: Resource) -> Iterator[Transition]:
    """A node became ready or not ready, or came under pressure."""
    for new in after.state.get("conditions", ()):
        old = _condition(before, new["type"])
        if old is not None and old.get("status") == new.get("status"):
            continue
        since = new.get("since")
        reason = {"reason": new.get("reason", ""), "message": new.get("message", "")}
        if new["type"] == "Ready":
            is_ready = new.get("status") == "True"
            yield Transition(
                type="node.ready" if is_ready else "node.not_ready",
                key=f"{'ready' if is_ready else 'not_ready'}/{since}", time=since,
                severity=Severity.INFO if is_ready else Severity.ERROR, data=reason,
            )  # fmt: skip
        elif is_pressure(new["type"], new.get("status", "")):
            yield Transition(
                type="node.pressure", key=f"{new['type']}/{since}", time=since,
                severity=Severity.WARN, data={**reason, "condition": new["type"]},
            )  # fmt: skip


def certificate_transitions(before: Resource | None, after: Resource) -> Iterator[Transition]:
    """A certificate comes near its end without being renewed, or expires."""
    state = after.state
    expires = state.get("expires")
    if expires is None or (before is not None and before.status == after.status):
        return
    data = {"names": state.get("names", ""), "expires_at": expires}
    if after.status == "Expires soon":
        yield Transition(
            type="certificate.expires_soon", key=f"soon/{expires}",
            time=expires_soon_at(expires, state.get("issued"), state.get("renewal")),
            severity=Severity.WARN, data=data,
        )  # fmt: skip
    elif after.status == "Expired":
        yield Transition(
            type="certificate.expired", key=f"expired/{expires}", time=expires,
            severity=Severity.ERROR, data=data,
        )  # fmt: skip


FINDERS: Final = {
    "kubernetes.pod": pod_transitions,
    "kubernetes.deployment": workload_transitions,
    "kubernetes.statefulset": workload_transitions,
    "kubernetes.daemonset": workload_transitions,
    "kubernetes.job": job_transitions,
    "kubernetes.node": node_transitions,
    "kubernetes.certificate": certificate_transitions,
}
"""By the kind of the resource."""

LASTING: Final = frozenset(("certificate.expires_soon", "certificate.expired", "node.not_ready"))
"""Transitions that are reported whatever their age, because what they report still holds."""


def make_events(
    before: Resource | None, after: Resource, *, subject: str, correlation: str, source: str
) -> Iterable[Event]:
    """The events of a change; of an object that is new here, only recent ones."""
    find_transitions = FINDERS.get(after.kind)
    if find_transitions is None:
        return
    present = now()
    for transition in find_transitions(before, after):
        is_old = transition.time is None or transition.time < present - RECENT
        if before is None and is_old and transition.type not in LASTING:
            continue
        when = transition.time if transition.time is not None else present
        yield Event(
            id=f"{after.state.get('uid', subject)}/{transition.key}",
            source=source,
            type=f"kubernetes.{transition.type}",
            subject=subject,
            time=when,
            severity=transition.severity,
            correlation=correlation,
            attributes=scope_attributes(after.namespace, after.state.get("labels", {})),
            data={
                name: value for name, value in transition.data.items() if value not in (None, "")
            },
        )


def scope_attributes(namespace: str, labels: Mapping[str, str] = {}) -> dict[str, str]:
    """The attributes of an event that decide which viewers may see it."""
    joined = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return {name: text for name, text in (("namespace", namespace), ("labels", joined)) if text}


def _condition(resource: Resource | None, kind: str) -> Mapping[str, Any] | None:
    if resource is None:
        return None
    conditions: Iterable[Mapping[str, Any]] = resource.state.get("conditions", ())
    return next((row for row in conditions if row.get("type") == kind), None)


def _latest(state: Mapping[str, Any]) -> int | None:
    """The newest time in the object itself."""
    times = [
        row["since"]
        for part in ("containers", "conditions")
        for row in state.get(part, ())
        if isinstance(row.get("since"), int)
    ]
    return max(times, default=None)
