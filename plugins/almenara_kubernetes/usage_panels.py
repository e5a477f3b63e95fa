"""The charts of what pods and nodes use, beside what they request and may use."""

from collections.abc import Sequence
from typing import Any, Final

from almenara.hookspecs import (
    DataView,
    Format,
    Level,
    Marks,
    Panel,
    SampleQuery,
    SelectResources,
    SeriesPanel,
)
from almenara.signals import Resource, Severity
from almenara_kubernetes.links import WORKLOAD_KINDS
from almenara_kubernetes.pod_counts import NAMESPACE
from almenara_kubernetes.pod_filter import PodFilter, find_node, node_filter, select_pods
from almenara_kubernetes.views import Filters

POD: Final = "kubernetes.pod"
NODE: Final = "kubernetes.node"
OBJECT: Final = ("namespace", "name")
METRICS: Final[Sequence[tuple[str, str, Format]]] = (
    ("cpu", "CPU cores", "number"), ("memory", "Memory", "bytes"),
)  # fmt: skip
NO_USAGE: Final = "No samples yet. They come from metrics.k8s.io, where the cluster serves it."
NO_NAMESPACE: Final = "Choose a namespace to see what its pods use."
KIND_OF: Final = {title: kind for kind, title in WORKLOAD_KINDS.items()}


async def pods_of_workload(view: DataView, filters: Filters) -> Sequence[Resource]:
    """The pods of the workload that a page is about."""
    namespace, workload = filters.get("namespace", ""), filters.get("name", "")
    return select_pods(view, PodFilter(namespace=namespace, workload=workload))


async def pods_of_node(view: DataView, filters: Filters) -> Sequence[Resource]:
    """The pods on the node that a page is about."""
    node = find_node(view, filters)
    if node is None:
        return []
    return select_pods(view, PodFilter(node=node_filter(node.namespace, node.name)))


async def pods_of_namespace(view: DataView, filters: Filters) -> Sequence[Resource]:
    """The pods of the namespace that is chosen."""
    namespace = filters.get("namespace")
    return select_pods(view, PodFilter(namespace=namespace)) if namespace else []


def _pod_subject(filters: Filters) -> Filters:
    return {"subject": f"pod/{filters.get('namespace', '')}/{filters.get('name', '')}"}


def _workload_correlation(filters: Filters) -> Filters:
    kind, _, name = filters.get("name", "").partition("/")
    kind = KIND_OF.get(kind, kind.lower())
    return {"correlation": f"{kind}/{filters.get('namespace', '')}/{name}"}


RESTARTS: Final = {"type": "kubernetes.pod.restarted"}
ROLLOUTS: Final = {"type": "kubernetes.rollout.*"}
POD_MARKS: Final = (Marks(title="Restarts", filter=RESTARTS, narrow=_pod_subject),)
WORKLOAD_MARKS: Final = (
    Marks(title="Rollouts", filter=ROLLOUTS, narrow=_workload_correlation),
    Marks(title="Restarts", filter=RESTARTS, narrow=_workload_correlation),
)


def _levels(metric: str) -> Sequence[Level]:
    return (
        Level(title="request", path=f"state.{metric}_request"),
        Level(title="limit", path=f"state.{metric}_limit", severity=Severity.WARN),
    )


def _of_pods(
    prefix: str, select: SelectResources, *, filters: Sequence[str] = OBJECT,
    marks: Sequence[Marks] = (), empty: str = NO_USAGE,
) -> Sequence[Panel]:  # fmt: skip
    """All pods together beside their requests and limits, each pod, and restarts."""
    common: dict[str, Any] = {
        "filters": filters, "select": select, "marks": marks, "empty": empty,
    }  # fmt: skip
    panels: list[Panel] = []
    for metric, title, value_format in METRICS:
        query = SampleQuery(kind=POD, metric=metric)
        panels += [
            SeriesPanel(
                name=f"{prefix}_{metric}", title=f"{title}, all pods", query=query,
                format=value_format, style="area", combined=True, levels=_levels(metric),
                **common,
            ),
            SeriesPanel(
                name=f"{prefix}_{metric}_pods", title=f"{title} by pod", query=query,
                format=value_format, **common,
            ),
        ]  # fmt: skip
    restarts = SampleQuery(kind=POD, metric="restarts", function="max")
    common["empty"] = "No container has restarted."
    return [
        *panels, SeriesPanel(name=f"{prefix}_restarts", title="Restarts by pod", query=restarts,
                             **common)
    ]  # fmt: skip


def list_usage_panels() -> Sequence[Panel]:
    """The charts of pods, workloads, nodes and namespaces."""
    panels: list[Panel] = []
    for metric, title, value_format in METRICS:
        capacity = Level(title="allocatable", path=f"state.{metric}")
        panels += [
            SeriesPanel(
                name=f"pod_{metric}", title=title, query=SampleQuery(kind=POD, metric=metric),
                format=value_format, style="area", levels=_levels(metric), marks=POD_MARKS,
                filters=OBJECT, empty=NO_USAGE,
            ),
            SeriesPanel(
                name=f"node_{metric}", title=title, query=SampleQuery(kind=NODE, metric=metric),
                format=value_format, style="area", levels=[capacity], filters=OBJECT,
                empty=NO_USAGE,
            ),
            SeriesPanel(
                name=f"nodes_{metric}", title=f"{title}, nodes",
                query=SampleQuery(kind=NODE, metric=metric, limit=12), format=value_format,
                empty=NO_USAGE,
            ),
        ]  # fmt: skip
    panels += [
        SeriesPanel(
            name=f"{metric}_pods", title=f"{title} pods by namespace", format="number",
            query=SampleQuery(kind=NAMESPACE, metric=metric, function="max"),
            filters=["namespace"], width=6, line_names="namespace",
            empty="No pods have been counted yet.",
        )
        for metric, title in (("pending", "Pending"), ("failing", "Failing"))
    ]  # fmt: skip
    return [
        *panels,
        *_of_pods("workload", pods_of_workload, marks=WORKLOAD_MARKS),
        *_of_pods("node_pods", pods_of_node),
        *_of_pods(
            "namespace", pods_of_namespace, filters=["namespace"], empty=NO_NAMESPACE
        ),
    ]  # fmt: skip


def chart_names(prefix: str) -> Sequence[str]:
    """The names of the charts of a selection of pods."""
    names = [f"{prefix}_{metric}{suffix}" for metric, *_ in METRICS for suffix in ("", "_pods")]
    return [*names, f"{prefix}_restarts"]
