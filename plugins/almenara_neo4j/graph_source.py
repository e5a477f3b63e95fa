"""The source of one graph: reads it at its interval, lays it out and publishes what differs."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import HealthAggregator, Snapshots, every, mark_unknown, monotonic, now
from almenara.signals import Resource, Sample, Signal
from almenara_neo4j.errors import ServerError
from almenara_neo4j.graph import collect_graph
from almenara_neo4j.graph_mapping import find_graph_transitions, map_graph
from almenara_neo4j.graph_reader import GraphReader, Summary
from almenara_neo4j.graph_state import GraphState
from almenara_neo4j.kinds import FAILING, GRAPH, NODE, RELATIONSHIP, severity_of
from almenara_neo4j.layout import Layout
from almenara_neo4j.metrics import read_number
from almenara_neo4j.settings import DeploymentSettings, GraphSettings

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
        self._forget()

    def _forget(self) -> None:
        """Forget what an earlier run has read: another replica may have run since."""
        self._state = GraphState(self.settings)
        self._summary: Summary | None = None
        self._read_at = self._saved_at = 0.0
        self._last_answer = self._chosen_at = 0
        self._resource: Resource | None = None

    async def run(self, publish: Publish, report: SourceReport) -> None:
        """Read until cancelled."""
        health = HealthAggregator(report)
        self._forget()
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
            # Its nodes are the last known ones.
            failing = mark_unknown(
                before, str(error), self._last_answer or now(), status=FAILING,
                severity=severity_of(FAILING),
            )  # fmt: skip
            self._last_answer = self._last_answer or now()
            # The nodes are as they were, so that only the graph changes.
            return self._graphs.difference([failing])
        health.note(name, "")
        self._last_answer = now()
        if rows is not None:
            self._read_at, self._summary = monotonic(), summary
            chosen_at = self._reader.part.chosen_at if self._reader.part is not None else 0
            is_other_part, self._chosen_at = chosen_at != self._chosen_at, chosen_at
            graph = collect_graph(rows, self.settings)
            # A first layout of many nodes takes a second.
            await asyncio.to_thread(self._state.update, graph, now(), is_other_part=is_other_part)
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
            **self._describe_part(),
        }
        return map_graph(settings, state, is_partial=is_partial)

    def _describe_part(self) -> dict[str, Any]:
        part = self._reader.part
        if part is None:
            return {}
        order = "last changed" if self.settings.changed_property else "newest"
        return {"part": order, "seeds": len(part.seeds), "chosen": part.chosen_at}

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
