"""The panels and pages of the plugin: what each shows, accepts and is drawn anew by."""

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
from almenara_kubernetes import showing
from almenara_kubernetes.grouping import GROUPINGS
from almenara_kubernetes.settings import KubernetesSettings
from almenara_kubernetes.watched import custom

TEXT: Final = Filter(
    name="text", label="Search", hint="words of name, image, node"
)  # fmt: skip
LABEL: Final = Filter(name="label", label="Label", hint="app=web")
STATUS: Final = Filter(name="status", label="Status", hint="Running, or bad, wait, ok, done")
NAMESPACE: Final = Filter(name="namespace", label="Namespace", hint="its whole name")
WORKLOAD: Final = Filter(name="workload", label="Workload", hint="Deployment/checkout")
SERVICE: Final = Filter(name="service", label="Service", hint="its name")
NODE: Final = Filter(name="node", label="Node", hint="its name, or none")
GROUP: Final = Filter(name="group", label="Grouped by", choices=tuple(GROUPINGS), hint="namespace")
KIND: Final = Filter(
    name="kind", label="Kind", choices=(*showing.API_KINDS, "RayCluster"), hint="any"
)  # fmt: skip
SINCE: Final = Filter(name="since", label="Since", hint="15m, 2h, or a date")
SEVERITY: Final = Filter(name="severity", label="Severity")
IN_LOG: Final = Filter(name="text", label="Search the log", hint="every word")
CONTAINER: Final = Filter(name="container", label="Log of container", hint="all that run")
PREVIOUS: Final = Filter(
    name="previous", label="Log before the last restart", choices=("yes",), hint="no"
)  # fmt: skip
IN_YAML: Final = Filter(name="text", label="Lines with", hint="every word")
NARROWING: Final = (NAMESPACE, WORKLOAD, SERVICE, NODE, LABEL, STATUS, TEXT)
PODS: Final = ResourceQuery(kind="kubernetes.pod")
ANY: Final = ResourceQuery(kind="kubernetes.>")
EVENTS: Final = EventQuery(filter={"type": "kubernetes.>"})
AGES: Final = 10.0
"""Seconds after which ages are drawn anew."""
TITLES: Final[Mapping[str, str]] = {
    "service": "Services", "ingress": "Ingresses", "certificate": "Certificates",
    "persistentvolumeclaim": "Volume claims", "horizontalpodautoscaler": "Autoscalers",
}  # fmt: skip


def _drawn(
    name: str, title: str, template: str, prepare: Prepare, *,
    query: ResourceQuery | EventQuery = PODS, filters: Sequence[str | Filter] = NARROWING,
    **more: Any,
) -> Panel:  # fmt: skip
    return TemplatePanel(
        name=name, title=title, template=f"{template}.html", prepare=prepare,
        query=query, filters=filters, width=more.pop("width", 12), **more,
    )  # fmt: skip


