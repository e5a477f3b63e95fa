"""Values of Neo4j as plain values: numbers, text, lists, and the nodes and relationships."""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import neo4j.graph
import neo4j.time

from almenara.signals import EPOCH, MICROSECOND

DEPTH: Final = 6
"""Levels of lists and maps that are read."""
MAX_ITEMS: Final = 10_000


class Node(msgspec.Struct, frozen=True):
    """A node of a graph."""

    id: str
    labels: tuple[str, ...]
    properties: Mapping[str, Any]


class Relationship(msgspec.Struct, frozen=True):
    """A relationship between two nodes, by their ids."""

    id: str
    type: str
    start: str
    end: str
    properties: Mapping[str, Any]


def to_plain(value: Any, depth: int = DEPTH) -> Any:
    """A value as the driver returns it, without types of the driver.

    Durations become seconds, times microseconds since the epoch where they have a time zone, paths
    the list of their parts. Integers beyond 64 bits do not occur.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if depth == 0:
        return "…"
    if isinstance(value, neo4j.graph.Node):
        return Node(value.element_id, tuple(sorted(value.labels)), _read_properties(value, depth))
    if isinstance(value, neo4j.graph.Relationship):
        # A node without properties is empty, and so false.
        start, end = value.start_node, value.end_node
        return Relationship(
            value.element_id, value.type, start.element_id if start is not None else "",
            end.element_id if end is not None else "", _read_properties(value, depth),
        )  # fmt: skip
    if isinstance(value, neo4j.graph.Path):
        return [to_plain(part, depth - 1) for part in (*value.nodes, *value.relationships)]
    if isinstance(value, neo4j.time.Duration):
        # A month has no length; 30 days are near enough for how long something has been running.
        days = value.months * 30 + value.days
        return days * 86_400 + value.seconds + value.nanoseconds / 1e9
    if isinstance(value, neo4j.time.DateTime) and value.tzinfo is not None:
        return (value.to_native() - EPOCH) // MICROSECOND
    if isinstance(value, Mapping):
        items = list(value.items())[:MAX_ITEMS]
        return {str(key): to_plain(each, depth - 1) for key, each in items}
    if isinstance(value, list | set | frozenset) or type(value) is tuple:
        return [to_plain(each, depth - 1) for each in list(value)[:MAX_ITEMS]]
    return str(value)


def _read_properties(entity: neo4j.graph.Entity, depth: int) -> dict[str, Any]:
    return {str(key): to_plain(value, depth - 1) for key, value in entity.items()}
