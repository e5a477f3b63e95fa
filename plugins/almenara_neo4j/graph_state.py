"""A graph as it was last read: the positions of its nodes, and what has changed since before."""

from typing import Final

from almenara.signals import Resource, Signal
from almenara.units import SECOND
from almenara_neo4j.graph import Graph
from almenara_neo4j.graph_mapping import (
    add_position,
    content,
    make_node_events,
    map_node,
    map_relationship,
    mark_removed,
)
from almenara_neo4j.layout import Layout
from almenara_neo4j.settings import GraphSettings

FADE: Final = 5 * SECOND
"""Microseconds for which what was removed is still drawn."""


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

    def update(self, graph: Graph, at: int, *, is_other_part: bool = False) -> None:
        """Accept what was read at a time in microseconds. Of another part than before, what it has
        is not new, and what it lacks is not removed."""
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
        is_comparable = not (self._is_first or is_other_part)
        for key, node in nodes.items():
            known = self._nodes.get(key)
            if known is None and is_comparable:
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
                if is_comparable:
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
