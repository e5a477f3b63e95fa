"""The nodes and relationships in the answer to a query, within limits."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from almenara_neo4j.settings import GraphSettings
from almenara_neo4j.values import Node, Relationship

DEPTH: Final = 8
"""Levels of lists and maps in which nodes are searched."""
MAX_ENTITIES: Final = 20_000
"""Nodes, and relationships, of an answer from which a part is chosen."""


class Graph(msgspec.Struct):
    """A part of a graph: relationships are only those between its nodes."""

    nodes: dict[str, Node] = {}
    relationships: dict[str, Relationship] = {}
    is_partial: bool = False
    """Whether a limit was reached, so that there is more."""


def collect_graph(
    rows: Iterable[Mapping[str, Any]], settings: GraphSettings, limit: int | None = None
) -> Graph:
    """The graph in the rows of a query: each node, relationship and path in them, once; `limit`
    replaces both limits of the settings."""
    graph = Graph()
    node_limit, relationship_limit = (
        limit or settings.node_limit,
        limit or (settings.relationship_limit),
    )
    relationships: dict[str, Relationship] = {}
    for number, row in enumerate(rows, 1):
        if number >= settings.row_limit:
            graph.is_partial = True
        for entity in _entities(list(row.values()), DEPTH):
            if isinstance(entity, Relationship):
                relationships.setdefault(entity.id, entity)
            elif entity.id in graph.nodes:
                continue
            elif len(graph.nodes) < node_limit:
                graph.nodes[entity.id] = entity
            else:
                graph.is_partial = True
    _add_relationships(graph, relationships.values(), relationship_limit)
    return graph


def _add_relationships(graph: Graph, relationships: Iterable[Relationship], limit: int) -> None:
    for relationship in relationships:
        if relationship.start in graph.nodes and relationship.end in graph.nodes:
            if len(graph.relationships) >= limit:
                graph.is_partial = True
                break
            graph.relationships[relationship.id] = relationship


def choose_part(
    graph: Graph, is_chosen: Callable[[Node], bool], hops: int, settings: GraphSettings
) -> Graph:
    """The chosen nodes of a graph and what is up to `hops` relationships away, within the limits.

    It is partial where a limit leaves out some of that.
    """
    neighbours: dict[str, list[str]] = {}
    for relationship in graph.relationships.values():
        neighbours.setdefault(relationship.start, []).append(relationship.end)
        neighbours.setdefault(relationship.end, []).append(relationship.start)
    reached = frontier = dict.fromkeys(key for key, node in graph.nodes.items() if is_chosen(node))
    for _ in range(hops):
        frontier = dict.fromkeys(
            each for node in frontier for each in neighbours.get(node, ()) if each not in reached
        )
        reached = {**reached, **frontier}
    part = Graph(
        nodes={key: graph.nodes[key] for key in list(reached)[: settings.node_limit]},
        is_partial=graph.is_partial or len(reached) > settings.node_limit,
    )
    _add_relationships(part, graph.relationships.values(), settings.relationship_limit)
    return part


def _entities(value: Any, depth: int) -> Iterable[Node | Relationship]:
    if isinstance(value, Node | Relationship):
        yield value
    elif depth and isinstance(value, list):
        for each in value:
            yield from _entities(each, depth - 1)
    elif depth and isinstance(value, dict):
        for each in value.values():
            yield from _entities(each, depth - 1)
