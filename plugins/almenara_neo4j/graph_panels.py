"""The panels and pages of graphs: the drawing, its nodes as a table, and one node."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from almenara.hookspecs import (
    DataView,
    EventQuery,
    EventsPanel,
    Filter,
    Page,
    Panel,
    PanelExport,
    ResourceQuery,
    StatusPanel,
    TemplatePanel,
)
from almenara.signals import Event
from almenara_neo4j.drawing import (
    MAX_HOPS,
    NO_LOOKUPS,
    Lookups,
    find_centre,
    find_selection,
    prepare_graph,
)
from almenara_neo4j.graph_lookup import make_lookups
from almenara_neo4j.kinds import GRAPH, NODE
from almenara_neo4j.settings import Neo4jSettings

HOPS: Final = Filter(
    name="hops", label="Hops", hint="1",
    choices=tuple(str(number) for number in range(1, MAX_HOPS + 1)),
)  # fmt: skip
EXPORTS: Final = (
    PanelExport(name="svg", title="SVG", template="neo4j_graph.svg", media_type="image/svg+xml"),
    PanelExport(
        name="graphml", title="GraphML", template="neo4j_graph.graphml",
        media_type="application/graphml+xml",
    ),
)  # fmt: skip
MAX_ROWS: Final = 200
"""Nodes of the table."""
MAX_NEIGHBOURS: Final = 8
"""Neighbours of a node that a row names."""
RELATED_EVENTS: Final = 30


def list_graph_panels(settings: Neo4jSettings) -> Sequence[Panel]:
    """The panels of graphs; none without a graph."""
    if not settings.graphs:
        return []
    filters, lookups = list_filters(settings), make_lookups(settings)
    about_node: tuple[str | Filter, ...] = ("namespace", "name", *list_inputs(settings))
    draw = partial(prepare_graph, lookups=lookups)
    return [
        StatusPanel(
            name="graphs", title="Graphs of Neo4j", query=ResourceQuery(kind=GRAPH), width=6,
            on_overview=True, link="graph",
        ),
        TemplatePanel(
            name="graph-drawing", title="Graph", template="neo4j_graph.html", width=12,
            query=ResourceQuery(kind="neo4j.*"), prepare=draw, refresh=5.0,
            filters=filters, exports=EXPORTS, empty="The graph has no nodes.",
        ),
        TemplatePanel(
            name="graph-nodes", title="Nodes", template="neo4j_nodes.html", width=12,
            query=ResourceQuery(kind="neo4j.*"), refresh=10.0, filters=filters,
            prepare=partial(prepare_nodes, lookups=lookups), height=8,
            empty="The graph has no nodes.",
        ),
        EventsPanel(
            name="graph-changes", title="Changes of nodes", width=12,
            query=EventQuery(filter={"type": f"{GRAPH}.>"}, limit=30),
            filters=["subject"], empty="No node has changed since the graph was first read.",
        ),
        TemplatePanel(
            name="node-facts", title="Node", template="neo4j_node.html", width=4,
            query=ResourceQuery(kind="neo4j.*"), prepare=partial(prepare_node, lookups=lookups),
            filters=about_node, empty="No such node is drawn.",
        ),
        TemplatePanel(
            name="node-graph", title="Neighbours", template="neo4j_graph.html", width=8,
            query=ResourceQuery(kind="neo4j.*"), prepare=draw, refresh=5.0,
            filters=(*about_node, HOPS), exports=EXPORTS, empty="No such node is drawn.",
        ),
        TemplatePanel(
            name="node-events", title="Related events", template="neo4j_node_events.html",
            width=12, query=ResourceQuery(kind=NODE), refresh=5.0,
            prepare=partial(prepare_node_events, lookups=lookups),
            filters=about_node,
            empty="No event has the key of this node as its subject or correlation.",
        ),
    ]  # fmt: skip


def list_graph_pages(settings: Neo4jSettings) -> Sequence[Page]:
    """The page of graphs, and the one about a node."""
    if not settings.graphs:
        return []
    return [
        Page(
            name="graph", title="Neo4j graph", navigation=True, filters=list_filters(settings),
            panels=["graph-drawing", "graph-nodes", "graph-changes"],
        ),
        Page(
            name="node", title="Node", filters=[HOPS],
            panels=["node-facts", "node-graph", "node-events"],
        ),
    ]  # fmt: skip


def list_filters(settings: Neo4jSettings) -> list[Filter]:
    """The filters of graphs: those of every graph, and the parameters of queries."""
    return [
        make_graph_filter(settings), Filter(name="node", label="Node", hint="key or caption"), HOPS,
        Filter(name="label", label="Label"), Filter(name="text", label="Search"),
        *list_inputs(settings),
    ]  # fmt: skip


def list_inputs(settings: Neo4jSettings) -> list[Filter]:
    """The filters that are parameters of queries."""
    inputs = {
        name: str(graph.parameters[name]) for graph in settings.graphs for name in graph.inputs
    }
    return [Filter(name=name, label=name, hint=default) for name, default in inputs.items()]


def make_graph_filter(settings: Neo4jSettings) -> Filter:
    """The filter of the graph: a list of names."""
    names = tuple(graph.name for graph in settings.graphs)
    return Filter(name="namespace", label="Graph", choices=names, hint=names[0])


async def prepare_nodes(
    data: DataView, filters: Mapping[str, str], lookups: Lookups = NO_LOOKUPS
) -> Mapping[str, Any]:
    """The nodes that the drawing shows as rows, with their neighbours."""
    values = dict(await prepare_graph(data, filters, lookups))
    captions = {node["id"]: node for node in values["nodes"]}
    neighbours: dict[str, list[dict[str, Any]]] = {}
    for edge in values.get("edges", ()):
        start, end = captions[edge["start"]], captions[edge["end"]]
        text = f"{edge['type']} to"
        neighbours.setdefault(start["id"], []).append({"relationship": text, "node": end})
        text = f"{edge['type']} from"
        neighbours.setdefault(end["id"], []).append({"relationship": text, "node": start})
    nodes = [node for node in values["nodes"] if not values["is_searched"] or node["is_match"]]
    nodes.sort(key=lambda node: (node["color"], node["caption"], node["id"]))
    rows = [
        {
            "node": node,
            "neighbours": neighbours.get(node["id"], [])[:MAX_NEIGHBOURS],
            "more": max(len(neighbours.get(node["id"], [])) - MAX_NEIGHBOURS, 0),
        }
        for node in nodes
    ]
    return {"rows": rows[:MAX_ROWS], "more": max(len(rows) - MAX_ROWS, 0)}


async def prepare_node(
    data: DataView, filters: Mapping[str, str], lookups: Lookups = NO_LOOKUPS
) -> Mapping[str, Any]:
    """One node with its properties and neighbours."""
    values = await prepare_nodes(data, {**filters, "hops": "1"}, lookups)
    name = filters.get("name", "")
    row = next((row for row in values["rows"] if row["node"]["id"] == name), None)
    return {"row": row}


async def prepare_node_events(
    data: DataView, filters: Mapping[str, str], lookups: Lookups = NO_LOOKUPS
) -> Mapping[str, Any]:
    """The newest events whose subject or correlation is the key of a node, its own changes
    included."""
    part = await find_selection(data, filters, lookups)
    centre = find_centre(part.selection, filters.get("name", ""), filters.get("node", ""))
    node = part.selection.nodes.get(centre)
    key = str(node.state.get("key", "")) if node is not None else ""
    if not key:
        return {"key": "", "lines": []}
    events: dict[int, Event] = {}
    for name in ("subject", "correlation"):
        events.update(await data.events({name: key}, limit=RELATED_EVENTS))
    newest = sorted(events, reverse=True)[:RELATED_EVENTS]
    return {"key": key, "lines": [describe_event(number, events[number]) for number in newest]}


def describe_event(sequence: int, event: Event) -> dict[str, Any]:
    """An event as `ui.event` needs it."""
    return {
        "sequence": sequence,
        "severity": event.severity.name,
        "event": event,
        "summary": summarize(event),
    }


def summarize(event: Event) -> str:
    """What an event reports, from its payload."""
    data: Any = event.data
    if isinstance(data, msgspec.Raw):
        try:
            data = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            return ""
    if not isinstance(data, dict):
        return ""
    payload = data.get("payload")
    fields = {**data, **payload} if isinstance(payload, dict) else data
    names = ("error", "reason", "message", "title", "rationale", "to_state", "status")
    return next((str(fields[name])[:160] for name in names if fields.get(name)), "")
