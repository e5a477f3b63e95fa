"""What the panel of a graph draws: the nodes that its filters select, with what links to them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import DataView, ResourceQuery
from almenara.sdk import now
from almenara.signals import Resource
from almenara.units import SECOND
from almenara_neo4j.captions import choose_font, place_below, place_captions
from almenara_neo4j.graph_lookup import GraphLookup, InvalidValueError, make_request
from almenara_neo4j.kinds import GRAPH, NODE, PARTIAL, RELATIONSHIP, REMOVED

Lookups = Mapping[str, GraphLookup]
"""What can be read of each graph beyond the stored part, by its name."""
NO_LOOKUPS: Final[Lookups] = {}
HIGHLIGHT: Final = 10 * SECOND
"""Microseconds for which a new or changed node is highlighted."""
MAX_HOPS: Final = 5
HOPS: Final = re.compile(r"[0-9]{1,9}")
MARGIN: Final = 70
"""Space around the nodes, for their captions."""
STEP: Final = 100
"""Sizes are multiples of it, so that one node more does not scale all others."""
COLORS: Final = 8
MANY: Final = 120
"""Nodes above which relationships are drawn as one path of each type."""
CAPTION: Final = 24


class Selection(msgspec.Struct):
    """Nodes and relationships by their ids."""

    nodes: dict[str, Resource]
    relationships: list[Resource]

    def neighbours(self) -> dict[str, set[str]]:
        """The neighbours of each node."""
        result: dict[str, set[str]] = {node: set() for node in self.nodes}
        for each in self.relationships:
            start, end = str(each.state.get("start")), str(each.state.get("end"))
            if start in result and end in result:
                result[start].add(end)
                result[end].add(start)
        return result

    def restrict(self, nodes: Iterable[str]) -> "Selection":
        """The part with only these nodes."""
        chosen = {node: self.nodes[node] for node in nodes if node in self.nodes}
        return Selection(
            chosen,
            [
                each
                for each in self.relationships
                if each.state.get("start") in chosen and each.state.get("end") in chosen
            ],
        )


class GraphPart(msgspec.Struct):
    """The part of a graph that filters are applied to."""

    graph: Resource | None
    selection: Selection
    is_requested: bool = False
    """Whether it was read for the filters, and is not the stored part."""
    is_cut: bool = False
    """Whether a limit leaves out something of what was requested."""
    problem: str = ""
    """Why what the filters request cannot be read."""


async def find_selection(data: DataView, filters: Mapping[str, str], lookups: Lookups) -> GraphPart:
    """The stored part of a graph or, where that may lack what the filters request, what the
    database has of it."""
    graph = find_graph(data, filters.get("namespace", ""))
    if graph is None:
        return GraphPart(None, Selection({}, []))
    part = GraphPart(graph, read_selection(data, graph.name))
    lookup = lookups.get(graph.name)
    if lookup is None:
        return part
    try:
        request = make_request(
            lookup.settings, filters, read_hops(filters.get("hops", "")),
            is_partial=graph.status == PARTIAL,
        )  # fmt: skip
    except InvalidValueError as error:
        return msgspec.structs.replace(part, problem=str(error))
    if request is None:
        return part
    if data.moment is not None:
        problem = "only the part that was drawn at this time is stored"
        return msgspec.structs.replace(part, problem=problem)
    answer = await lookup.read(request)
    if answer.problem:
        return msgspec.structs.replace(part, problem=answer.problem)
    visible = [data.redact(each) for each in answer.resources if data.permits(each)]
    nodes = [each for each in visible if each.kind == NODE]
    relationships = [each for each in visible if each.kind == RELATIONSHIP]
    return GraphPart(
        graph, select(nodes, relationships), is_requested=True, is_cut=answer.is_partial
    )


async def prepare_graph(
    data: DataView, filters: Mapping[str, str], lookups: Lookups = NO_LOOKUPS
) -> Mapping[str, Any]:
    """The values of the template of a graph.

    `namespace` is the graph; `label` and `text` narrow it, and `name` (the id of a node) or `node`
    (its key or caption) to what is at most `hops` relationships away.
    """
    part = await find_selection(data, filters, lookups)
    graph, whole = part.graph, part.selection
    if graph is None:
        return {"graph": None, "nodes": []}
    selection, centre, hops = whole, "", read_hops(filters.get("hops", ""))
    if filters.get("name") or filters.get("node"):
        centre = find_centre(whole, filters.get("name", ""), filters.get("node", ""))
        selection = whole.restrict(reach(whole, centre, hops))
    if label := filters.get("label"):
        selection = selection.restrict(
            node for node, resource in selection.nodes.items() if label in list_labels(resource)
        )
    text = filters.get("text", "").casefold().split()
    legend = make_legend(graph, whole)
    nodes = describe_nodes(selection, graph, legend, text, centre)
    entered = read_entered(filters, lookups.get(graph.name))
    for node in nodes:
        node["link"] |= entered
    points = {node["id"]: (node["x"], node["y"]) for node in nodes}
    edges = [describe_edge(each, points) for each in selection.relationships]
    is_large = len(nodes) > MANY
    x, y, width, height = frame(points.values())
    font = choose_font(width, height)
    captions = place_captions(nodes, font)
    for node in nodes:
        node["has_caption"] = node["id"] in captions
        node["caption_y"] = captions.get(node["id"], place_below(node, font))
    return {
        "graph": describe_graph(graph, len(whole.nodes)),
        "nodes": nodes,
        "edges": edges,
        "is_large": is_large,
        "paths": join_edges(edges) if is_large else {},
        "font": font,
        "view_box": f"{x} {y} {width} {height}",
        "legend": [
            {"label": label, "color": color, "count": count}
            for label, (color, count) in legend.items()
        ],
        "types": sorted({str(each.state.get("type", "")) for each in selection.relationships}),
        "is_searched": bool(text),
        "matches": sum(node["is_match"] for node in nodes),
        "centre": next((node for node in nodes if node["is_centre"]), None),
        "is_narrowed": bool(filters.get("name") or filters.get("node")),
        "hops": hops,
        "expand": expand_link(filters, hops) if centre and hops < MAX_HOPS else "",
        "shown": len(nodes),
        "is_requested": part.is_requested,
        "is_cut": part.is_cut,
        "problem": part.problem,
        "entered": entered,
        "covers_all": graph.name in lookups and data.moment is None,
    }


def read_entered(filters: Mapping[str, str], lookup: GraphLookup | None) -> dict[str, str]:
    """The parameters of the query in the address, which links keep."""
    names = lookup.settings.inputs if lookup is not None else []
    return {name: filters[name] for name in names if filters.get(name)}


def describe_nodes(
    selection: Selection,
    graph: Resource,
    legend: Mapping[str, tuple[int, int]],
    text: Sequence[str],
    centre: str,
) -> list[dict[str, Any]]:
    """The nodes as the templates need them."""
    moment, neighbours = now(), selection.neighbours()
    return [
        describe_node(resource, graph, legend, len(neighbours[node]), text, moment)
        | {"is_centre": node == centre}
        for node, resource in selection.nodes.items()
    ]


def find_graph(data: DataView, name: str) -> Resource | None:
    """The graph of a name, or the first one."""
    graphs = data.resources(ResourceQuery(kind=GRAPH, limit=1_000))
    return next((graph for graph in graphs if not name or graph.name == name), None)


def read_selection(data: DataView, graph: str) -> Selection:
    """All nodes and relationships of a graph."""
    nodes = data.resources(ResourceQuery(kind=NODE, namespace=graph, limit=4_000))
    relationships = data.resources(ResourceQuery(kind=RELATIONSHIP, namespace=graph, limit=10_000))
    return select(nodes, relationships)


def select(nodes: Iterable[Resource], relationships: Iterable[Resource]) -> Selection:
    """The nodes that have a position, and the relationships between them."""
    placed = {
        node.name: node
        for node in nodes
        if all(isinstance(node.state.get(axis), int | float) for axis in ("x", "y"))
    }
    return Selection(placed, list(relationships)).restrict(placed)


def read_hops(text: str) -> int:
    """The number of relationships that a part of a graph extends to."""
    return min(max(int(text), 1), MAX_HOPS) if HOPS.fullmatch(text) else 1


def find_centre(selection: Selection, name: str, text: str) -> str:
    """The id of a node, by its id or else by its key or caption; empty where none has it."""
    if name:
        return name if name in selection.nodes else ""
    expected = text.casefold()
    for fields in (("key",), ("caption",)):
        for node, resource in selection.nodes.items():
            if any(str(resource.state.get(field, "")).casefold() == expected for field in fields):
                return node
    return ""


def reach(selection: Selection, centre: str, hops: int) -> set[str]:
    """The nodes at most `hops` relationships away from one."""
    neighbours = selection.neighbours()
    reached = frontier = {centre} & neighbours.keys()
    for _ in range(hops):
        frontier = {each for node in frontier for each in neighbours[node]} - reached
        reached = reached | frontier
    return reached


def make_legend(graph: Resource, selection: Selection) -> dict[str, tuple[int, int]]:
    """Colour and number of nodes of each first label: the configured labels first, so that a
    colour stays when others come."""
    counts: dict[str, int] = {}
    for resource in selection.nodes.values():
        label = first_label(resource)
        counts[label] = counts.get(label, 0) + 1
    configured = list_labels(graph)
    labels = [*configured, *sorted(counts.keys() - set(configured))]
    return {label: (number % COLORS, counts.get(label, 0)) for number, label in enumerate(labels)}


def first_label(node: Resource) -> str:
    """The label that gives a node its colour."""
    return next(iter(list_labels(node)), "")


def as_mapping(value: Any) -> Mapping[str, Any]:
    """The properties of a node; empty where another source publishes something else."""
    return value if isinstance(value, dict) else {}


def list_labels(resource: Resource) -> list[str]:
    """The labels of a graph or a node; none where another source publishes something else."""
    labels = resource.state.get("labels")
    return [str(label) for label in labels] if isinstance(labels, list | tuple) else []


def describe_node(
    resource: Resource,
    graph: Resource,
    legend: Mapping[str, tuple[int, int]],
    degree: int,
    text: Sequence[str],
    moment: int,
) -> dict[str, Any]:
    """A node as the templates need it."""
    state = resource.state
    caption, label = str(state.get("caption", "")), first_label(resource)
    change = "removed" if resource.status == REMOVED else ""
    for key, name in (("created", "new"), ("changed", "changed")):
        time = state.get(key)
        if not change and isinstance(time, int) and moment - time < HIGHLIGHT:
            change = name
    properties = as_mapping(state.get("properties"))
    content = f"{caption} {state.get('key', '')} {' '.join(list_labels(resource))}"
    content = f"{content} {' '.join(map(str, properties.values()))}".casefold()
    return {
        "id": resource.name,
        "x": int(state["x"]),
        "y": int(state["y"]),
        "caption": caption,
        "short": caption if len(caption) <= CAPTION else caption[: CAPTION - 1] + "…",
        "key": str(state.get("key", "")),
        "label": label,
        "labels": list_labels(resource),
        "properties": properties,
        "color": legend.get(label, (0, 0))[0],
        "degree": degree,
        "radius": min(9 + degree, 18),
        "change": change,
        "is_match": bool(text) and all(word in content for word in text),
        "link": {"namespace": graph.name, "name": resource.name},
    }


def describe_edge(resource: Resource, points: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """A relationship as the templates need it."""
    start, end = str(resource.state["start"]), str(resource.state["end"])
    (x1, y1), (x2, y2) = points[start], points[end]
    return {
        "id": resource.name,
        "type": str(resource.state.get("type", "")),
        "start": start,
        "end": end,
        "x1": x1, "y1": y1, "x2": x2, "y2": y2,
        "change": "removed" if resource.status == REMOVED else "",
    }  # fmt: skip


def join_edges(edges: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The relationships of each type as one path: thousands of elements would take a browser longer
    to compare than the drawing is shown. A removed one disappears at once."""
    paths: dict[str, list[str]] = {}
    for edge in edges:
        if not edge["change"]:
            line = f"M{edge['x1']} {edge['y1']}L{edge['x2']} {edge['y2']}"
            paths.setdefault(edge["type"], []).append(line)
    return {kind: "".join(lines) for kind, lines in sorted(paths.items())}


