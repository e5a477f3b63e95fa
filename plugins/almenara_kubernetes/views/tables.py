"""The tables of workloads and of pods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from almenara.hookspecs import DataView
from almenara.signals import Resource, Severity
from almenara_kubernetes.charts import TONE_OF, count_statuses, draw_bar
from almenara_kubernetes.links import WORKLOAD_KINDS, page_url
from almenara_kubernetes.mapping.workloads import MAPPERS
from almenara_kubernetes.pod_filter import (
    STATUS_GROUP_OF,
    Group,
    PodFilter,
    all_resources,
    find_node,
    group_pods,
    is_active,
    node_filter,
    select_pods,
)
from almenara_kubernetes.views import Filters, Freshness, Values, lenient, total

Item = TypeVar("Item")
Workload = tuple[Resource | None, Sequence[Resource], Group]
"""The resource of a workload, None for a kind that is not watched; its pods; its namespace and
name."""
Status = tuple[str, Severity]

ROWS: Final = 100
BAR: Final = 60
USAGE: Final = ("cpu", "memory")
"""Columns whose values are samples."""
KINDS: Final = tuple(kind.removeprefix("kubernetes.") for kind in MAPPERS)
WORKLOAD_COLUMNS: Final = (
    ("status", "Status", False), ("name", "Workload", False), ("namespace", "Namespace", False),
    ("available", "Ready", True), ("restarts", "Restarts", True), ("version", "Version", False),
    ("cpu_request", "CPU requests", True), ("memory_request", "Memory requests", True),
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
"""Columns that are sorted by the largest value first."""


async def workload_table(view: DataView, filters: Filters) -> Values:
    """Workloads: those that are watched, and whatever else owns pods."""
    workloads = [(_status(*workload), workload) for workload in _select_workloads(view, filters)]
    if status := filters.get("status", "").casefold():
        workloads = [
            (own, workload)
            for own, workload in workloads
            if status in (own[0].casefold(), STATUS_GROUP_OF[own[1]])
        ]
    if words := filters.get("text", "").casefold().split():
        workloads = [
            (own, workload)
            for own, workload in workloads
            if all(word in _searchable_text(workload) for word in words)
        ]
    workloads.sort(key=_severity_order)
    selected = [workload for _, workload in workloads]
    sort = filters.get("sort", "")
    column = sort.removeprefix("-")
    if column in {name for name, *_ in WORKLOAD_COLUMNS}:
        all_rows = [workload_row(*workload) for workload in selected]
        rows = _sort_by([(row[column], row) for row in all_rows], sort)[:ROWS]
    else:
        # Rows that are not displayed are not computed.
        rows = [workload_row(*workload) for workload in selected[:ROWS]]
    freshness = Freshness(all_resources(view, "cluster"))
    for row in rows:
        row["is_stale"] = freshness.is_stale(row["namespace"])
    return {
        "rows": rows,
        "more": max(0, len(selected) - ROWS),
        "columns": _column_heads("", filters, WORKLOAD_COLUMNS),
    }


def _select_workloads(view: DataView, filters: Filters) -> list[Workload]:
    selection = PodFilter.from_filters({**filters, "status": "", "text": ""})
    by_workload = group_pods(view, select_pods(view, selection), "workload")
    is_by_pods = bool(selection.node or selection.service or selection.label)
    workloads: list[Workload] = []
    for kind in KINDS:
        for resource in all_resources(view, kind, selection.namespace):
            if kind == "job" and resource.state.get("owners"):
                continue
            group = (resource.namespace, f"{WORKLOAD_KINDS[kind]}/{resource.name}")
            if is_by_pods and group not in by_workload:
                continue
            workloads.append((resource, by_workload.pop(group, []), group))
    workloads += [
        (None, pods, group)
        for group, pods in by_workload.items()
        if not group[1].startswith("Pod/")
    ]
    if kind := filters.get("kind", "").casefold():
        workloads = [
            workload
            for workload in workloads
            if workload[2][1].partition("/")[0].casefold() == kind
        ]
    return workloads


def _severity_order(row: tuple[Status, Workload]) -> tuple[Any, ...]:
    (_, severity), (_, _, (namespace, name)) = row
    is_done = severity < Severity.INFO
    return -max(severity, Severity.INFO), is_done, namespace, name.partition("/")[2]


def _searchable_text(workload: Workload) -> str:
    resource, pods, (namespace, name) = workload
    return f"{namespace} {name} {_image(resource, pods)}".casefold()


def _status(resource: Resource | None, pods: Sequence[Resource], group: Group) -> Status:
    """The status of a workload. It is a warning at the least while one of its pods fails."""
    severity = (
        resource.severity
        if resource is not None
        else max((pod.severity for pod in pods), default=Severity.INFO)
    )
    if (
        severity < Severity.ERROR
        and not group[1].startswith("Job/")
        and any(TONE_OF[pod.severity] == "bad" for pod in pods)
    ):
        severity = Severity.WARN
    if resource is not None:
        return resource.status, Severity(severity)
    is_ready = all(pod.state.get("ready") == pod.state.get("total") for pod in pods)
    return "Running" if is_ready else count_statuses(pods)[0][1], Severity(severity)


def _image(resource: Resource | None, pods: Sequence[Resource]) -> str:
    own = resource.state.get("image", "") if resource is not None else ""
    return str(own or next((pod.state.get("image", "") for pod in pods), ""))


def workload_row(
    resource: Resource | None, pods: Sequence[Resource], group: Group
) -> dict[str, Any]:
    """A workload as a row of the table, and as the head of its page."""
    kind, _, name = group[1].partition("/")
    counts = count_statuses(pods)
    state: Mapping[str, Any] = resource.state if resource is not None else {}
    ready = sum(pod.state.get("ready") == pod.state.get("total") for pod in pods)
    status, severity = _status(resource, pods, group)
    desired = state.get("desired", len(pods))
    active = list(filter(is_active, pods))
    return {
        "kind": kind,
        "name": name,
        "namespace": group[0],
        "link": page_url("workload", namespace=group[0], name=group[1]),
        "status": status, "severity": severity, "tone": TONE_OF[severity],
        "desired": desired,
        "available": state.get("available", state.get("succeeded", ready)),
        "updated": state.get("updated", desired),
        "rollout": state.get("rollout", ""),
        "bar": draw_bar(counts, BAR),
        "schedule": state.get("schedule", ""),
        "problems": [row for row in counts if row[0] == "bad"][:1],
        "restarts": int(total(pods, "restarts")),
        "image": _image(resource, pods),
        "version": state.get("version", "")
        or next((pod.state.get("version", "") for pod in pods), ""),
        "cpu_request": total(active, "cpu_request"),
        "memory_request": total(active, "memory_request"),
        "created": state.get("created") or min(
            (pod.state.get("created", 0) for pod in pods), default=None
        ),
        "pods": len(pods),
    }  # fmt: skip


POD_VALUES: Final[Mapping[str, Callable[[DataView, Resource], Any]]] = {
    "status": lambda _, pod: pod.status,
    "name": lambda _, pod: pod.name,
    "namespace": lambda _, pod: pod.namespace,
    "ready": lambda _, pod: pod.state.get("ready", 0),
    "restarts": lambda _, pod: pod.state.get("restarts", 0),
    "node": lambda _, pod: pod.state.get("node", ""),
    "version": lambda _, pod: pod.state.get("version", ""),
    "cpu": lambda view, pod: view.latest(pod, "cpu"),
    "memory": lambda view, pod: view.latest(pod, "memory"),
    "created": lambda _, pod: pod.state.get("created"),
}
"""The values that pods are displayed with and sorted by."""


async def pod_table(view: DataView, filters: Filters) -> Values:
    """Pods as `kubectl get pods` lists them, the worst first."""
    pods = select_pods(view, PodFilter.from_filters(filters))
    # They come by namespace and name, and stay so within a severity.
    pods.sort(key=lambda pod: (-max(pod.severity, Severity.INFO), pod.severity < Severity.INFO))
    sort = filters.get("sort", "")
    column = sort.removeprefix("-")
    if value_of := POD_VALUES.get(column):
        if column in USAGE:
            await view.prefetch(pods, [column])
        pods = _sort_by([(value_of(view, pod), pod) for pod in pods], sort)
    await view.prefetch(pods[:ROWS], USAGE)
    freshness = Freshness(all_resources(view, "cluster"))
    return {
        "rows": [
            {
                "pod": lenient(pod),
                "link": page_url("pod", namespace=pod.namespace, name=pod.name),
                "severity": pod.severity, "tone": TONE_OF[pod.severity],
                "is_stale": freshness.is_stale(pod.namespace),
                **{name: value_of(view, pod) for name, value_of in POD_VALUES.items()},
            }
            for pod in pods[:ROWS]
        ],
        "more": max(0, len(pods) - ROWS),
        "total": len(pods),
        "columns": _column_heads("pods", filters, POD_COLUMNS),
    }  # fmt: skip


async def workload_pods(view: DataView, filters: Filters) -> Values:
    """The pods of a workload."""
    return await pod_table(
        view, {"namespace": filters.get("namespace", ""), "workload": filters.get("name", "")}
    )


async def node_pods(view: DataView, filters: Filters) -> Values:
    """The pods of a node."""
    node = find_node(view, filters)
    namespace = node.namespace if node is not None else filters.get("namespace", "")
    return await pod_table(view, {"node": node_filter(namespace, filters.get("name", ""))})


def _column_heads(
    page: str, filters: Filters, columns: Sequence[tuple[str, str, bool]]
) -> list[dict[str, Any]]:
    """The heads of a table; each sorts by its column, or reverses that order."""
    sort = filters.get("sort", "")
    kept = {name: value for name, value in filters.items() if name != "sort"}
    heads = []
    for name, title, is_number in columns:
        first, other = (f"-{name}", name) if name in DESCENDING else (name, f"-{name}")
        heads.append(
            {
                "title": title,
                "right": is_number,
                "link": page_url(page, **{**kept, "sort": other if sort == first else first}),
                "sorted": {"": "", name: "ascending", f"-{name}": "descending"}.get(sort, ""),
            }
        )
    return heads


def _sort_by(items: Iterable[tuple[Any, Item]], sort: str) -> list[Item]:
    """Items by the value that each comes with; those without one last."""
    known: list[tuple[Any, Item]] = []
    unknown: list[tuple[Any, Item]] = []
    for value, item in items:
        (unknown if value in (None, "") else known).append((value, item))
    known.sort(
        key=lambda pair: pair[0].casefold() if isinstance(pair[0], str) else pair[0],
        reverse=sort.startswith("-"),
    )
    return [item for _, item in (*known, *unknown)]
