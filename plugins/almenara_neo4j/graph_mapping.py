"""Nodes and relationships as resources, and the events of their changes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from almenara.sdk import Changes
from almenara.signals import Event, Resource, Severity
from almenara_neo4j.kinds import (
    FAILING,
    GRAPH,
    NODE,
    OK,
    PARTIAL,
    PRESENT,
    RELATIONSHIP,
    REMOVED,
    severity_of,
)
from almenara_neo4j.layout import Point
from almenara_neo4j.settings import GraphSettings
from almenara_neo4j.values import Node, Relationship

MAX_PROPERTIES: Final = 20
MAX_TEXT: Final = 200
MAX_CAPTION: Final = 60
MAX_LABELS: Final = 10
MAX_EVENTS: Final = 50
"""Nodes of one reading that have an event of their own; of more, there is one event for all."""
POSITIONAL: Final = frozenset(("x", "y", "changed", "created", "position"))
"""Keys of the state that the node does not have in the database."""


def read_properties(properties: Mapping[str, Any], settings: GraphSettings) -> dict[str, Any]:
    """The properties of a node that are shown: scalars, and texts up to a bounded length.

    Lists, such as embeddings, are counted.
    """
    allowed = settings.properties
    shown: dict[str, Any] = {}
    for name in sorted(properties):
        if allowed is not None and name not in allowed:
            continue
        if len(shown) >= MAX_PROPERTIES:
            break
        shown[name[:100]] = _shorten(properties[name])
    return shown


def _shorten(value: Any) -> Any:
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, list):
        return f"list of {len(value)}"
    return _cut(str(value), MAX_TEXT)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "…"


def _first_text(properties: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        value = properties.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return " ".join(str(value).split())
    return ""


def map_node(settings: GraphSettings, node: Node) -> Resource:
    """The resource of a node, without its position."""
    allowed = settings.properties
    shown = {
        name: value for name, value in node.properties.items() if allowed is None or name in allowed
    }
    ordered = [label for label in settings.labels if label in node.labels]
    labels = [*ordered, *(label for label in node.labels if label not in ordered)]
    key = _first_text(shown, settings.key_properties)[:MAX_TEXT]
    caption = _first_text(shown, settings.caption_properties)
    return Resource(
        kind=NODE, namespace=settings.name, name=node.id[:200], status=PRESENT,
        severity=Severity.INFO,
        state={
            "caption": _cut(caption or key or ", ".join(labels[:1]) or node.id, MAX_CAPTION),
            "key": key or node.id[:200],
            "labels": [label[:100] for label in labels[:MAX_LABELS]],
            "properties": read_properties(node.properties, settings),
        },
    )  # fmt: skip


def add_position(resource: Resource, point: Point, extra: Mapping[str, Any]) -> Resource:
    """The resource of a node with its position, in whole units, and what is known of its past."""
    state = {
        **resource.state,
        "x": round(point[0]),
        "y": round(point[1]),
        **{key: value for key, value in extra.items() if value},
    }
    return Resource(
        kind=resource.kind, namespace=resource.namespace, name=resource.name,
        status=resource.status, severity=resource.severity, state=state,
    )  # fmt: skip


def content(resource: Resource) -> dict[str, Any]:
    """What a node has in the database."""
    return {key: value for key, value in resource.state.items() if key not in POSITIONAL}


def mark_removed(resource: Resource) -> Resource:
    """A node or relationship that was deleted and is drawn for some seconds more."""
    return Resource(
        kind=resource.kind, namespace=resource.namespace, name=resource.name, status=REMOVED,
        severity=Severity.INFO, state=resource.state,
    )  # fmt: skip


def map_relationship(settings: GraphSettings, relationship: Relationship) -> Resource:
    """The resource of a relationship."""
    return Resource(
        kind=RELATIONSHIP, namespace=settings.name, name=relationship.id[:200], status=PRESENT,
        severity=Severity.INFO,
        state={
            "type": relationship.type[:100],
            "start": relationship.start[:200],
            "end": relationship.end[:200],
        },
    )  # fmt: skip


def map_graph(settings: GraphSettings, state: Mapping[str, Any], *, is_partial: bool) -> Resource:
    """The resource of a graph that was read."""
    status = PARTIAL if is_partial else OK
    return Resource(
        kind=GRAPH, namespace=settings.name, name=settings.name, status=status,
        severity=severity_of(status),
        state={key: value for key, value in state.items() if value not in (None, "")},
    )  # fmt: skip


def find_graph_transitions(change: Changes) -> Iterable[Event]:
    """The events of a change of the status of a graph."""
    before, after = change.before, change.after
    if before is None or after is None or after.kind != GRAPH:
        return
    is_failing = after.status == FAILING
    if is_failing != (before.status == FAILING):
        reason = after.state.get("reason", FAILING) if is_failing else "the graph is read again"
        yield make_event(
            after, "failing" if is_failing else "recovered", after.severity, str(reason)
        )


def make_node_events(
    settings: GraphSettings, changes: Sequence[tuple[str, Resource]], at: int
) -> list[Event]:
    """The events of created, changed and removed nodes, given as (what happened, the node)."""
    if not settings.events or not changes:
        return []
    if len(changes) > MAX_EVENTS:
        numbers = [
            f"{sum(kind == each for each, _ in changes)} nodes {kind}"
            for kind in ("created", "changed", "removed")
        ]
        graph = Resource(kind=GRAPH, namespace=settings.name, name=settings.name, time=at)
        return [make_event(graph, "changed", Severity.INFO, ", ".join(numbers))]
    return [
        make_event(
            node,
            f"node.{kind}",
            Severity.INFO,
            f"{node.state['caption']} {kind}",
            at,
            node.state["key"],
        )
        for kind, node in changes
    ]


def make_event(
    resource: Resource,
    kind: str,
    severity: Severity,
    reason: str,
    at: int | None = None,
    subject: str = "",
) -> Event:
    """An event of a graph or of a node of it."""
    at = resource.time if at is None else at
    event_type = f"{GRAPH}.{kind}"
    labels = resource.state.get("labels")
    return Event(
        id=f"{resource.namespace}/{resource.name}/{event_type}/{at}",
        source=f"neo4j/{resource.namespace}",
        type=event_type,
        subject=subject or resource.name,
        time=at,
        severity=severity,
        correlation=f"neo4j/{resource.namespace}",
        attributes={"namespace": resource.namespace},
        data={"reason": reason, **({"labels": ", ".join(labels)} if labels else {})},
    )
