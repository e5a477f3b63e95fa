"""What a cluster says, compared with what it said before: signals, each of them once.

No I/O happens here. An event's id is made of the run of a job (its id and when it was submitted)
and of what happened to it, so that telling twice, after a restart of Almenara or of Ray's head, is
the same event.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.sdk import monotonic, now
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara_ray.answers import (
    Application,
    Job,
    Node,
    Status,
    Version,
)
from almenara_ray.durations import alike
from almenara_ray.jobs import LOST, Jobs, Known, Transition, reason_of

JOB: Final = "ray.job"
CLUSTER: Final = "ray.cluster"
NODE: Final = "ray.node"
APPLICATION: Final = "ray.application"
ENTRYPOINT: Final = "ray.entrypoint"
ENDS: Final = ("succeeded", "failed", "stopped", "lost")
"""What can happen to a job last."""
SEVERITIES: Final[Mapping[str, Severity]] = {
    "FAILED": Severity.ERROR,
    LOST: Severity.WARN,
    "STOPPED": Severity.INFO,
}
DEAD_SHOWN: Final = 600.0
CALM: Final = 60.0
"""Seconds without further spilling after which it counts as over."""
STALE: Final = 1
DOWN: Final = 2
"""Failures in a row."""
STATES: Final[Mapping[str, Severity]] = {
    "up": Severity.INFO,
    "partial": Severity.WARN,
    "stale": Severity.WARN,
    "down": Severity.ERROR,
}
EXPECTED: Final = ("expected termination", "terminated due to idle")
"""How Ray's reasons for the end of a node begin where somebody wanted it."""


