"""The panels and pages of the plugin: the filters, queries and templates of each."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.config import PlacedPanel
from almenara.hookspecs import (
    Column,
    EventQuery,
    Filter,
    LogPanel,
    LogQuery,
    Page,
    Panel,
    Prepare,
    ResourceQuery,
    TablePanel,
    TemplatePanel,
)
from almenara_kubernetes.links import WORKLOAD_KINDS
from almenara_kubernetes.pod_filter import GROUPINGS, STATUS_GROUPS
from almenara_kubernetes.settings import (
    CustomResource,
    KubernetesSettings,
    custom_resource_kind,
)
from almenara_kubernetes.usage_panels import chart_names, list_usage_panels
from almenara_kubernetes.views import activity, details, maps, overview, tables

TEXT: Final = Filter(name="text", label="Search", hint="words of name, image, node")
LABEL: Final = Filter(name="label", label="Label", hint="app=web")
STATUS: Final = Filter(
    name="status", label="Status", hint=f"Running, or {', '.join(STATUS_GROUPS)}"
)
NAMESPACE: Final = Filter(name="namespace", label="Namespace", hint="exact namespace")
WORKLOAD: Final = Filter(name="workload", label="Workload", hint="Deployment/checkout")
SERVICE: Final = Filter(name="service", label="Service", hint="service name")
NODE: Final = Filter(name="node", label="Node", hint="node name, or none")
GROUP: Final = Filter(name="group", label="Group by", choices=tuple(GROUPINGS), hint="namespace")
KIND: Final = Filter(
    name="kind", label="Kind", choices=(*WORKLOAD_KINDS.values(), "RayCluster"), hint="any"
)
SINCE: Final = Filter(name="since", label="From", hint="15m, 2h, or a date")
SEVERITY: Final = Filter(name="severity", label="Severity")
LOG_TEXT: Final = Filter(name="text", label="Search logs", hint="every word")
CONTAINER: Final = Filter(name="container", label="Container", hint="default containers")
PREVIOUS: Final = Filter(name="previous", label="Previous container", choices=("yes",), hint="no")
YAML_TEXT: Final = Filter(name="text", label="Filter lines", hint="every word")
POD_FILTERS: Final = (NAMESPACE, WORKLOAD, SERVICE, NODE, LABEL, STATUS, TEXT)
OBJECT: Final = ("namespace", "name")
PODS: Final = ResourceQuery(kind="kubernetes.pod")
RESOURCES: Final = ResourceQuery(kind="kubernetes.>")
EVENTS: Final = EventQuery(filter={"type": "kubernetes.>"})
AGES: Final = 10.0
"""Seconds after which panels are rendered again, for ages and for clusters that do not answer."""
TITLES: Final[Mapping[str, str]] = {
    "service": "Services", "ingress": "Ingresses", "certificate": "Certificates",
    "persistentvolumeclaim": "Persistent volume claims",
    "horizontalpodautoscaler": "Horizontal pod autoscalers",
}  # fmt: skip
CUSTOM_COLUMNS: Final = 9


def panels(settings: KubernetesSettings) -> Sequence[Panel]:
    """Every panel of the plugin."""
    return [
        *_cluster_panels(),
        *_object_panels(),
        *list_usage_panels(),
        *_log_panels(),
        *_tables(),
        *(_custom_table(resource, settings) for resource in settings.custom),
    ]


def _template(
    name: str, title: str, template: str, prepare: Prepare, *,
    query: ResourceQuery | EventQuery = PODS, filters: Sequence[str | Filter] = POD_FILTERS,
    width: int = 12, **more: Any,
) -> Panel:  # fmt: skip
    return TemplatePanel(
        name=name, title=title, template=f"{template}.html", prepare=prepare, query=query,
        filters=filters, width=width, **more,
    )  # fmt: skip


def _cluster_panels() -> Sequence[Panel]:
    return [
        _template(
            "head", "Pods by status", "head", overview.head, query=RESOURCES,
            filters=(*POD_FILTERS, "tab"),
        ),
        _template(
            "glance", "Kubernetes", "glance", overview.glance, query=RESOURCES, filters=(),
            width=6, on_overview=True,
        ),
        _template(
            "access", "Missing permissions", "access", overview.access,
            query=ResourceQuery(kind="kubernetes.access"), filters=(),
        ),
        _template(
            "map", "Pods", "map", maps.pod_map, filters=(*POD_FILTERS, GROUP), refresh=AGES
        ),
        _template(
            "workloads", "Workloads", "workloads", tables.workload_table, query=RESOURCES,
            filters=(*POD_FILTERS, KIND, "sort"), refresh=AGES,
        ),
        _template(
            "pods", "Pods", "pods", tables.pod_table, filters=(*POD_FILTERS, "sort"),
            refresh=AGES,
        ),
        _template("nodes", "Nodes", "nodes", maps.node_map, query=RESOURCES),
        _template(
            "events", "Kubernetes events", "activity", activity.events, query=EVENTS,
            filters=(NAMESPACE, SEVERITY, TEXT, SINCE), refresh=AGES,
        ),
    ]  # fmt: skip


def _object_panels() -> Sequence[Panel]:
    return [
        _template(
            "pod", "Pod", "pod", details.pod_detail, query=RESOURCES, filters=OBJECT,
            refresh=AGES,
        ),
        _template(
            "containers", "Containers", "containers", details.containers, filters=OBJECT,
            refresh=AGES,
        ),
        _template(
            "timeline", "Activity", "activity", activity.pod_activity, query=EVENTS,
            filters=OBJECT, refresh=AGES, width=4, height=6,
        ),
        _template(
            "workload", "Workload", "workload", details.workload_detail, query=RESOURCES,
            filters=OBJECT, refresh=AGES, width=7,
        ),
        _template(
            "workload_pods", "Pods", "pods", tables.workload_pods, filters=OBJECT, refresh=AGES
        ),
        _template(
            "workload_timeline", "Activity", "activity", activity.workload_activity,
            query=EVENTS, filters=OBJECT, refresh=AGES, width=5, height=8,
        ),
        _template(
            "node", "Node", "node", details.node_detail, query=RESOURCES, filters=OBJECT,
            refresh=AGES, width=7,
        ),
        _template("node_pods", "Pods", "pods", tables.node_pods, filters=OBJECT, refresh=AGES),
        _template(
            "node_timeline", "Activity", "activity", activity.node_activity, query=EVENTS,
            filters=OBJECT, refresh=AGES, width=5, height=8,
        ),
    ]  # fmt: skip


def _log_panels() -> Sequence[Panel]:
    return [
        LogPanel(
            name="logs", title="Logs", query=LogQuery(stream="pod-logs", limit=500),
            filters=(*OBJECT, CONTAINER, PREVIOUS, LOG_TEXT), width=8, empty="No lines yet.",
        ),
        LogPanel(
            name="manifest", title="YAML, with secrets masked",
            query=LogQuery(stream="manifest", limit=5000), filters=(*OBJECT, YAML_TEXT), width=12,
        ),
    ]  # fmt: skip


def _table(name: str, columns: Sequence[tuple[str, ...]], **more: Any) -> Panel:
    return TablePanel(
        name=name, title=more.pop("title", TITLES.get(name, name)),
        query=more.pop("query", ResourceQuery(kind=f"kubernetes.{name}")),
        columns=[
            Column(title="Name", path="name"),
            Column(title="Namespace", path="namespace"),
            Column(title="Status", path="status", format="status"),
            *(
                Column(title=title, path=path, format=form[0] if form else "text")  # type: ignore[arg-type]
                for title, path, *form in columns
            ),
        ],
        filters=("namespace", "name", "status", "text"), width=12, **more,
    )  # fmt: skip


def _tables() -> Sequence[Panel]:
    return [
        _table("service", [
            ("Type", "state.type"), ("Ready", "state.ready", "number"),
            ("Endpoints", "state.endpoints", "number"), ("Ports", "state.ports"),
            ("Cluster IP", "state.cluster_ip"), ("External IP", "state.external"),
            ("Age", "state.created", "age"),
        ], empty="No services."),
        _table("ingress", [
            ("Hosts", "state.hosts"), ("Rules", "state.rules"), ("Class", "state.class"),
            ("Address", "state.address"), ("Age", "state.created", "age"),
        ], empty="No ingresses."),
        _table("certificate", [
            ("Names", "state.names"), ("Expires", "state.expires", "time"),
            ("Renewal", "state.renewal", "time"), ("Issuer", "state.issuer"),
            ("Message", "state.message"),
        ], empty="No certificates of cert-manager."),
        _table("persistentvolumeclaim", [
            ("Requested", "state.requested", "bytes"), ("Capacity", "state.capacity", "bytes"),
            ("Class", "state.class"), ("Volume", "state.volume"), ("Age", "state.created", "age"),
        ], empty="No persistent volume claims."),
        _table("horizontalpodautoscaler", [
            ("Target", "state.target"), ("Current", "state.current", "number"),
            ("Desired", "state.desired", "number"), ("Min", "state.min", "number"),
            ("Max", "state.max", "number"), ("Message", "state.message"),
        ], empty="No horizontal pod autoscalers."),
    ]  # fmt: skip


def _custom_panel_name(resource: CustomResource) -> str:
    """The panel of a custom resource: kinds of several groups may share a plural."""
    return re.sub(r"[^a-z0-9_-]", "_", f"custom_{resource.plural}_{resource.group}".lower())


def _custom_table(resource: CustomResource, settings: KubernetesSettings) -> Panel:
    is_ambiguous = sum(other.kind == resource.kind for other in settings.custom) > 1
    return _table(
        _custom_panel_name(resource),
        # A title with dots would be looked up as a path.
        [(column.title, f"state.{column.title}") for column in resource.columns][:CUSTOM_COLUMNS],
        title=f"{resource.kind} ({resource.group})" if is_ambiguous else resource.kind,
        query=ResourceQuery(kind=custom_resource_kind(resource).kind),
        empty=f"No objects of {resource.kind}.",
    )


def pages(settings: KubernetesSettings) -> Sequence[Page]:
    """The pages that the panels make up."""
    custom_panels = list(map(_custom_panel_name, settings.custom))
    return [
        Page(name="main", title="Kubernetes", panels=[_head(""), "map", "workloads"],
             filters=("namespace", "label", "text")),
        Page(name="pods", title="Pods", panels=[_head("pods"), "pods"],
             filters=("namespace", "workload", "node", "label", "status", "text")),
        Page(name="nodes", title="Nodes", panels=[_head("nodes"), "nodes"],
             filters=("namespace", "label", "text")),
        Page(name="events", title="Kubernetes events", panels=[_head("events"), "events"],
             filters=("namespace", "severity", "text", "since")),
        Page(name="cluster", title="Network and storage",
             panels=[_head("cluster"), *TITLES, *custom_panels], filters=("namespace", "text")),
        Page(name="usage", title="Usage", filters=("namespace",),
             panels=[_head("usage"), "pending_pods", "failing_pods", *chart_names("namespace"),
                     "nodes_cpu", "nodes_memory"]),
        Page(name="pod", title="Pod",
             panels=["pod", "pod_cpu", "pod_memory", "containers", "logs", "timeline"],
             filters=("container", "previous", "text")),
        Page(name="workload", title="Workload",
             panels=["workload", "workload_timeline", *chart_names("workload"), "workload_pods"]),
        Page(name="node", title="Node", panels=["node", "node_timeline", "node_cpu", "node_memory",
                     *chart_names("node_pods")[1::2], "node_pods"]),
        Page(name="access", title="Missing permissions", panels=["access"]),
        Page(name="yaml", title="YAML", panels=["manifest"], filters=("text",)),
    ]  # fmt: skip


def _head(tab: str) -> PlacedPanel:
    return PlacedPanel(panel="head", filter={"tab": tab or "main"})