def describe_graph(graph: Resource, drawn: int) -> dict[str, Any]:
    """What the panel reports about a graph as a whole."""
    state = graph.state
    return {
        "name": graph.name,
        "status": graph.status,
        "severity": graph.severity.name,
        "reason": str(state.get("reason", "")),
        "stale_since": state.get("stale_since"),
        "simulated": bool(state.get("simulated")),
        "drawn": drawn,
        "is_partial": graph.status == PARTIAL,
        "part": state.get("part"),
        "seeds": state.get("seeds"),
        "chosen": state.get("chosen"),
        "total_nodes": state.get("total_nodes"),
        "total_relationships": state.get("total_relationships"),
    }


def frame(points: Iterable[tuple[int, int]]) -> tuple[int, int, int, int]:
    """Left, top, width and height of what encloses the points, in steps."""
    xs, ys = zip(*points, strict=True) if (points := list(points)) else ((0,), (0,))
    left, right = _floor(min(xs) - MARGIN), -_floor(-max(xs) - MARGIN)
    top, bottom = _floor(min(ys) - MARGIN), -_floor(-max(ys) - MARGIN)
    width, height = max(right - left, 6 * STEP), max(bottom - top, 3 * STEP)
    # What is smaller than the frame is in the middle of it.
    left -= (width - (right - left)) // 2
    top -= (height - (bottom - top)) // 2
    return left, top, width, height


def _floor(value: float) -> int:
    return int(value // STEP) * STEP


def expand_link(filters: Mapping[str, str], hops: int) -> dict[str, str]:
    """The filters that show one relationship more."""
    return {**filters, "hops": str(hops + 1)}