class Cluster:
    """The state of one cluster, brought up to date by each answer."""

    def __init__(
        self, name: str, known: Known, *, pending_after: float = 60.0, finished: int = 100
    ) -> None:
        self.name, self.known = name, known
        self.jobs = Jobs(known, pending_after=pending_after, finished=finished)
        self.version = Version()
        self.nodes: dict[str, Node] = {}
        self.use = Status()
        self.actors: dict[str, int] = {}
        self.tasks: dict[str, int] = {}
        self.applications: list[Application] = []
        self.lacking: dict[str, str] = {}
        """What could not be read of a cluster that answers, and why."""
        self.failures = 0
        self.reason = ""
        self.address = ""
        self.simulated = False
        self._answered = 0
        self._shaped = False
        self.earlier: set[tuple[str, str]] = set()
        """Kind and name of what an earlier run told of, and nobody has told as gone."""
        self._told: dict[tuple[str, str], Resource] = {}
        self._dead: dict[str, float] = {}
        self._spilled: dict[str, float] = {}
        self._spilling: dict[str, float] = {}

    @property
    def source(self) -> str:
        return f"ray/{self.name}"

    def told(self, transitions: Sequence[Transition]) -> list[Signal]:
        """The events of transitions, and the jobs as they are now."""
        found: list[Signal] = [self._event(it) for it in transitions]
        for it in transitions:
            seconds = it.job.seconds
            if it.what == "succeeded" and seconds is not None and it.job.entrypoint:
                found.append(
                    Sample(
                        kind=ENTRYPOINT, namespace=self.name, name=alike(it.job.entrypoint),
                        metric="duration", value=seconds, unit="s", time=it.time,
                    )
                )  # fmt: skip
        wanted: dict[tuple[str, str], Resource] = {}
        # The later run of an id that is used again is the one that is shown.
        current = [*self.jobs.finished.values(), *self.known.unfinished.values()]
        for job in sorted(current, key=lambda it: it.submitted):
            wanted[(JOB, job.id)] = self._resource(job)
        return found + self._changed(JOB, wanted)

    def record(self, job: Job) -> dict[str, Any]:
        """A job as it is shown, of now or of the past."""
        node = self.nodes.get(job.node_id)
        usual = self.known.durations.usual(job.entrypoint)
        return {
            "cluster": self.name,
            **msgspec.to_builtins(job),
            **({"usual": round(usual, 3)} if usual is not None else {}),
            **({"stuck": True} if job.key in self.known.stuck else {}),
            **({"seconds": job.seconds} if job.seconds is not None else {}),
            **({"node": node.name} if node is not None and node.name else {}),
        }

    def _resource(self, job: Job) -> Resource:
        state = self.record(job)
        return Resource(
            kind=JOB,
            namespace=self.name,
            name=job.id,
            status=job.status,
            severity=Severity.WARN
            if "stuck" in state
            else SEVERITIES.get(job.status, Severity.INFO),
            state={**state, **({"reason": it} if (it := reason_of(job)) else {})},
        )

    def _event(self, it: Transition) -> Event:
        data = self.record(it.job)
        if it.reason:
            data["reason"] = it.reason
        if it.log:
            data["log"] = it.log
        if it.log_note:
            data["log_note"] = it.log_note
        if it.what not in ("submitted", "running") and self._shaped:
            data["shape"] = self.shape()
        severity = (
            Severity.WARN if it.what == "pending" else SEVERITIES.get(it.job.status, Severity.INFO)
        )
        return Event(
            id=f"{it.job.key}/{it.what}",
            source=self.source,
            # Ends have origins of their own, so that those of one cluster are found by an index.
            origin=f"{self.source}/{it.what}" if it.what in ENDS else self.source,
            type=f"{JOB}.{it.what}",
            subject=it.job.id,
            time=it.time,
            severity=severity,
            correlation=correlation(self.name, it.job.id),
            data=data,
        )

    def shape(self) -> dict[str, Any]:
        """Nodes and use at this moment, in few words: what is kept with the end of a job."""
        alive = [it for it in self.nodes.values() if it.alive]
        return {
            "ray": self.version.ray,
            "nodes": [
                {
                    "name": it.name or it.id[:12],
                    "head": it.head,
                    "total": {
                        name: amount
                        for name, amount in it.total.items()
                        if name in ("CPU", "GPU", "memory", "object_store_memory")
                    },
                }
                for it in alive[:50]
            ],
            "count": len(alive),
            "dead": sum(1 for it in self.nodes.values() if not it.alive),
            "usage": {name: list(pair) for name, pair in self.use.usage.items()},
            "demand": sum(it.count for it in self.use.demand),
        }

    def started(self, version: Version, head: str) -> list[Signal]:
        """Which Ray answers, and an event where it is not the one from before."""
        known = self.known
        if version.ray:
            self.version = version
        session = version.session or known.session
        renamed = bool(known.session) and session != known.session
        moved = bool(known.head and head) and head != known.head
        if renamed:
            # Which node is its head is told by the next look at the nodes. What a new head knows
            # may have ended at any time: the address may be another cluster's by now.
            known.head, known.horizon, known.recent = "", 0, {}
        known.session, known.head = session, head or known.head
        if not renamed and not moved:
            return []
        self.nodes, self._dead, self._spilled, self._spilling = {}, {}, {}, {}
        self._shaped = False
        which = session if renamed else f"{session}/{head}"
        return [
            self._cluster_event(
                "restarted", which, Severity.WARN,
                {"reason": "its head was started anew", "ray": version.ray},
            )
        ]  # fmt: skip

    def shaped(self, nodes: Sequence[Node]) -> list[Signal]:
        """The nodes there are, and events of those that came and went."""
        before, first = self.nodes, not self._shaped
        self.nodes = {it.id: it for it in nodes}
        self._shaped = True
        found: list[Signal] = []
        for key, node in self.nodes.items():
            node.name = node.name or (before[key].name if key in before else "")
            earlier = before.get(key)
            if node.alive and earlier is None and not first:
                found.append(self._node_event("joined", node, Severity.INFO, ""))
            if not node.alive and earlier is not None and earlier.alive:
                found.append(self._gone(node))
            if not node.alive:
                # Those that died before we looked are not shown, unless they died just now.
                long_ago = -DEAD_SHOWN if earlier is None else 0.0
                self._dead.setdefault(key, monotonic() + long_ago)
            found.extend(self._spills(node))
        for key, node in before.items():
            if key not in self.nodes and node.alive:
                found.append(self._gone(node))
        wanted = {
            (NODE, it.id[:12]): self._node_resource(it)
            for it in self.nodes.values()
            if it.alive or monotonic() - self._dead.get(it.id, 0.0) < DEAD_SHOWN
        }
        found += self._changed(NODE, wanted)
        for it in self.nodes.values():
            if it.alive:
                found += _node_samples(self.name, it)
        return found

    def _gone(self, node: Node) -> Event:
        expected = node.reason.casefold().startswith(EXPECTED)
        reason = node.reason or "Ray does not say why"
        if expected:
            return self._node_event("left", node, Severity.INFO, reason)
        return self._node_event("lost", node, Severity.ERROR, reason)

    def _spills(self, node: Node) -> Iterable[Event]:
        if node.spilled is None:
            return
        before = self._spilled.get(node.id)
        self._spilled[node.id] = node.spilled
        if before is not None and node.spilled > before:
            if node.id not in self._spilling:
                yield self._node_event(
                    "spilling", node, Severity.WARN,
                    "its object store is full and writes objects to disk",
                    f"/{before:.0f}",
                )  # fmt: skip
            self._spilling[node.id] = monotonic()
        elif monotonic() - self._spilling.get(node.id, monotonic()) > CALM:
            del self._spilling[node.id]

    def served(self, applications: Sequence[Application]) -> list[Signal]:
        """The Serve applications, and events of those whose status changed."""
        before = {it.name: it for it in self.applications}
        self.applications = list(applications)
        found: list[Signal] = []
        for it in applications:
            earlier = before.get(it.name)
            if earlier is not None and earlier.status != it.status and it.status:
                moment = now()
                found.append(
                    Event(
                        id=f"{self.known.head}/{it.name}/{it.status}/{moment}",
                        source=self.source, origin=self.source,
                        type=f"{APPLICATION}.{it.status.lower()}", subject=it.name, time=moment,
                        severity=application_severity(it.status),
                        data={"cluster": self.name, "from": earlier.status, "reason": it.message},
                    )
                )  # fmt: skip
        wanted = {
            (APPLICATION, it.name): Resource(
                kind=APPLICATION, namespace=self.name, name=it.name, status=it.status,
                severity=application_severity(it.status), state=msgspec.to_builtins(it),
            )
            for it in applications
        }  # fmt: skip
        return found + self._changed(APPLICATION, wanted)

    def answered(self) -> list[Signal]:
        """It answers."""
        known = self.known
        self.failures, self.reason, self._answered = 0, "", now()
        found: list[Signal] = []
        if known.down_since:
            seconds = (now() - known.down_since) / 1_000_000
            found.append(
                self._cluster_event(
                    "up", f"{known.down_since}", Severity.INFO,
                    {"reason": f"it answers again after {seconds:.0f} s"},
                )
            )  # fmt: skip
            known.down_since = 0
        return found + self.resource()

    def failed(self, reason: str) -> list[Signal]:
        """It gave no answer that can be used."""
        self.failures += 1
        self.reason = reason
        found: list[Signal] = []
        if self.failures >= DOWN and not self.known.down_since:
            self.known.down_since = now()
            found.append(
                self._cluster_event(
                    "down", f"{self.known.down_since}", Severity.ERROR, {"reason": reason}
                )
            )
        return found + self.resource()

    def left(self) -> list[Signal]:
        """Nothing of it is there any more."""
        told, self._told = self._told, {}
        gone: list[Signal] = [
            msgspec.structs.replace(it, deleted=True, time=now()) for it in told.values()
        ]
        for kind in (JOB, NODE, APPLICATION, CLUSTER):
            gone += self._gone_since(kind, told)
        return gone

    @property
    def status(self) -> str:
        if self.known.down_since or self.failures >= DOWN:
            return "down"
        if self.failures >= STALE:
            return "stale"
        return "partial" if self.lacking else "up"

    def resource(self) -> list[Signal]:
        """The cluster as it is now, where that is news."""
        alive = [it for it in self.nodes.values() if it.alive]
        status = self.status
        lacking = "; ".join(f"{what}: {why}" for what, why in self.lacking.items())
        state: dict[str, Any] = {
            "ray": self.version.ray,
            "reason": self.reason or lacking,
            "nodes": len(alive),
            "dead": sum(1 for it in self.nodes.values() if not it.alive),
            "usage": {name: list(pair) for name, pair in self.use.usage.items()},
            "demand": [msgspec.to_builtins(it) for it in self.use.demand[:10]],
            "waiting": sum(it.count for it in self.use.demand),
            "starting": self.use.starting,
            "start_failures": self.use.failed,
            "autoscaler_error": self.use.error,
            "actors": self.actors,
            "tasks": self.tasks,
            "jobs": self.jobs.counts,
            "applications": {it.name: it.status for it in self.applications},
        }
        if status in ("stale", "down"):
            state["answered"] = self._answered
        if self.address:
            state["address"] = self.address
        if self.simulated:
            state["simulated"] = True
        it = Resource(
            kind=CLUSTER, name=self.name, status=status, severity=STATES[status], state=state
        )
        return self._news({(CLUSTER, self.name): it})

    def samples(self) -> list[Signal]:
        """The figures of the cluster."""
        alive = sum(1 for it in self.nodes.values() if it.alive)
        figures: dict[str, float] = {
            "nodes": alive,
            "waiting": sum(it.count for it in self.use.demand),
            "running": self.jobs.counts.get("RUNNING", 0),
            "pending": self.jobs.counts.get("PENDING", 0),
        }
        for metric, name in SHARES.items():
            used, total = self.use.usage.get(name, (0.0, 0.0))
            if total > 0:
                figures[metric] = used / total
        return [
            Sample(kind=CLUSTER, name=self.name, metric=metric, value=float(value))
            for metric, value in figures.items()
        ]

    def _node_resource(self, node: Node) -> Resource:
        status = "alive" if node.alive else "dead"
        if node.alive and node.id in self._spilling:
            status = "spilling"
        # What moves with every look is a sample; here it would be news each time.
        state = {
            "id": node.id,
            "host": node.name or node.id[:12],
            "head": node.head,
            "reason": node.reason,
            "total": node.total,
            "memory_total": node.memory_total,
            "gpus": [it["name"] for it in node.gpus],
        }
        severity = {"dead": Severity.ERROR, "spilling": Severity.WARN}.get(status, Severity.INFO)
        return Resource(
            kind=NODE, namespace=self.name, name=node.id[:12], status=status, severity=severity,
            state=state,
        )  # fmt: skip

    def _changed(self, kind: str, wanted: Mapping[tuple[str, str], Resource]) -> list[Signal]:
        found = self._news(wanted)
        for key in [it for it in self._told if it[0] == kind and it not in wanted]:
            before = self._told.pop(key)
            found.append(msgspec.structs.replace(before, deleted=True, time=now()))
        return found + self._gone_since(kind, wanted)

    def _gone_since(self, kind: str, there: Container[tuple[str, str]]) -> list[Signal]:
        """What an earlier run told of a kind and is not there any more."""
        earlier = {it for it in self.earlier if it[0] == kind}
        self.earlier -= earlier
        namespace = "" if kind == CLUSTER else self.name
        return [
            Resource(kind=kind, namespace=namespace, name=name, deleted=True)
            for _, name in sorted(earlier)
            if (kind, name) not in there
        ]

    def _news(self, wanted: Mapping[tuple[str, str], Resource]) -> list[Signal]:
        found: list[Signal] = []
        for key, it in wanted.items():
            before = self._told.get(key)
            if before is None or msgspec.structs.replace(it, time=before.time) != before:
                self._told[key] = it
                found.append(it)
        return found

    def _cluster_event(
        self, what: str, which: str, severity: Severity, data: Mapping[str, Any]
    ) -> Event:
        return Event(
            id=f"cluster/{what}/{which}", source=self.source, origin=self.source,
            type=f"{CLUSTER}.{what}", subject=self.name, time=now(), severity=severity,
            data={"cluster": self.name, **data},
        )  # fmt: skip

    def _node_event(
        self, what: str, node: Node, severity: Severity, reason: str, more: str = ""
    ) -> Event:
        return Event(
            id=f"node/{node.id}/{what}{more}", source=self.source, origin=self.source,
            type=f"{NODE}.{what}", subject=node.id[:12], time=now(), severity=severity,
            data={
                "cluster": self.name, "host": node.name or node.id[:12], "head": node.head,
                "total": node.total, "reason": reason,
            },
        )  # fmt: skip


