"""The state of one cluster, and the signals of each change to it.

No I/O happens here. The id of an event is made of the run of a job (its id and its time of
submission) and of what happened, so that publishing it again, after a restart of Almenara or of
Ray's head, is the same event.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import Context
from almenara.sdk import now
from almenara.signals import UNKNOWN, Event, Resource, Sample, Severity, Signal
from almenara.units import SECOND
from almenara_ray.durations import normalize_entrypoint
from almenara_ray.job_tracker import JobTracker, Transition, find_reason
from almenara_ray.kinds import (
    APPLICATION,
    APPLICATION_STATUSES,
    CLUSTER,
    CLUSTER_STATUSES,
    END_EVENTS,
    ENTRYPOINT,
    JOB,
    JOB_STATUSES,
    NODE,
    correlation_id,
)
from almenara_ray.models import Application, ClusterStatus, Job, Node, SavedState, Version
from almenara_ray.node_tracker import NodeTracker
from almenara_ray.published_resources import PARTS, PublishedResources
from almenara_ray.text import find_error

STALE_AFTER: Final = 1
DOWN_AFTER: Final = 2
"""Failed requests in a row."""
PROOF_LIMIT: Final = 4 * SECOND
"""Microseconds without an answer after which a first failure leaves nothing of the cluster known: a
second one that times out as well would come too late."""
DEMAND_LIMIT: Final = 10
SNAPSHOT_NODE_LIMIT: Final = 50
SNAPSHOT_RESOURCES: Final = ("CPU", "GPU", "memory", "object_store_memory")
SHARES: Final[Mapping[str, str]] = {
    "cpu": "CPU",
    "gpu": "GPU",
    "memory": "memory",
    "object_store": "object_store_memory",
}
"""Metrics of a cluster by the resource whose used share they are."""


class ClusterState:
    """The state of one cluster, updated from each answer of its dashboard."""

    def __init__(
        self,
        name: str,
        saved: SavedState,
        *,
        pending_after: float = 60.0,
        finished_limit: int = 100,
    ) -> None:
        self.name, self.saved = name, saved
        self.source = f"ray/{name}"
        self.jobs = JobTracker(saved, pending_after=pending_after, finished_limit=finished_limit)
        self.nodes = NodeTracker(name, self.source)
        self.version = Version()
        self.status: ClusterStatus | None = None
        """Usage and demand; None while they are unknown, as are actors and tasks."""
        self.actors: dict[str, int] | None = None
        self.tasks: dict[str, int] | None = None
        self.applications: list[Application] = []
        self.has_applications = True
        """Whether the statuses of the Serve applications are those of the last turn."""
        self.failing_parts: dict[str, str] = {}
        """Endpoints that fail while the cluster answers, with their reasons."""
        self.failures = 0
        """Failed requests for the job list in a row."""
        self.reason = ""
        self.address = ""
        self.is_simulated = False
        self._last_answer = 0
        self.published = PublishedResources()

    async def restore(self, context: Context, source: str, *, is_shared: bool = False) -> None:
        """Load which resources earlier runs of a source have published; of a source that is shared
        by clusters those of this one."""
        await self.published.restore(context, source, self.name if is_shared else "")
        self.published.restore_jobs(
            [self._job_resource(job) for job in self.saved.unfinished.values()]
        )

    # Jobs

    def job_signals(self, transitions: Sequence[Transition]) -> list[Signal]:
        """Return the events of transitions, and the jobs that changed."""
        signals: list[Signal] = [self._job_event(transition) for transition in transitions]
        signals += _duration_samples(self.name, transitions)
        # Of an id that was used again, the later run is the one that is shown.
        current = [*self.jobs.finished.values(), *self.saved.unfinished.values()]
        by_id = {job.id: job for job in sorted(current, key=lambda job: job.submitted)}
        resources = [self._job_resource(job) for job in by_id.values()]
        return [*signals, *self.published.update(JOB, resources)]

    def describe_job(self, job: Job) -> dict[str, Any]:
        """Return a job as resources and events have it."""
        node = self.nodes.nodes.get(job.node_id)
        median = self.saved.durations.median(job.entrypoint)
        return {
            "cluster": self.name,
            **msgspec.to_builtins(job),
            **({"median": round(median, 3)} if median is not None else {}),
            **({"stuck": True} if job.key in self.saved.stuck else {}),
            **({"seconds": job.seconds} if job.seconds is not None else {}),
            **({"node": node.name} if node is not None and node.name else {}),
        }

    def _job_resource(self, job: Job) -> Resource:
        state = self.describe_job(job)
        if reason := find_reason(job):
            state["reason"] = reason
        severity = JOB_STATUSES.get(job.status, Severity.INFO)
        return Resource(
            kind=JOB, namespace=self.name, name=job.id, status=job.status,
            severity=Severity.WARN if "stuck" in state else severity, state=state,
        )  # fmt: skip

    def _job_event(self, transition: Transition) -> Event:
        job, event = transition.job, transition.event
        data = self.describe_job(job)
        for name in ("reason", "log", "log_note"):
            if value := getattr(transition, name):
                data[name] = value
        if event not in ("submitted", "running") and self.nodes.is_known:
            data["snapshot"] = self.snapshot()
        event_type = f"{JOB}.{event}"
        severity = JOB_STATUSES.get(job.status, Severity.INFO)
        return Event(
            id=f"{job.key}/{event}",
            source=self.source,
            # Ends have an origin of their own, by which an index finds those of one cluster.
            origin=f"{self.source}/{event}" if event_type in END_EVENTS.values() else self.source,
            type=event_type,
            subject=job.id,
            time=transition.time,
            severity=Severity.WARN if event == "pending" else severity,
            correlation=correlation_id(self.name, job.id),
            data=data,
        )

    def snapshot(self) -> dict[str, Any]:
        """Return nodes and usage in brief, as stored with the end of a job."""
        alive, status = self.nodes.alive, self.status or ClusterStatus()
        return {
            "ray": self.version.ray,
            "nodes": [
                {
                    "name": node.host,
                    "head": node.head,
                    "total": {
                        name: node.total[name] for name in SNAPSHOT_RESOURCES if name in node.total
                    },
                }
                for node in alive[:SNAPSHOT_NODE_LIMIT]
            ],
            "count": len(alive),
            "dead": self.nodes.dead_count,
            "usage": {name: list(amounts) for name, amounts in status.usage.items()},
            "demand": status.waiting,
        }

    # Head, nodes and Serve

    def update_version(self, version: Version, head: str) -> list[Signal]:
        """Note which Ray answers, and return an event where its head was restarted.

        `head` is the id of the head node; empty while unknown.
        """
        saved = self.saved
        if version.ray:
            self.version = version
        session = version.session or saved.session
        is_new_session = bool(saved.session) and session != saved.session
        is_new_head = bool(saved.head and head) and head != saved.head
        if is_new_session:
            # The next answer has the new head's node. What the new head lists may have ended at any
            # time: behind the same address there may be another cluster now.
            saved.head, saved.horizon, saved.recent = "", 0, {}
        saved.session, saved.head = session, head or saved.head
        if not is_new_session and not is_new_head:
            return []
        self.nodes.reset()
        return [
            self._event(
                "restarted", session if is_new_session else f"{session}/{head}", Severity.WARN,
                {"reason": "the head was restarted", "ray": version.ray},
            )
        ]  # fmt: skip

    def update_nodes(self, nodes: Sequence[Node]) -> list[Signal]:
        """Replace the nodes, and return what changed and what was measured."""
        events = self.nodes.update(nodes)
        changes = self.published.update(NODE, self.nodes.resources())
        return [*events, *changes, *self.nodes.samples()]

    def update_applications(self, applications: Sequence[Application]) -> list[Signal]:
        """Replace the Serve applications, and return what changed."""
        before = self.saved.applications
        self.applications, self.has_applications = list(applications), True
        events = [
            make_application_event(self, application, before.get(application.name, ""))
            for application in applications
            if _is_new_status(application, before.get(application.name, ""))
        ]
        resources = [
            Resource(
                kind=APPLICATION, namespace=self.name, name=application.name,
                status=application.status, state=msgspec.to_builtins(application),
                severity=APPLICATION_STATUSES.get(application.status, Severity.INFO),
            )
            for application in applications
        ]  # fmt: skip
        return [*events, *self.published.update(APPLICATION, resources)]

    def note_published(self) -> None:
        """Remember, after their events are durable, which statuses were published."""
        self.saved.applications = {
            application.name: application.status for application in self.applications
        }

    # The cluster

    def record_answer(self) -> list[Signal]:
        """Note that the dashboard answered, and return what changed."""
        saved = self.saved
        self.failures, self.reason, self._last_answer = 0, "", now()
        events: list[Signal] = []
        if saved.down_since:
            seconds = (now() - saved.down_since) / SECOND
            reason = {"reason": f"it answers again after {seconds:.0f} s"}
            events.append(self._event("up", f"{saved.down_since}", Severity.INFO, reason))
            saved.down_since = 0
        return [*events, *self.cluster_signals()]

    def record_failure(self, reason: str) -> list[Signal]:
        """Note that the dashboard gave no usable answer, and return what changed."""
        self.failures += 1
        self.reason = reason
        events: list[Signal] = []
        if self.failures >= DOWN_AFTER and not self.saved.down_since:
            self.saved.down_since = now()
            events.append(
                self._event("down", f"{self.saved.down_since}", Severity.ERROR, {"reason": reason})
            )
        signals = [*events, *self.cluster_signals()]
        if self.health == "down" or now() - self._last_answer > PROOF_LIMIT:
            why = f"cluster {self.name} does not answer"
            for kind in PARTS:
                signals += self.published.mark_unknown(kind, why)
        return signals

    def mark_unknown(self, kind: str, reason: str) -> Sequence[Signal]:
        """Return the resources of a part that cannot be read, as unknown."""
        if kind == JOB:
            self.jobs.is_current = False
        elif kind == NODE:
            self.nodes.is_current = False
        elif kind == APPLICATION:
            self.has_applications = False
        return self.published.mark_unknown(kind, reason)

    def delete_resources(self) -> list[Signal]:
        """Return the deletion of everything that was published of the cluster."""
        return self.published.delete_all()

    @property
    def health(self) -> str:
        """`up`, `partial`, `stale` or `down`, as in `CLUSTER_STATUSES`."""
        if self.saved.down_since or self.failures >= DOWN_AFTER:
            return "down"
        if self.failures >= STALE_AFTER:
            return "stale"
        return "partial" if self.failing_parts else "up"

    def cluster_signals(self) -> Sequence[Signal]:
        """Return the cluster's resource, where it changed."""
        health, status = self.health, self.status
        # A part that cannot be read is None, which is unknown: 0 would claim that it was read.
        has_nodes, has_jobs = self.nodes.is_current, self.jobs.is_current
        parts = "; ".join(f"{part}: {reason}" for part, reason in self.failing_parts.items())
        state: dict[str, Any] = {
            "ray": self.version.ray,
            "reason": self.reason or parts,
            "nodes": len(self.nodes.alive) if has_nodes else None,
            "dead": self.nodes.dead_count if has_nodes else None,
            **_describe_status(status),
            "actors": self.actors,
            "tasks": self.tasks,
            "jobs": self.jobs.counts if has_jobs else None,
            "applications": {
                application.name: application.status if self.has_applications else UNKNOWN
                for application in self.applications
            },
        }
        if health in ("stale", "down"):
            state["last_answer"] = self._last_answer
        if not has_jobs or health in ("stale", "down"):
            state["jobs_known_at"] = self.published.known_at(JOB)
        if self.address:
            state["address"] = self.address
        if self.is_simulated:
            state["simulated"] = True
        resource = Resource(
            kind=CLUSTER, name=self.name, status=health, severity=CLUSTER_STATUSES[health],
            state=state,
        )  # fmt: skip
        return self.published.update(CLUSTER, [resource])

    def samples(self) -> list[Signal]:
        """Return the measurements of the cluster, of the parts that could be read."""
        measurements: dict[str, float] = {}
        if self.nodes.is_current:
            measurements["nodes"] = len(self.nodes.alive)
        if self.jobs.is_current:
            measurements["running"] = self.jobs.counts.get("RUNNING", 0)
            measurements["pending"] = self.jobs.counts.get("PENDING", 0)
        if self.status is not None:
            if self.status.waiting is not None:
                measurements["waiting"] = self.status.waiting
            measurements |= _measure_shares(self.status)
        return [
            Sample(kind=CLUSTER, name=self.name, metric=metric, value=float(value))
            for metric, value in measurements.items()
        ]

    def _event(
        self, name: str, occurrence: str, severity: Severity, data: Mapping[str, Any]
    ) -> Event:
        return Event(
            id=f"cluster/{name}/{occurrence}", source=self.source, origin=self.source,
            type=f"{CLUSTER}.{name}", subject=self.name, time=now(), severity=severity,
            data={"cluster": self.name, **data},
        )  # fmt: skip