def panels(settings: KubernetesSettings) -> Sequence[Panel]:
    """Every panel of the plugin."""
    one = ("namespace", "name")
    return [
        _drawn("head", "Pods by status", "head", showing.head, query=ANY,
               filters=(*NARROWING, "tab")),
        _drawn("glance", "Kubernetes", "glance", showing.glance, query=ANY, filters=(), width=6,
               on_overview=True),
        _drawn("access", "Not seen", "access", showing.access,
               query=ResourceQuery(kind="kubernetes.access"), filters=()),
        _drawn("map", "Pods", "map", showing.pod_map, filters=(*NARROWING, GROUP)),
        _drawn(
            "workloads", "Workloads", "workloads", showing.workload_table, query=ANY,
            filters=(*NARROWING, KIND, "sort"), refresh=AGES,
        ),
        _drawn(
            "pods", "Pods", "pods", showing.pod_table, filters=(*NARROWING, "sort"), refresh=AGES,
        ),
        _drawn("nodes", "Nodes", "nodes", showing.node_map, query=ANY),
        _drawn(
            "events", "Kubernetes events", "happened", showing.events, query=EVENTS,
            filters=(NAMESPACE, SEVERITY, TEXT, SINCE), refresh=AGES,
        ),
        _drawn("pod", "Pod", "pod", showing.pod_detail, query=ANY, filters=one, refresh=AGES,
               width=7),
        _drawn("usage", "Usage", "usage", showing.usage, filters=one, width=5),
        _drawn("containers", "Containers", "containers", showing.containers, filters=one,
               refresh=AGES),
        _drawn("timeline", "What happened", "happened", showing.timeline, query=EVENTS,
               filters=one, refresh=AGES, width=4, height=6),
        LogPanel(
            name="logs", title="Logs", query=LogQuery(stream="pod-logs", limit=500),
            filters=(*one, CONTAINER, PREVIOUS, IN_LOG), width=8,
            empty="No line was written yet.",
        ),
        LogPanel(
            name="manifest", title="As the API server has it, without its secrets",
            query=LogQuery(stream="manifest", limit=5000), filters=(*one, IN_YAML), width=12,
        ),
        _drawn("workload", "Workload", "workload", showing.workload_detail, query=ANY,
               filters=one, refresh=AGES, width=7),
        _drawn("workload_pods", "Its pods", "pods", showing.workload_pods, filters=one,
               refresh=AGES),
        _drawn("workload_timeline", "What happened", "happened", showing.workload_timeline,
               query=EVENTS, filters=one, refresh=AGES, width=5, height=8),
        _drawn("node", "Node", "node", showing.node_detail, query=ANY, filters=one, refresh=AGES,
               width=7),
        _drawn("node_pods", "Its pods", "pods", showing.node_pods, filters=one, refresh=AGES),
        _drawn("node_timeline", "What happened", "happened", showing.node_timeline, query=EVENTS,
               filters=one, refresh=AGES, width=5, height=8),
        *_tables(),
        *_custom(settings),
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
            ("Address", "state.cluster_ip"), ("Outside", "state.external"),
            ("Age", "state.created", "age"),
        ], empty="No service is known."),
        _table("ingress", [
            ("Hosts", "state.hosts"), ("Rules", "state.rules"), ("Class", "state.class"),
            ("Address", "state.address"), ("Age", "state.created", "age"),
        ], empty="No ingress is known."),
        _table("certificate", [
            ("Names", "state.names"), ("Expires", "state.expires", "time"),
            ("Renewal", "state.renewal", "time"), ("Issuer", "state.issuer"),
            ("Why", "state.message"),
        ], empty="No certificate of cert-manager is known."),
        _table("persistentvolumeclaim", [
            ("Asked for", "state.requested", "bytes"), ("Has", "state.capacity", "bytes"),
            ("Class", "state.class"), ("Volume", "state.volume"), ("Age", "state.created", "age"),
        ], empty="No volume claim is known."),
        _table("horizontalpodautoscaler", [
            ("Steers", "state.target"), ("Now", "state.current", "number"),
            ("Wanted", "state.desired", "number"), ("From", "state.min", "number"),
            ("To", "state.max", "number"), ("Why", "state.message"),
        ], empty="No autoscaler is known."),
    ]  # fmt: skip


def _custom(settings: KubernetesSettings) -> Sequence[Panel]:
    return [
        _table(
            f"custom_{it.plural}",
            # What has dots in its title would be looked for further down.
            [(column.title, f"state.{column.title}") for column in it.columns][:9],
            title=it.kind,
            query=ResourceQuery(
                kind=custom(
                    group=it.group, version=it.version, plural=it.plural, kind=it.kind
                ).kind
            ),
            empty=f"No {it.kind} is known.",
        )
        for it in settings.custom
    ]  # fmt: skip


def pages(settings: KubernetesSettings) -> Sequence[Page]:
    """The pages that the panels make up."""
    custom_panels = [f"custom_{it.plural}" for it in settings.custom]
    return [
        Page(name="main", title="Kubernetes", panels=[_head(""), "map", "workloads"],
             filters=("namespace", "label", "text")),
        Page(name="pods", title="Pods", panels=[_head("pods"), "pods"],
             filters=("namespace", "workload", "node", "label", "status", "text")),
        Page(name="nodes", title="Nodes", panels=[_head("nodes"), "nodes"],
             filters=("namespace", "label", "text")),
        Page(name="events", title="Kubernetes events", panels=[_head("events"), "events"],
             filters=("namespace", "severity", "text", "since")),
        Page(name="cluster", title="Traffic and storage",
             panels=[_head("cluster"), *TITLES, *custom_panels], filters=("namespace", "text")),
        Page(name="pod", title="Pod", panels=["pod", "usage", "containers", "logs", "timeline"],
             filters=("container", "previous", "text")),
        Page(name="workload", title="Workload",
             panels=["workload", "workload_timeline", "workload_pods"]),
        Page(name="node", title="Node", panels=["node", "node_timeline", "node_pods"]),
        Page(name="access", title="What is not seen", panels=["access"]),
        Page(name="yaml", title="YAML", panels=["manifest"], filters=("text",)),
    ]  # fmt: skip


def _head(tab: str) -> PlacedPanel:
    return PlacedPanel(panel="head", filter={"tab": tab or "main"})
