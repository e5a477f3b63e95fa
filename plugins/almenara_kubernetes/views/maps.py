"""The maps: every pod as a cell, in tiles for groups or nodes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.hookspecs import DataView
from almenara.signals import Resource, Severity
from almenara_kubernetes.charts import count_statuses, draw_cells
from almenara_kubernetes.links import page_url
from almenara_kubernetes.pod_filter import (
    GROUPINGS,
    NONE,
    Group,
    PodFilter,
    all_resources,
    clusters_with_pods,
    group_pods,
    group_url,
    is_active,
    natural_key,
    select_pods,
)
from almenara_kubernetes.views import Filters, Freshness, Values, share

TILES: Final = 320
"""Groups drawn at most, failing ones first."""
DENSE: Final = 48
"""Groups from which on tiles are small, so that all of them are visible at once."""
ROW: Final = 46
"""Height of a row of small tiles in units of a picture: a tile takes as many as it needs."""
ROWS_OF_A_TILE: Final = 4
CELLS: Final = 6_000
"""Pods drawn in a map at most, shared out among its groups."""
LEAST_CELLS: Final = 16
LINKED: Final = 400
"""Pods up to which each cell is a link of its own; beyond, its group is."""
PROBLEMS: Final = 2
USAGE: Final = ("cpu", "memory")
NO_GROUP: Final = {"node": "not on a node", "service": "behind no service"}


async def pod_map(view: DataView, filters: Filters) -> Values:
    """Every pod a cell, in a tile for each group."""
    by = filters.get("group", "namespace")
    return _draw_tiles(view, PodFilter.from_filters(filters), by) | {
        "groupings": [
            {
                "title": title,
                "link": page_url(**{**filters, "group": name}),
                "is_chosen": name == by,
            }
            for name, title in GROUPINGS.items()
        ],
        "by": GROUPINGS.get(by, by),
    }


async def node_map(view: DataView, filters: Filters) -> Values:
    """Every node a tile with its pods, its usage, and its problems."""
    nodes = {(node.namespace, node.name): node for node in all_resources(view, "node")}
    await view.prefetch(list(nodes.values()), USAGE)
    tiles = _draw_tiles(view, PodFilter.from_filters(filters), "node", nodes)
    return tiles | {"nodes": len(nodes)}


def _draw_tiles(
    view: DataView,
    selection: PodFilter,
    by: str,
    nodes: Mapping[Group, Resource] | None = None,
) -> dict[str, Any]:
    pods = select_pods(view, selection)
    groups = group_pods(view, pods, by)
    for group in nodes or {}:
        if not selection.to_filters():
            groups.setdefault(group, [])

    statuses = {group: count_statuses(inside) for group, inside in groups.items()}

    def order(group: Group) -> tuple[Any, ...]:
        tones = {tone for tone, _, _ in statuses[group]}
        node = (nodes or {}).get(group)
        is_failing = node is not None and node.severity >= Severity.ERROR
        # By name within a tone: a map whose tiles keep changing places cannot be read.
        return (
            not is_failing, "bad" not in tones, "wait" not in tones, group[1] == NONE,
            *map(natural_key, group),
        )  # fmt: skip

    ordered = sorted(groups, key=order)
    drawn = ordered[:TILES]
    rooms = _share_cells([len(groups[group]) for group in drawn])
    is_linked = len(pods) <= LINKED
    freshness = Freshness(all_resources(view, "cluster"))
    known = clusters_with_pods(view) if nodes else set()
    tiles: list[dict[str, Any]] = []
    for group, room in zip(drawn, rooms, strict=True):
        inside = groups[group]
        counts = statuses[group]
        node = (nodes or {}).get(group)
        namespaces = {pod.namespace for pod in inside}
        if node is not None:
            namespaces.add(node.namespace)
        picture = draw_cells(inside, room=room, each=is_linked)
        tiles.append(
            {
                "rows": min(1 + picture.height // ROW, ROWS_OF_A_TILE),
                "namespace": group[0],
                "name": group[1] if group[1] != NONE else NO_GROUP.get(by, "without it"),
                "link": group_url(by, group),
                "count": len(inside),
                "is_stale": all(map(freshness.is_stale, namespaces)),
                "tone": counts[0][0] if counts else "ok",
                "problems": [row for row in counts if row[0] in ("bad", "wait")][:PROBLEMS],
                "picture": picture,
            }
        )
        if node is not None:
            pressures = node.state.get("pressures") or ()
            tiles[-1] |= {
                "node": node,
                "pressures": pressures,
                **node_fill(view, node, inside if node.namespace in known else None),
            }
    return {
        "tiles": tiles,
        "pods": len(pods),
        "groups": len(groups),
        "more": len(ordered) - len(drawn),
        "dense": len(drawn) > DENSE,
    }


def _share_cells(sizes: Sequence[int]) -> list[int]:
    """The cells that each group may draw: an equal share, and what others leave of theirs."""
    room = max(CELLS // max(len(sizes), 1), LEAST_CELLS)
    spare = max(CELLS - sum(min(size, room) for size in sizes), 0)
    rooms = []
    for size in sizes:
        extra = min(max(size - room, 0), spare)
        spare -= extra
        rooms.append(room + extra)
    return rooms


def node_fill(view: DataView, node: Resource, pods: Sequence[Resource] | None) -> dict[str, Any]:
    """The shares of a node's allocatable CPU and memory that are requested, and in use. What is
    requested is unknown where pods are."""
    active = devices = 0
    cpu = memory = 0.0
    for pod in pods or ():
        if is_active(pod):
            state = pod.state
            active += 1
            cpu += state.get("cpu_request") or 0
            memory += state.get("memory_request") or 0
            if "devices" in state:
                devices += sum(state["devices"].values())
    is_known = pods is not None
    return {
        "active": active if is_known else None,
        "cpu": share(cpu, node.state.get("cpu")) if is_known else None,
        "memory": share(memory, node.state.get("memory")) if is_known else None,
        "cpu_used": share(view.latest(node, "cpu"), node.state.get("cpu")),
        "memory_used": share(view.latest(node, "memory"), node.state.get("memory")),
        "devices": sum((node.state.get("devices") or {}).values()),
        "devices_requested": devices if is_known else None,
    }
