"""The nodes and relationships in the answer to a query, within limits, and the query of labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara_neo4j.settings import GraphSettings
from almenara_neo4j.values import Node, Relationship

DEPTH: Final = 8
"""Levels of lists and maps in which nodes are searched."""


class Graph(msgspec.Struct):
    """A part of a graph: relationships are only those between its nodes."""

    nodes: dict[str, Node] = {}
    relationships: dict[str, Relationship] = {}
    is_partial: bool = False
    """Whether a limit was reached, so that there is more."""


def collect_graph(rows: Iterable[Mapping[str, Any]], settings: GraphSettings) -> Graph:
    """The graph in the rows of a query: each node, relationship and path in them, once."""
    graph = Graph()
    relationships: dict[str, Relationship] = {}
    for number, row in enumerate(rows, 1):
        if number >= settings.row_limit:
            graph.is_partial = True
        for entity in _entities(list(row.values()), DEPTH):
            if isinstance(entity, Relationship):
                relationships.setdefault(entity.id, entity)
            elif entity.id in graph.nodes:
                continue
            elif len(graph.nodes) < settings.node_limit:
                graph.nodes[entity.id] = entity
            else:
                graph.is_partial = True
    for relationship in relationships.values():
        if relationship.start in graph.nodes and relationship.end in graph.nodes:
            if len(graph.relationships) >= settings.relationship_limit:
                graph.is_partial = True
                break
            graph.relationships[relationship.id] = relationship
    return graph


def _entities(value: Any, depth: int) -> Iterable[Node | Relationship]:
    if isinstance(value, Node | Relationship):
        yield value
    elif depth and isinstance(value, list):
        for each in value:
            yield from _entities(each, depth - 1)
    elif depth and isinstance(value, dict):
        for each in value.values():
            yield from _entities(each, depth - 1)


def quote(name: str) -> str:
    """A name as Cypher has it."""
    return "`" + name.replace("`", "``") + "`"


def _has_label(variable: str, labels: Sequence[str]) -> str:
    return "(" + " OR ".join(f"{variable}:{quote(label)}" for label in labels) + ")"


def make_query(settings: GraphSettings) -> str:
    """The query of the graph: the configured one, or that of the newest nodes of the labels."""
    if settings.query:
        return settings.query
    order = f"n.{quote(settings.changed_property)}" if settings.changed_property else "id(n)"
    return (
        f"MATCH (n) WHERE {_has_label('n', settings.labels)}"
        f" WITH n ORDER BY {order} DESC LIMIT {settings.node_limit + 1}"
        " WITH collect(n) AS nodes UNWIND nodes AS n"
        " OPTIONAL MATCH (n)-[r]->(m) WHERE m IN nodes"
        " RETURN n, r"
    )


def make_summary_query(settings: GraphSettings) -> str:
    """The query of what changes with the graph: the number of nodes, and the newest change."""
    newest = f"max(n.{quote(settings.changed_property)})" if settings.changed_property else "null"
    nodes = _has_label("n", settings.labels)
    return (
        f"MATCH (n) WHERE {nodes} WITH count(n) AS nodes, {newest} AS changed"
        f" OPTIONAL MATCH (n)-[r]->(m) WHERE {nodes} AND {_has_label('m', settings.labels)}"
        " RETURN nodes, changed, count(r) AS relationships"
    )
