"""The source of one graph: reads it at its interval, lays it out and publishes what differs."""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import HealthAggregator, Snapshots, every, monotonic, now
from almenara.signals import Resource, Sample, Signal
from almenara.units import SECOND
from almenara_neo4j.client import Row
from almenara_neo4j.errors import ServerError
from almenara_neo4j.graph import Graph, collect_graph
from almenara_neo4j.graph_mapping import (
    add_position,
    content,
    find_graph_transitions,
    make_node_events,
    map_graph,
    map_node,
    map_relationship,
    mark_failing,
    mark_removed,
)
from almenara_neo4j.graph_reader import GraphReader, Summary
from almenara_neo4j.kinds import GRAPH, NODE, RELATIONSHIP
from almenara_neo4j.layout import Layout
from almenara_neo4j.metrics import read_number
from almenara_neo4j.settings import DeploymentSettings, GraphSettings

FADE: Final = 5 * SECOND
"""Microseconds for which what was removed is still drawn."""
SAVE_INTERVAL: Final = 15.0
"""Seconds between two times that positions are saved, so that they survive a restart."""


class GraphSource:
    """Reads one graph. Each has a source of its own, so that a slow query delays nothing else."""

    def __init__(
        self,
        deployment: DeploymentSettings,
        settings: GraphSettings,
        context: Context,
    ) -> None:
        self.name = f"neo4j/graph/{settings.name}"
        self.settings, self.context = settings, context
        self._is_simulated = deployment.simulated is not None
        self._reader = GraphReader(deployment, settings)
        self._graphs, self._parts = Snapshots(find_graph_transitions), Snapshots()
        self._state = GraphState(settings)
        self._summary: Summary | None = None
        self._read_at = self._saved_at = 0.0
        self._last_answer = 0
        self._resource: Resource | None = None

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Read until cancelled."""
        health = HealthAggregator(report)
        await self._graphs.restore(self.context, self.name, [GRAPH])
        await self._parts.restore(self.context, self.name, [NODE, RELATIONSHIP])
        await self._load()
        try:
            async for _ in every(self.settings.every):
                await publish(await self._observe(health))
                await self._save()
        finally:
            await self._reader.close()

    async def _observe(self, health: HealthAggregator) -> Sequence[Signal]:
        name = self.settings.name
        is_due = monotonic() - self._read_at >= self.settings.reread_every
        try:
            rows, summary = await self._reader.read(None if is_due else self._summary)
        except ServerError as error:
            health.note(name, f"{name}: {error}")
            self._summary = None
            before = self._resource or Resource(kind=GRAPH, namespace=name, name=name)
            failing = mark_failing(before, str(error), self._last_answer or now())
            self._last_answer = self._last_answer or now()
            # The nodes are as they were, so that only the graph changes.
            return self._graphs.difference([failing])
        health.note(name, "")
        self._last_answer = now()
        if rows is not None:
            self._read_at, self._summary = monotonic(), summary
            # A first layout of many nodes takes a second.
            await asyncio.to_thread(self._state.update, rows, now())
        elif self._resource is not None and not self._state.is_fading:
            return [*self._graphs.difference([self._resource]), *self._measure(summary)]
        resources, events = self._state.take(now())
        self._resource = self._describe(summary)
        return [
            *self._graphs.difference([self._resource]),
            *self._parts.difference(resources),
            *events,
            *self._measure(summary),
        ]

    def _describe(self, summary: Summary) -> Resource:
        graph, settings = self._state.graph, self.settings
        totals = {
            key: int(value)
            for key in ("nodes", "relationships")
            if (value := read_number(summary.get(key))) is not None
        }
        nodes, relationships = len(graph.nodes), len(graph.relationships)
        is_partial = graph.is_partial or any(
            totals.get(key, drawn) > drawn
            for key, drawn in (("nodes", nodes), ("relationships", relationships))
        )
        state = {
            "nodes": nodes,
            "relationships": relationships,
            "total_nodes": totals.get("nodes"),
            "total_relationships": totals.get("relationships"),
            "labels": settings.labels if not settings.query else None,
            "simulated": self._is_simulated or None,
        }
        return map_graph(settings, state, is_partial=is_partial)

    def _measure(self, summary: Summary) -> list[Sample]:
        graph, name = self._state.graph, self.settings.name
        drawn = {"nodes": len(graph.nodes), "relationships": len(graph.relationships)}
        return [
            Sample(kind=GRAPH, namespace=name, name=name, metric=metric, value=value)
            for metric, number in drawn.items()
            if (value := read_number(summary.get(metric, number))) is not None
        ]

    @property
    def _key(self) -> str:
        return f"layout/{self.settings.name}"

    async def _load(self) -> None:
        saved = await self.context.load(self._key)
        if saved is not None:
            try:
                positions = msgspec.json.decode(saved, type=dict[str, tuple[float, float]])
            except msgspec.DecodeError:
                return
            self._state.layout = Layout(positions)

    async def _save(self) -> None:
        if self._state.has_moved and monotonic() - self._saved_at >= SAVE_INTERVAL:
            self._saved_at, self._state.has_moved = monotonic(), False
            positions = {
                node: (round(x), round(y)) for node, (x, y) in self._state.layout.positions.items()
            }
            await self.context.save(self._key, msgspec.json.encode(positions))


class GraphState:
    """A graph as it was last read, and what has happened to its nodes since it was first read."""

    def __init__(self, settings: GraphSettings) -> None:
        self.settings, self.graph, self.layout = settings, Graph(), Layout()
        self.has_moved = False
        self._nodes: dict[str, Resource] = {}
        self._relationships: dict[str, Resource] = {}
        self._marks: dict[str, dict[str, int]] = {}
        """When nodes were created and changed."""
        self._fading: dict[tuple[str, str, str], tuple[int, Resource]] = {}
        self._changes: list[tuple[str, Resource]] = []
        self._changed_at = 0
        self._is_first = True

    @property
    def is_fading(self) -> bool:
        """Whether something that was removed is still drawn."""
        return bool(self._fading)

    def update(self, rows: Sequence[Row], at: int) -> None:
        """Accept what was read at a time in microseconds."""
        graph = collect_graph(rows, self.settings)
        before = dict(self.layout.positions)
        self.layout.update(
            list(graph.nodes),
            [(each.start, each.end) for each in graph.relationships.values()],
        )
        self.has_moved = self.has_moved or before != self.layout.positions
        nodes = {key: map_node(self.settings, node) for key, node in graph.nodes.items()}
        # At a limit a node may be left out, or come in, without a change in the database.
        is_complete = not (graph.is_partial or self.graph.is_partial)
        self._changes, self._changed_at = [], at
        for key, node in nodes.items():
            known = self._nodes.get(key)
            if known is None and not self._is_first:
                self._marks[key] = {"created": at}
                if is_complete:
                    self._changes.append(("created", node))
            elif known is not None and content(known) != content(node):
                self._marks[key] = {"changed": at}
                self._changes.append(("changed", node))
        placed = {
            key: add_position(node, self.layout.positions[key], self._marks.get(key, {}))
            for key, node in nodes.items()
        }
        relationships = {
            key: map_relationship(self.settings, each) for key, each in graph.relationships.items()
        }
        for old, new, is_node in (
            (self._nodes, placed, True),
            (self._relationships, relationships, False),
        ):
            for key, resource in old.items():
                if key in new:
                    continue
                self._marks.pop(key, None)
                self._fading[resource.key] = at, mark_removed(resource)
                if is_node and is_complete:
                    self._changes.append(("removed", resource))
        for resource in (*placed.values(), *relationships.values()):
            self._fading.pop(resource.key, None)
        self.graph, self._nodes, self._relationships = graph, placed, relationships
        self._is_first = False

    def take(self, at: int) -> tuple[list[Resource], list[Signal]]:
        """The resources that are drawn, and the events since the last call."""
        self._fading = {
            key: (removed, resource)
            for key, (removed, resource) in self._fading.items()
            if at - removed < FADE
        }
        changes, self._changes = self._changes, []
        resources = [
            *self._nodes.values(),
            *self._relationships.values(),
            *(resource for _, resource in self._fading.values()),
        ]
        return resources, [*make_node_events(self.settings, changes, self._changed_at)]
