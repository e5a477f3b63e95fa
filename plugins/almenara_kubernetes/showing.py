"""What the panels show: the values of their templates, made of what there is."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from almenara.hookspecs import DataView
from almenara.signals import Event, Resource, Severity
from almenara_kubernetes.grouping import (
    GROUPINGS,
    NONE,
    Group,
    Told,
    Wanted,
    address,
    every,
    grouped,
    natural,
    owner_address,
    page,
    pods,
    share,
    told,
    total,
)
from almenara_kubernetes.picture import TONE_OF, cell, chart, counted, drawn, shares
from almenara_kubernetes.workloads import READERS

Values = Mapping[str, Any]
Chosen = Mapping[str, str]
Item = TypeVar("Item")
Held = tuple[Resource | None, Sequence[Resource], Group]
"""A workload, as far as the cluster tells of it, its pods, and its namespace and name."""

TILES: Final = 320
"""Groups drawn at most, those with trouble first."""
DENSE: Final = 48
"""Groups from which on tiles are small, so that all of them are seen at once."""
ROW: Final = 46
"""Height of a row of small tiles in units of a picture: a tile takes as many as it needs."""
ROWS_OF_A_TILE: Final = 4
CELLS: Final = 6_000
"""Pods drawn in a map at most, shared out among its groups."""
LINKED: Final = 400
"""Pods up to which each cell is a link of its own; beyond, its group is."""
ROWS: Final = 100
STATUSES: Final = 12
TOLD_HERE: Final = 2
"""Refusals up to which each is told whole above every page."""
SERIES: Final = 60
EVENTS_READ: Final = 500
WORKLOADS: Final = tuple(kind.removeprefix("kubernetes.") for kind in READERS)
API_KINDS: Final = {
    "Deployment": "deployment", "StatefulSet": "statefulset", "DaemonSet": "daemonset",
    "ReplicaSet": "replicaset", "Job": "job", "CronJob": "cronjob",
}  # fmt: skip
KIND_NAMES: Final = {name: shown for shown, name in API_KINDS.items()}
TABS: Final = (
    ("", "Workloads"), ("pods", "Pods"), ("nodes", "Nodes"), ("events", "Events"),
    ("cluster", "Traffic and storage"),
)  # fmt: skip


async def head(look: DataView, chosen: Chosen) -> Values:
    """Where one is, how the cluster is seen, and how many pods fare how."""
    wanted = Wanted.of(chosen)
    found = pods(look, wanted)
    counts = counted(found)
    kept = {name: value for name, value in wanted.query().items() if name != "status"}
    return {
        "tabs": [
            (page(name, namespace=wanted.namespace), title, (name or "main") == chosen.get("tab"))
            for name, title in TABS
        ],
        "clusters": list(map(told, every(look, "cluster"))),
        "refused": list(map(told, every(look, "access"))), "told_here": TOLD_HERE,
        "pods": len(found),
        "namespaces": len({it.namespace for it in found}),
        "bar": shares(counts),
        "statuses": [
            {
                "tone": tone, "status": status, "count": count,
                "link": page("pods", **kept, status=status), "chosen": status == wanted.status,
            }
            for tone, status, count in counts[:STATUSES]
        ],
        "more_statuses": max(0, len(counts) - STATUSES),
        "narrowed": wanted.query(),
        "clear": page(),
    }  # fmt: skip


async def glance(look: DataView, _chosen: Chosen) -> Values:
    """How the clusters are, in four figures."""
    tones = Counter(TONE_OF.get(it.severity, "bad") for it in every(look, "pod"))
    nodes = every(look, "node")
    troubled = sum(it.severity >= Severity.WARN for it in nodes)
    figures = [
        {"value": tones["bad"], "label": _counted(tones["bad"], "pod fails", "pods fail"),
         "link": page("pods", status="bad"), "worry": tones["bad"] and "bad"},
        {"value": tones["wait"], "label": _counted(tones["wait"], "pod waits", "pods wait"),
         "link": page("pods", status="wait"), "worry": tones["wait"] and "warn"},
        {"value": tones.total(), "label": _counted(tones.total(), "pod", "pods"),
         "link": page("pods")},
    ]  # fmt: skip
    if nodes:
        known = f"{len(nodes):,} {_counted(len(nodes), 'node', 'nodes')}"
        figures.append(
            {"value": troubled, "label": f"of {known} in trouble", "link": page("nodes"),
             "worry": troubled and "bad"}
        )  # fmt: skip
    return {
        "figures": figures,
        "clusters": list(map(told, every(look, "cluster"))),
        "address": page(),
    }


def _counted(number: int, one: str, many: str) -> str:
    return one if number == 1 else many


async def access(look: DataView, _chosen: Chosen) -> Values:
    """What cannot be watched, and the rules that are missing, ready to be copied."""
    refused = list(map(told, every(look, "access")))
    missing: dict[str, list[str]] = {}
    for it in refused:
        # The first line says where the rule belongs.
        where, _, rule = (it.state["rule"] or "").partition("\n")
        if rule:
            missing.setdefault(where.removeprefix("# "), []).append(rule)
    return {
        "refused": refused,
        "missing": [(where, "".join(rules)) for where, rules in missing.items()],
    }


async def pod_map(look: DataView, chosen: Chosen) -> Values:
    """Every pod a cell, in a tile for each group."""
    by = chosen.get("group", "namespace")
    return _tiles(look, Wanted.of(chosen), by) | {
        "groupings": [
            {"title": title, "link": page(**{**chosen, "group": name}), "chosen": name == by}
            for name, title in GROUPINGS.items()
        ],
        "by": GROUPINGS.get(by, by),
    }


async def node_map(look: DataView, chosen: Chosen) -> Values:
    """Every node a tile with its pods, how full it is, and what is wrong with it."""
    nodes = {it.name: it for it in every(look, "node")}
    values = _tiles(look, Wanted.of(chosen), "node", nodes)
    return values | {"nodes": len(nodes)}


def _tiles(
    look: DataView, wanted: Wanted, by: str, nodes: Mapping[str, Resource] | None = None
) -> dict[str, Any]:
    found = pods(look, wanted)
    groups: dict[Group, list[Resource]] = grouped(look, found, by)
    for name in nodes or {}:
        if not wanted.query():
            groups.setdefault(("", name), [])

    def order(group: Group) -> tuple[Any, ...]:
        tones = {TONE_OF[it.severity] for it in groups[group]}
        node = (nodes or {}).get(group[1])
        ill = node is not None and node.severity >= Severity.ERROR
        # By name within a tone: a map whose tiles change places all the time cannot be read.
        return (
            not ill, "bad" not in tones, "wait" not in tones, group[1] == NONE,
            *map(natural, group),
        )  # fmt: skip

    ordered = sorted(groups, key=order)
    shown = ordered[:TILES]
    room = max(CELLS // max(len(shown), 1), 16)
    # Few groups may be large, and many are small: what one leaves free another takes.
    spare = CELLS - sum(min(len(groups[it]), room) for it in shown)
    tiles = []
    for group in shown:
        inside = groups[group]
        own = room + (max(spare, 0) if len(inside) > room else 0)
        if len(inside) > room:
            spare -= min(len(inside) - room, max(spare, 0))
        counts = counted(inside)
        node = (nodes or {}).get(group[1])
        picture = drawn(map(cell, inside), room=own, each=len(found) <= LINKED)
        tiles.append(
            {
                "rows": min(1 + picture.height // ROW, ROWS_OF_A_TILE),
                "namespace": group[0],
                "name": group[1] if group[1] != NONE else _no_group(by),
                "link": address(by, group),
                "count": len(inside),
                "tone": counts[0][0] if counts else "ok",
                "troubles": [it for it in counts if it[0] in ("bad", "wait")][:2],
                "picture": picture,
                **(_fill(look, node, inside) if node is not None else {}),
            }
        )
    return {
        "tiles": tiles,
        "pods": len(found),
        "groups": len(groups),
        "more": len(ordered) - len(shown),
        "dense": len(shown) > DENSE,
    }


def _no_group(by: str) -> str:
    return {"node": "not on a node", "service": "behind no service"}.get(by, "without it")


def _fill(look: DataView, node: Resource, inside: Sequence[Resource]) -> dict[str, Any]:
    """How full a node is: the share of what can be had that is asked for, and in use."""
    asked = [it for it in inside if TONE_OF[it.severity] != "done"]
    return {
        "node": told(node),
        "cpu": share(total(asked, "cpu_request"), node.state.get("cpu")),
        "memory": share(total(asked, "memory_request"), node.state.get("memory")),
        "cpu_used": share(look.latest(node, "cpu"), node.state.get("cpu")),
        "memory_used": share(look.latest(node, "memory"), node.state.get("memory")),
        "devices": sum((node.state.get("devices") or {}).values()),
        "devices_asked": sum(sum(it.state.get("devices", {}).values()) for it in asked),
    }


async def workload_table(look: DataView, chosen: Chosen) -> Values:
    """Workloads: those that the cluster tells of, and whatever else pods belong to."""
    wanted = Wanted.of({**chosen, "status": "", "text": ""})
    by_workload = grouped(look, pods(look, wanted), "workload")
    narrowed = bool(wanted.node or wanted.service or wanted.label)
    held: list[Held] = []
    for kind in WORKLOADS:
        for it in every(look, kind):
            group = (it.namespace, f"{KIND_NAMES[kind]}/{it.name}")
            if kind == "job" and it.state.get("owners"):
                continue
            if (narrowed and group not in by_workload) or (
                wanted.namespace and it.namespace != wanted.namespace
            ):
                continue
            held.append((it, by_workload.pop(group, []), group))
    held += [(None, inside, it) for it, inside in by_workload.items() if it[1][:4] != "Pod/"]
    if kind := chosen.get("kind", "").casefold():
        held = [it for it in held if it[2][1].partition("/")[0].casefold() == kind]
    faring = [(_fares(*it), it) for it in held]
    if status := chosen.get("status", "").casefold():
        faring = [(how, it) for how, it in faring if status in (how[0].casefold(), TONE_OF[how[1]])]
    if words := chosen.get("text", "").casefold().split():
        faring = [
            (how, it)
            for how, it in faring
            if all(word in f"{it[2][0]} {it[2][1]} {_image(*it[:2])}".casefold() for word in words)
        ]
    faring.sort(
        key=lambda one: (
            -max(one[0][1], Severity.INFO), one[0][1] < Severity.INFO, one[1][2][0],
            one[1][2][1].partition("/")[2],
        )
    )  # fmt: skip
    found = [it for _, it in faring]
    rows: list[dict[str, Any]]
    sort = chosen.get("sort", "")
    if (name := sort.removeprefix("-")) in {column[0] for column in WORKLOAD_COLUMNS}:
        made = [_workload_row(*it) for it in found]
        rows = _sorted([(row[name], row) for row in made], sort)[:ROWS]
    else:
        # What is not shown is not reckoned.
        rows = [_workload_row(*it) for it in found[:ROWS]]
    return {
        "rows": rows,
        "more": max(0, len(found) - ROWS),
        "columns": _columns("workloads", chosen, WORKLOAD_COLUMNS),
    }


WORKLOAD_COLUMNS: Final = (
    ("status", "Status", False), ("name", "Workload", False), ("namespace", "Namespace", False),
    ("available", "Ready", True), ("restarts", "Restarts", True), ("version", "Version", False),
    ("cpu_request", "CPU asked", True), ("memory_request", "Memory asked", True),
    ("created", "Age", True),
)  # fmt: skip
POD_COLUMNS: Final = (
    ("status", "Status", False), ("name", "Pod", False), ("namespace", "Namespace", False),
    ("ready", "Ready", True), ("restarts", "Restarts", True), ("node", "Node", False),
    ("version", "Version", False), ("cpu", "CPU", True), ("memory", "Memory", True),
    ("created", "Age", True),
)  # fmt: skip
DESCENDING: Final = frozenset(
    ("restarts", "cpu", "memory", "cpu_request", "memory_request", "created")
)


def _columns(
    panel: str, chosen: Chosen, columns: Sequence[tuple[str, str, bool]]
) -> list[dict[str, Any]]:
    """The heads of a table; each sorts by itself, and the other way when it does already."""
    sort = chosen.get("sort", "")
    kept = {name: value for name, value in chosen.items() if name != "sort"}
    found = []
    for name, title, right in columns:
        first, other = (f"-{name}", name) if name in DESCENDING else (name, f"-{name}")
        wanted = other if sort == first else first
        found.append(
            {
                "title": title, "right": right, "link": _with(panel, {**kept, "sort": wanted}),
                "sorted": {"": "", name: "ascending", f"-{name}": "descending"}.get(sort, ""),
            }
        )  # fmt: skip
    return found


def _with(panel: str, query: Mapping[str, str]) -> str:
    if panel == "pods":
        return page("pods", **query)
    return page(**query)


def _sorted(found: Iterable[tuple[Any, Item]], sort: str) -> list[Item]:
    """Items by the value that each comes with; those without one last."""
    known: list[tuple[Any, Item]] = []
    unknown: list[tuple[Any, Item]] = []
    for value, it in found:
        (unknown if value in (None, "") else known).append((value, it))
    known.sort(
        key=lambda one: one[0].casefold() if isinstance(one[0], str) else one[0],
        reverse=sort.startswith("-"),
    )
    return [it for _, it in (*known, *unknown)]


def _fares(it: Resource | None, inside: Sequence[Resource], group: Group) -> tuple[str, Severity]:
    """The status of a workload, and how much it should worry."""
    severity = it.severity if it is not None else max((p.severity for p in inside), default=9)
    if (
        severity < Severity.ERROR
        and not group[1].startswith("Job/")
        and any(TONE_OF[pod.severity] == "bad" for pod in inside)
    ):
        severity = Severity.WARN
    if it is not None:
        return it.status, Severity(severity)
    ready = all(pod.state.get("ready") == pod.state.get("total") for pod in inside)
    return "Running" if ready else counted(inside)[0][1], Severity(severity)


def _image(it: Resource | None, inside: Sequence[Resource]) -> str:
    own = it.state.get("image", "") if it is not None else ""
    return str(own or next((pod.state.get("image", "") for pod in inside), ""))


def _workload_row(it: Resource | None, inside: Sequence[Resource], group: Group) -> dict[str, Any]:
    kind, _, name = group[1].partition("/")
    counts = counted(inside)
    state: Mapping[str, Any] = it.state if it is not None else {}
    ready = sum(pod.state.get("ready") == pod.state.get("total") for pod in inside)
    status, severity = _fares(it, inside, group)
    desired = state.get("desired", len(inside))
    return {
        "kind": kind,
        "name": name,
        "namespace": group[0],
        "link": page("workload", namespace=group[0], name=group[1]),
        "status": status, "severity": severity, "tone": TONE_OF[severity],
        "desired": desired,
        "available": state.get("available", state.get("succeeded", ready)),
        "updated": state.get("updated", desired),
        "rollout": state.get("rollout", ""),
        "bar": shares(counts, 60),
        "schedule": state.get("schedule", ""),
        "troubles": [one for one in counts if one[0] == "bad"][:1],
        "restarts": int(total(inside, "restarts")),
        "image": _image(it, inside),
        "version": state.get("version", "")
        or next((pod.state.get("version", "") for pod in inside), ""),
        "cpu_request": total(inside, "cpu_request"),
        "memory_request": total(inside, "memory_request"),
        "created": state.get("created") or min(
            (pod.state.get("created", 0) for pod in inside), default=None
        ),
        "pods": len(inside),
    }  # fmt: skip


POD_VALUES: Final[Mapping[str, Callable[[DataView, Resource], Any]]] = {
    "status": lambda _, it: it.status,
    "name": lambda _, it: it.name,
    "namespace": lambda _, it: it.namespace,
    "ready": lambda _, it: it.state.get("ready", 0),
    "restarts": lambda _, it: it.state.get("restarts", 0),
    "node": lambda _, it: it.state.get("node", ""),
    "version": lambda _, it: it.state.get("version", ""),
    "cpu": lambda look, it: look.latest(it, "cpu"),
    "memory": lambda look, it: look.latest(it, "memory"),
    "created": lambda _, it: it.state.get("created"),
}
"""What a pod is sorted by, and shown with."""


async def pod_table(look: DataView, chosen: Chosen) -> Values:
    """Pods, as `kubectl get pods` would list them, the worst first."""
    found = pods(look, Wanted.of(chosen))
    # They come by namespace and name, and stay so among those that fare alike.
    found.sort(key=lambda it: (-max(it.severity, Severity.INFO), it.severity < Severity.INFO))
    sort = chosen.get("sort", "")
    if value := POD_VALUES.get(sort.removeprefix("-")):
        found = _sorted([(value(look, it), it) for it in found], sort)
    return {
        "rows": [
            {
                "pod": told(it),
                "link": page("pod", namespace=it.namespace, name=it.name),
                "severity": it.severity, "tone": TONE_OF[it.severity],
                **{name: value(look, it) for name, value in POD_VALUES.items()},
            }
            for it in found[:ROWS]
        ],
        "more": max(0, len(found) - ROWS),
        "total": len(found),
        "columns": _columns("pods", chosen, POD_COLUMNS),
    }  # fmt: skip


def _links(namespace: str, owners: Sequence[str]) -> list[tuple[str, str]]:
    return [(owner, owner_address(namespace, owner)) for owner in owners]


async def pod_detail(look: DataView, chosen: Chosen) -> Values:
    """One pod: what it is, its containers and its conditions."""
    namespace, name = chosen.get("namespace", ""), chosen.get("name", "")
    it = look.resource("kubernetes.pod", namespace, name)
    if it is None:
        return {"it": None, "name": name}
    it = told(it)
    behind = [
        (one.name, page("pods", namespace=namespace, service=one.name))
        for one in every(look, "service")
        if one.namespace == namespace and name in one.state.get("pods", ())
    ]
    return {
        "it": it, "state": it.state, "services": behind,
        "owners": _links(namespace, list(reversed(it.state.get("owners") or ()))),
        "node_link": page("node", name=it.state.get("node", "")),
        "namespace_link": page(namespace=namespace),
        "yaml": page("yaml", namespace=namespace, name=f"Pod/{name}"),
    }  # fmt: skip


async def containers(look: DataView, chosen: Chosen) -> Values:
    """The containers of a pod, each with the way to its log."""
    namespace, name = chosen.get("namespace", ""), chosen.get("name", "")
    it = look.resource("kubernetes.pod", namespace, name)
    pod = {"namespace": namespace, "name": name}
    return {
        "rows": [
            {
                "it": one,
                "logs": page("pod", **pod, container=one["name"]),
                "previous": page("pod", **pod, container=one["name"], previous="yes")
                if one["restarts"] else "",
            }
            for one in (told(it).state["containers"] if it is not None else None) or ()
        ]
    }  # fmt: skip


async def usage(look: DataView, chosen: Chosen) -> Values:
    """CPU and memory of a pod over time, beside what it asks for and may use."""
    it = look.resource("kubernetes.pod", chosen.get("namespace", ""), chosen.get("name", ""))
    if it is None:
        return {"charts": []}
    return {
        "charts": [
            {
                "title": title, "format": form,
                "chart": chart(
                    look.series(it, metric),
                    {"asks for": it.state.get(f"{metric}_request"),
                     "limit": it.state.get(f"{metric}_limit")},
                ),
            }
            for title, metric, form in (("CPU", "cpu", "cores"), ("Memory", "memory", "bytes"))
        ]
    }  # fmt: skip


async def workload_detail(look: DataView, chosen: Chosen) -> Values:
    """One workload: how far it is, and the pods it consists of."""
    namespace, whole = chosen.get("namespace", ""), chosen.get("name", "")
    kind, _, name = whole.partition("/")
    it = look.resource(f"kubernetes.{kind.lower()}", namespace, name)
    state = told(it).state if it is not None else Told()
    inside = pods(look, Wanted(namespace=namespace, workload=whole))
    row = _workload_row(it, inside, (namespace, whole)) if it is not None or inside else None
    scaled = [
        one for one in every(look, "horizontalpodautoscaler")
        if one.namespace == namespace and one.state.get("target") == whole
    ]  # fmt: skip
    return {
        "it": it, "row": row, "name": whole, "state": state,
        "picture": drawn(map(cell, inside), room=LINKED, each=True),
        "owners": _links(namespace, list(reversed(state.get("owners") or ()))),
        "autoscalers": list(map(told, scaled)), "pods": len(inside),
        "yaml": page("yaml", namespace=namespace, name=whole) if kind in API_KINDS else "",
        "runs": sorted(
            (one for one in every(look, "job")
             if one.namespace == namespace and whole in (one.state.get("owners") or ())),
            key=lambda one: -one.state.get("created", 0),
        )[:10],
    }  # fmt: skip


async def workload_pods(look: DataView, chosen: Chosen) -> Values:
    """The pods of a workload."""
    return await pod_table(
        look, {"namespace": chosen.get("namespace", ""), "workload": chosen.get("name", "")}
    )


async def node_detail(look: DataView, chosen: Chosen) -> Values:
    """One node: how full it is, its conditions and its taints."""
    it = next((one for one in every(look, "node") if one.name == chosen.get("name")), None)
    if it is None:
        return {"it": None, "name": chosen.get("name", "")}
    inside = pods(look, Wanted(node=it.name))
    return {
        "it": it, "state": told(it).state, "count": len(inside), **_fill(look, it, inside),
        "picture": drawn(map(cell, inside), room=LINKED, each=True),
    }  # fmt: skip


async def node_pods(look: DataView, chosen: Chosen) -> Values:
    """The pods of a node."""
    return await pod_table(look, {"node": chosen.get("name", "")})


def _filter(chosen: Chosen) -> dict[str, str]:
    wanted = {name: chosen[name] for name in ("severity", "text", "since") if chosen.get(name)}
    return wanted | {"type": "kubernetes.event.*"}


async def events(look: DataView, chosen: Chosen) -> Values:
    """Events of Kubernetes, one line for each series: its newest count, first and last time."""
    read = await look.events(_filter(chosen), limit=EVENTS_READ)
    newest: dict[str, tuple[int, Event]] = {}
    for sequence, event in read:
        data = _data(event)
        if (namespace := chosen.get("namespace", "")) and data.get("namespace") != namespace:
            continue
        newest.setdefault(str(data.get("series") or event.id), (sequence, event))
    return {
        "rows": [_event_row(sequence, event) for sequence, event in list(newest.values())[:SERIES]],
        "more": max(0, len(newest) - SERIES),
    }


def _data(event: Event) -> Mapping[str, Any]:
    data = event.data
    if isinstance(data, msgspec.Raw):
        try:
            data = msgspec.json.decode(data)
        except msgspec.MsgspecError:
            return {}
    return data if isinstance(data, dict) else {}


def _event_row(sequence: int, event: Event) -> dict[str, Any]:
    data = _data(event)
    _, _, what = event.type.rpartition(".")
    return {
        "sequence": sequence, "event": event, "severity": event.severity.name,
        "reason": data.get("reason") or what.replace("_", " "),
        "message": data.get("message", ""), "count": data.get("count", 1),
        "first": data.get("first"), "last": data.get("last") or event.time,
        "subject": event.subject, "shown": event.subject, "link": _subject_link(event.subject),
        "ours": not event.type.startswith("kubernetes.event."), "type": what.replace("_", " "),
        "data": data,
    }  # fmt: skip


def _subject_link(subject: str) -> str:
    kind, _, rest = subject.partition("/")
    namespace, _, name = rest.rpartition("/")
    if kind == "pod" and namespace:
        return page("pod", namespace=namespace, name=name)
    if kind == "node":
        return page("node", name=name)
    if kind in KIND_NAMES and namespace:
        return page("workload", namespace=namespace, name=f"{KIND_NAMES[kind]}/{name}")
    return f"/events?subject={subject}" if subject else ""


async def timeline(look: DataView, chosen: Chosen) -> Values:
    """What happened to one pod, newest first: transitions and events of Kubernetes."""
    subject = "/".join(("pod", chosen.get("namespace", ""), chosen.get("name", "")))
    return await _story(look, {"subject": subject}, subject)


async def workload_timeline(look: DataView, chosen: Chosen) -> Values:
    """What happened to a workload and to all that belongs to it."""
    kind, _, name = chosen.get("name", "").partition("/")
    story = "/".join((kind.lower(), chosen.get("namespace", ""), name))
    return await _story(look, {"correlation": story}, story)


async def node_timeline(look: DataView, chosen: Chosen) -> Values:
    """What happened to a node."""
    subject = f"node/{chosen.get('name', '')}"
    return await _story(look, {"subject": subject}, subject)


async def _story(look: DataView, wanted: Mapping[str, str], about: str) -> Values:
    read = await look.events({**wanted, "type": "kubernetes.>"}, limit=EVENTS_READ)
    newest: dict[str, tuple[int, Event]] = {}
    for sequence, event in read:
        newest.setdefault(str(_data(event).get("series") or event.id), (sequence, event))
    rows = [_event_row(sequence, event) for sequence, event in newest.values()]
    rows.sort(key=lambda it: -it["last"])
    for row in rows:
        # What the page is about need not be said in every line.
        row["shown"] = "" if row["subject"] == about else _without_namespace(row["subject"])
    return {"rows": rows[:SERIES], "more": max(0, len(rows) - SERIES)}


def _without_namespace(subject: str) -> str:
    kind, _, rest = subject.partition("/")
    return f"{kind}/{rest.rpartition('/')[2]}"