def make_application_event(state: ClusterState, application: Application, before: str) -> Event:
    """Return the event of an application whose status was `before`."""
    moment = now()
    return Event(
        id=f"{state.saved.head}/{application.name}/{application.status}/{moment}",
        source=state.source,
        origin=state.source,
        type=f"{APPLICATION}.{application.status.lower()}",
        subject=application.name,
        time=moment,
        severity=APPLICATION_STATUSES.get(application.status, Severity.INFO),
        data={
            "cluster": state.name,
            "from": before,
            "reason": find_error(application.message) or application.message,
        },
    )


def _is_new_status(application: Application, before: str) -> bool:
    """Return whether a status is an event: a changed one, and a failure that is first seen."""
    if not before:
        return application.status in APPLICATION_STATUSES
    return bool(application.status) and application.status != before


def _describe_status(status: ClusterStatus | None) -> dict[str, Any]:
    if status is None:
        return {
            "usage": None, "demand": None, "waiting": None, "starting": None,
            "start_failures": None, "autoscaler_error": "",
        }  # fmt: skip
    return {
        "usage": {name: list(amounts) for name, amounts in status.usage.items()},
        "demand": status.demand
        and [msgspec.to_builtins(demand) for demand in status.demand[:DEMAND_LIMIT]],
        "waiting": status.waiting,
        "starting": status.starting,
        "start_failures": status.failed,
        "autoscaler_error": status.error,
    }


def _measure_shares(status: ClusterStatus) -> dict[str, float]:
    amounts = {metric: status.usage.get(name, (0.0, 0.0)) for metric, name in SHARES.items()}
    return {metric: used / total for metric, (used, total) in amounts.items() if total > 0}


def _duration_samples(cluster: str, transitions: Sequence[Transition]) -> Iterable[Signal]:
    for transition in transitions:
        job = transition.job
        if transition.event == "succeeded" and job.seconds is not None and job.entrypoint:
            yield Sample(
                kind=ENTRYPOINT, namespace=cluster, name=normalize_entrypoint(job.entrypoint),
                metric="duration", value=job.seconds, unit="s", time=transition.time,
            )  # fmt: skip