SHARES: Final[Mapping[str, str]] = {
    "cpu": "CPU", "gpu": "GPU", "memory": "memory", "object_store": "object_store_memory",
}  # fmt: skip
"""Samples of a cluster by the resource whose share they are."""


def correlation(cluster: str, job: str) -> str:
    """What ties the events of a job together."""
    return f"ray/{cluster}/{job}"


def application_severity(status: str) -> Severity:
    """How much the status of a Serve application should worry."""
    return {
        "DEPLOY_FAILED": Severity.ERROR, "UNHEALTHY": Severity.ERROR, "DELETING": Severity.INFO,
    }.get(status, Severity.INFO)  # fmt: skip


def _node_samples(cluster: str, node: Node) -> list[Signal]:
    figures: dict[str, float] = {}
    if node.cpu is not None:
        figures["cpu"] = node.cpu
    if node.memory_used is not None and node.memory_total:
        figures["memory"] = node.memory_used / node.memory_total
    if node.object_used is not None and node.object_total:
        figures["object_store"] = node.object_used / node.object_total
    uses = [it["use"] for it in node.gpus if it["use"] is not None]
    if uses:
        figures["gpu"] = sum(uses) / len(uses)
    if node.disk is not None:
        figures["disk"] = node.disk
    return [
        Sample(kind=NODE, namespace=cluster, name=node.id[:12], metric=metric, value=value)
        for metric, value in figures.items()
    ]
