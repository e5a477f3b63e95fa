"""Selecting pods, and grouping them by workload, service, node, namespace or label."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from almenara.hookspecs import DataView, ResourceQuery
from almenara.signals import Resource, Severity
from almenara_kubernetes.charts import display_status
from almenara_kubernetes.links import cluster_of, page_url
from almenara_kubernetes.mapping.kubectl_columns import FINAL_PHASES

ALL: Final = 200_000
"""A limit that no cluster reaches."""
GROUPINGS: Final[Mapping[str, str]] = {
    "namespace": "Namespace", "workload": "Workload", "service": "Service", "node": "Node",
    "app.kubernetes.io/name": "App", "app.kubernetes.io/part-of": "Part of",
}  # fmt: skip
"""The groupings to choose from, by the value of the filter `group`, which may be any label."""
NONE: Final = "none"
"""The group of pods that are in no other."""
STATUS_GROUPS: Final[Mapping[str, Sequence[Severity]]] = {
    "failing": (Severity.ERROR, Severity.FATAL), "pending": (Severity.WARN,),
    "ready": (Severity.INFO,), "completed": (Severity.DEBUG,),
}  # fmt: skip
"""Values of the filter `status` that stand for many statuses."""
STATUS_GROUP_OF: Final = {
    severity: name for name, severities in STATUS_GROUPS.items() for severity in severities
}

Group = tuple[str, str]
"""Namespace, empty where it has none, and name. The namespace of a node is its cluster."""


def _node_of(pod: Resource) -> Group:
    node = pod.state.get("node", "")
    return (cluster_of(pod.namespace), node) if node else ("", NONE)


GROUP_OF: Final[Mapping[str, Callable[[Resource], Group]]] = {
    "namespace": lambda pod: ("", pod.namespace),
    "node": _node_of,
    "workload": lambda pod: (pod.namespace, pod.state.get("workload") or f"Pod/{pod.name}"),
}
"""The group of a pod, by grouping; any other grouping is a label."""


def all_resources(view: DataView, kind: str, namespace: str = "") -> Sequence[Resource]:
    """All resources of a kind, of one namespace or of all."""
    return view.resources(ResourceQuery(kind=f"kubernetes.{kind}", namespace=namespace, limit=ALL))


def clusters_with_pods(view: DataView) -> set[str]:
    """The clusters of which pods are known; none are where their kind is not watched."""
    return {cluster_of(pod.namespace) for pod in all_resources(view, "pod")}


def is_active(pod: Resource) -> bool:
    """Whether a pod uses what it requests: all do until they have succeeded or failed."""
    return pod.state.get("phase") not in FINAL_PHASES


class PodFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which pods to select; an empty field selects all."""

    namespace: str = ""
    workload: str = ""
    """`Deployment/checkout`."""
    service: str = ""
    node: str = ""
    """`worker-1`, `<cluster>/worker-1` for that of one cluster, or `NONE`."""
    label: str = ""
    """`app.kubernetes.io/name=checkout`, or the name alone."""
    status: str = ""
    """As kubectl prints it, or one of `STATUS_GROUPS`."""
    text: str = ""

    @classmethod
    def from_filters(cls, filters: Mapping[str, str]) -> "PodFilter":
        """The selection by the filters of a panel."""
        return cls(**{name: filters.get(name, "") for name in cls.__struct_fields__})

    def to_filters(self) -> dict[str, str]:
        """The filters of a panel that select the same."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name))}


def select_pods(view: DataView, selection: PodFilter) -> list[Resource]:
    """The selected pods, by namespace and name."""
    tests: list[Callable[[Resource], bool]] = []
    if selection.namespace:
        tests.append(lambda pod: pod.namespace == selection.namespace)
    if selection.workload:
        tests.append(lambda pod: pod.state.get("workload") == selection.workload)
    if selection.node:
        tests.append(_node_test(selection.node))
    if selection.status in STATUS_GROUPS:
        severities = STATUS_GROUPS[selection.status]
        tests.append(lambda pod: pod.severity in severities)
    elif selection.status:
        status = selection.status.casefold()
        tests.append(lambda pod: display_status(pod).casefold() == status)
    if selection.label:
        tests.append(_label_test(selection.label))
    if selection.service:
        pods = {
            (service.namespace, name)
            for service in all_resources(view, "service")
            if service.name == selection.service
            for name in service.state.get("pods", ())
        }
        tests.append(lambda pod: (pod.namespace, pod.name) in pods)
    if selection.text:
        words = selection.text.casefold().split()
        tests.append(lambda pod: all(word in _searchable_text(pod) for word in words))
    selected = list(all_resources(view, "pod", selection.namespace))
    for test in tests:
        selected = list(filter(test, selected))
    return selected


def node_filter(namespace: str, name: str) -> str:
    """The value of the filter `node` for a node."""
    return "/".join(filter(None, (namespace, name)))


def find_node(view: DataView, filters: Mapping[str, str]) -> Resource | None:
    """The node that a page is about. Its cluster may be left out where no other has its name."""
    namespace, name = filters.get("namespace", ""), filters.get("name", "")
    node = view.resource("kubernetes.node", namespace, name)
    if node is not None or namespace:
        return node
    nodes = [node for node in all_resources(view, "node") if node.name == name]
    return nodes[0] if len(nodes) == 1 else None


def _node_test(node: str) -> Callable[[Resource], bool]:
    if node == NONE:
        return lambda pod: not pod.state.get("node")
    cluster, slash, name = node.rpartition("/")
    return lambda pod: (
        pod.state.get("node") == name and (not slash or cluster_of(pod.namespace) == cluster)
    )


def _label_test(label: str) -> Callable[[Resource], bool]:
    name, equals, value = label.partition("=")

    def test(pod: Resource) -> bool:
        actual = pod.state.get("labels", {}).get(name)
        return actual is not None and (not equals or actual == value)

    return test


def _searchable_text(pod: Resource) -> str:
    state = pod.state
    labels = " ".join(f"{name}={value}" for name, value in state.get("labels", {}).items())
    return (
        f"{pod.namespace} {pod.name} {pod.status} {state.get('workload', '')}"
        f" {state.get('node', '')} {state.get('image', '')} {labels}"
    ).casefold()


def group_pods(view: DataView, pods: Iterable[Resource], by: str) -> dict[Group, list[Resource]]:
    """Pods by their group. One behind several services is in the group of each."""
    groups: dict[Group, list[Resource]] = defaultdict(list)
    if by == "service":
        services: dict[Group, list[str]] = defaultdict(list)
        for service in all_resources(view, "service"):
            for name in service.state.get("pods", ()):
                services[service.namespace, name].append(service.name)
        for pod in pods:
            for name in services.get((pod.namespace, pod.name), [""]):
                groups[(pod.namespace, name) if name else ("", NONE)].append(pod)
        return groups
    group_of = GROUP_OF.get(by) or (lambda pod: ("", pod.state.get("labels", {}).get(by, NONE)))
    for pod in pods:
        groups[group_of(pod)].append(pod)
    return groups


def group_url(by: str, group: Group) -> str:
    """The page of a group."""
    namespace, name = group
    match by:
        case "namespace":
            return page_url(namespace=name)
        case "node":
            if name == NONE:
                return page_url("pods", node=NONE)
            return page_url("node", namespace=namespace, name=name)
        case "workload":
            return page_url("workload", namespace=namespace, name=name)
        case "service":
            return page_url("pods", namespace=namespace, service=name)
        case _:
            return page_url("pods", label=f"{by}={name}")


def natural_key(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, so that `node-2` comes before `node-10`."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d{1,18})", name)
    ]
