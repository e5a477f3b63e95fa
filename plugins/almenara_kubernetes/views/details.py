"""The pages of one pod, one workload and one node."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.hookspecs import DataView
from almenara.signals import Resource
from almenara_kubernetes.charts import draw_cells
from almenara_kubernetes.kinds import READABLE
from almenara_kubernetes.links import cluster_of, owner_url, page_url
from almenara_kubernetes.pod_filter import (
    PodFilter,
    all_resources,
    clusters_with_pods,
    find_node,
    node_filter,
    select_pods,
)
from almenara_kubernetes.views import UNNAMED, Filters, Freshness, LenientState, Values, lenient
from almenara_kubernetes.views.maps import LINKED, node_fill
from almenara_kubernetes.views.tables import workload_row

RUNS: Final = 10


def _find_pod(view: DataView, filters: Filters) -> Resource | None:
    return view.resource("kubernetes.pod", filters.get("namespace", ""), filters.get("name", ""))


def _owner_links(namespace: str, state: Mapping[str, Any]) -> list[tuple[str, str]]:
    owners = reversed(state.get("owners") or ())
    return [(owner, owner_url(namespace, owner)) for owner in owners]


def _unreachable(view: DataView, namespace: str) -> Resource | None:
    """The cluster of a namespace where it does not answer, so that what is displayed is old."""
    freshness = Freshness(all_resources(view, "cluster"))
    if not freshness.is_stale(namespace):
        return None
    name = namespace.partition("/")[0]
    return next(
        (lenient(cluster) for cluster in freshness.unreachable if cluster.name in (name, UNNAMED)),
        None,
    )


async def pod_detail(view: DataView, filters: Filters) -> Values:
    """One pod: status, placement, resources and conditions."""
    namespace, name = filters.get("namespace", ""), filters.get("name", "")
    pod = _find_pod(view, filters)
    if pod is None:
        return {"pod": None, "name": name}
    pod = lenient(pod)
    services = [
        (service.name, page_url("pods", namespace=namespace, service=service.name))
        for service in all_resources(view, "service", namespace)
        if name in service.state.get("pods", ())
    ]
    return {
        "pod": pod, "state": pod.state, "services": services,
        "unreachable": _unreachable(view, namespace),
        "owners": _owner_links(namespace, pod.state),
        "node_link": page_url(
            "node", namespace=cluster_of(namespace), name=pod.state.get("node", "")
        ),
        "namespace_link": page_url(namespace=namespace),
        "yaml": page_url("yaml", namespace=namespace, name=f"Pod/{name}"),
    }  # fmt: skip


async def containers(view: DataView, filters: Filters) -> Values:
    """The containers of a pod, each with the links to its logs."""
    pod = _find_pod(view, filters)
    address = {"namespace": filters.get("namespace", ""), "name": filters.get("name", "")}
    rows = (lenient(pod).state["containers"] if pod is not None else None) or ()
    return {
        "rows": [
            {
                "container": container,
                "severity": _container_severity(container),
                "logs": page_url("pod", **address, container=container["name"]),
                "previous": page_url("pod", **address, container=container["name"], previous="yes")
                if container["restarts"]
                else "",
            }
            for container in rows
        ]
    }


def _container_severity(container: Mapping[str, Any]) -> str:
    match container["state"]:
        case "Running":
            return "INFO" if container["ready"] else "WARN"
        case "Completed":
            return "DEBUG"
        case "ContainerCreating" | "PodInitializing" | "" | None:
            return "WARN"
    return "ERROR"


async def workload_detail(view: DataView, filters: Filters) -> Values:
    """One workload: its rollout, its pods, its autoscaler and the runs of a CronJob."""
    namespace, full_name = filters.get("namespace", ""), filters.get("name", "")
    kind, _, name = full_name.partition("/")
    resource = view.resource(f"kubernetes.{kind.lower()}", namespace, name)
    state = lenient(resource).state if resource is not None else LenientState()
    pods = select_pods(view, PodFilter(namespace=namespace, workload=full_name))
    exists = resource is not None or bool(pods)
    return {
        "row": workload_row(resource, pods, (namespace, full_name)) if exists else None,
        "name": full_name, "state": state, "pods": len(pods),
        "unreachable": _unreachable(view, namespace),
        "picture": draw_cells(pods, room=LINKED, each=True),
        "owners": _owner_links(namespace, state),
        "autoscalers": [
            lenient(autoscaler)
            for autoscaler in all_resources(view, "horizontalpodautoscaler", namespace)
            if autoscaler.state.get("target") == full_name
        ],
        "yaml": page_url("yaml", namespace=namespace, name=full_name) if kind in READABLE else "",
        "runs": _runs(view, namespace, full_name),
    }  # fmt: skip


def _runs(view: DataView, namespace: str, owner: str) -> Sequence[Resource]:
    """The latest jobs of a CronJob."""
    jobs = [
        job
        for job in all_resources(view, "job", namespace)
        if owner in (job.state.get("owners") or ())
    ]
    return sorted(jobs, key=lambda job: -job.state.get("created", 0))[:RUNS]


async def node_detail(view: DataView, filters: Filters) -> Values:
    """One node: its usage, its conditions and its taints."""
    node = find_node(view, filters)
    if node is None:
        return {"node": None, "name": filters.get("name", "")}
    pods = select_pods(view, PodFilter(node=node_filter(node.namespace, node.name)))
    return {
        "node": lenient(node),
        **node_fill(view, node, pods if node.namespace in clusters_with_pods(view) else None),
        "unreachable": _unreachable(view, node.namespace),
        "state": lenient(node).state,
        "picture": draw_cells(pods, room=LINKED, each=True),
    }
