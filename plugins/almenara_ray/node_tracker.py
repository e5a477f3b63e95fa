"""The nodes of a cluster: events of those that join, leave, die or spill objects to disk."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from almenara.sdk import monotonic, now
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara_ray.kinds import NODE, NODE_STATUSES
from almenara_ray.models import Node

DEAD_VISIBLE: Final = 600.0
"""Seconds that a dead node stays among the resources."""
SPILLING_ENDS: Final = 60.0
"""Seconds without further spilling after which it counts as over."""
EXPECTED: Final = ("expected termination", "terminated due to idle")
"""How Ray's reasons for an intended end of a node start."""


class NodeTracker:
    """The nodes of one cluster, updated from each answer."""

    def __init__(self, cluster: str, source: str) -> None:
        self.cluster, self.source = cluster, source
        self.nodes: dict[str, Node] = {}
        self.is_known = False
        """Whether the nodes have been read since the head started."""
        self.is_current = False
        """Whether the last request for the nodes succeeded."""
        self._dead_since: dict[str, float] = {}
        self._spilled: dict[str, float] = {}
        """Bytes spilled at the last answer, by node id."""
        self._spilling_at: dict[str, float] = {}
        """When a node was last seen to spill, by node id."""

    @property
    def alive(self) -> list[Node]:
        """The nodes that are alive."""
        return [node for node in self.nodes.values() if node.alive]

    @property
    def dead_count(self) -> int:
        """How many of the listed nodes are dead."""
        return sum(not node.alive for node in self.nodes.values())

    def reset(self) -> None:
        """Forget all nodes: the head was restarted."""
        self.nodes, self._dead_since, self._spilled, self._spilling_at = {}, {}, {}, {}
        self.is_known = self.is_current = False

    def update(self, nodes: Sequence[Node]) -> list[Event]:
        """Replace the nodes, and return the events of those that changed."""
        previous, is_first = self.nodes, not self.is_known
        self.nodes = {node.id: node for node in nodes}
        self.is_known = self.is_current = True
        events: list[Event] = []
        for key, node in self.nodes.items():
            before = previous.get(key)
            node.name = node.name or (before.name if before is not None else "")
            if node.alive and before is None and not is_first:
                events.append(self._event("joined", node, Severity.INFO, ""))
            if not node.alive:
                if before is not None and before.alive:
                    events.append(self._end_event(node))
                # Nodes that had died before they were first listed are not shown.
                age = DEAD_VISIBLE if before is None else 0.0
                self._dead_since.setdefault(key, monotonic() - age)
            events += self._update_spilling(node)
        events += [
            self._end_event(node)
            for key, node in previous.items()
            if key not in self.nodes and node.alive
        ]
        return events

    def resources(self) -> list[Resource]:
        """Return the nodes that are alive or died recently."""
        return [
            self._resource(node)
            for node in self.nodes.values()
            if node.alive or monotonic() - self._dead_since.get(node.id, 0.0) < DEAD_VISIBLE
        ]

    def samples(self) -> list[Signal]:
        """Return the measurements of the nodes that are alive."""
        return [
            Sample(
                kind=NODE, namespace=self.cluster, name=node.short_id, metric=metric, value=value
            )
            for node in self.alive
            for metric, value in measure_node(node).items()
        ]

    def _resource(self, node: Node) -> Resource:
        status = "alive" if node.alive else "dead"
        if node.alive and node.id in self._spilling_at:
            status = "spilling"
        # Values that change with every answer are samples: here each would be a new resource state.
        state: dict[str, Any] = {
            "id": node.id,
            "host": node.host,
            "head": node.head,
            "reason": node.reason,
            "total": node.total,
            "memory_total": node.memory_total,
            "gpus": [gpu["name"] for gpu in node.gpus],
        }
        return Resource(
            kind=NODE, namespace=self.cluster, name=node.short_id, status=status,
            severity=NODE_STATUSES[status], state=state,
        )  # fmt: skip

    def _end_event(self, node: Node) -> Event:
        reason = node.reason or "Ray does not report why"
        if node.reason.casefold().startswith(EXPECTED):
            return self._event("left", node, Severity.INFO, reason)
        return self._event("lost", node, Severity.ERROR, reason)

    def _update_spilling(self, node: Node) -> Iterable[Event]:
        if node.spilled is None:
            return
        before = self._spilled.get(node.id)
        self._spilled[node.id] = node.spilled
        if before is not None and node.spilled > before:
            if node.id not in self._spilling_at:
                yield self._event(
                    "spilling", node, Severity.WARN,
                    "its object store is full and writes objects to disk",
                    # The amount distinguishes one period of spilling from the next.
                    occurrence=f"/{before:.0f}",
                )  # fmt: skip
            self._spilling_at[node.id] = monotonic()
        elif monotonic() - self._spilling_at.get(node.id, monotonic()) > SPILLING_ENDS:
            del self._spilling_at[node.id]

    def _event(
        self, name: str, node: Node, severity: Severity, reason: str, occurrence: str = ""
    ) -> Event:
        return Event(
            id=f"node/{node.id}/{name}{occurrence}", source=self.source, origin=self.source,
            type=f"{NODE}.{name}", subject=node.short_id, time=now(), severity=severity,
            data={
                "cluster": self.cluster, "host": node.host, "head": node.head,
                "total": node.total, "reason": reason,
            },
        )  # fmt: skip


def measure_node(node: Node) -> dict[str, float]:
    """Return the measurements of a node by metric, each a share."""
    measurements: dict[str, float | None] = {
        "cpu": node.cpu,
        "memory": _share(node.memory_used, node.memory_total),
        "object_store": _share(node.object_used, node.object_total),
        "disk": node.disk,
    }
    uses = [gpu["use"] for gpu in node.gpus if gpu["use"] is not None]
    if uses:
        measurements["gpu"] = sum(uses) / len(uses)
    return {metric: value for metric, value in measurements.items() if value is not None}


def _share(used: float | None, total: float | None) -> float | None:
    return used / total if used is not None and total else None
