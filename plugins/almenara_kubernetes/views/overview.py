"""The head of the pages, the panel on the overview, and the missing permissions."""

from collections import Counter
from typing import Final

from almenara.hookspecs import DataView
from almenara.signals import Severity
from almenara_kubernetes.charts import TONE_OF, count_statuses, draw_bar
from almenara_kubernetes.links import page_url
from almenara_kubernetes.pod_filter import PodFilter, all_resources, select_pods
from almenara_kubernetes.views import Filters, Freshness, Values, lenient, plural

STATUSES: Final = 12
REFUSALS: Final = 2
"""Refused kinds up to which each is explained above every page."""
TABS: Final = (
    ("", "Workloads"), ("pods", "Pods"), ("nodes", "Nodes"), ("usage", "Usage"),
    ("events", "Events"),
    ("cluster", "Network and storage"),
)  # fmt: skip


async def head(view: DataView, filters: Filters) -> Values:
    """The tabs, the status of the clusters, and the pods by status."""
    selection = PodFilter.from_filters(filters)
    pods = select_pods(view, selection)
    counts = count_statuses(pods)
    kept = {name: value for name, value in selection.to_filters().items() if name != "status"}
    return {
        "tabs": [
            (
                page_url(name, namespace=selection.namespace),
                title,
                (name or "main") == filters.get("tab"),
            )
            for name, title in TABS
        ],
        "clusters": list(map(lenient, all_resources(view, "cluster"))),
        "refused": list(map(lenient, all_resources(view, "access"))),
        "refusals": REFUSALS,
        "pods": len(pods),
        "namespaces": len({pod.namespace for pod in pods}),
        "bar": draw_bar(counts),
        "statuses": [
            {
                "tone": tone, "status": status, "count": count,
                "link": page_url("pods", **kept, status=status),
                "is_chosen": status == selection.status,
            }
            for tone, status, count in counts[:STATUSES]
        ],
        "more_statuses": max(0, len(counts) - STATUSES),
        "filters": selection.to_filters(),
        "clear": page_url(),
    }  # fmt: skip


async def glance(view: DataView, _filters: Filters) -> Values:
    """The clusters in four figures, for the overview."""
    tones = Counter(TONE_OF.get(pod.severity, "bad") for pod in all_resources(view, "pod"))
    nodes = all_resources(view, "node")
    unhealthy = sum(node.severity >= Severity.WARN for node in nodes)
    failing, pending = tones["bad"], tones["wait"]
    figures = [
        {"value": failing, "label": plural(failing, "failing pod", "failing pods"),
         "link": page_url("pods", status="failing"), "worry": failing and "bad"},
        {"value": pending, "label": plural(pending, "pending pod", "pending pods"),
         "link": page_url("pods", status="pending"), "worry": pending and "warn"},
        {"value": tones.total(), "label": plural(tones.total(), "pod", "pods"),
         "link": page_url("pods")},
    ]  # fmt: skip
    if nodes:
        label = plural(unhealthy, "unhealthy node", "unhealthy nodes")
        figures.append(
            {"value": unhealthy, "label": f"{label} (of {len(nodes):,})",
             "link": page_url("nodes"), "worry": unhealthy and "bad"}
        )  # fmt: skip
    clusters = list(map(lenient, all_resources(view, "cluster")))
    unreachable = Freshness(clusters).unreachable
    return {
        "figures": figures,
        "clusters": clusters,
        "is_stale": bool(clusters) and len(unreachable) == len(clusters),
        "address": page_url(),
    }


async def access(view: DataView, _filters: Filters) -> Values:
    """The kinds that cannot be watched, and the missing rules, ready to be copied."""
    refused = list(map(lenient, all_resources(view, "access")))
    missing: dict[tuple[str, str], list[str]] = {}
    for resource in refused:
        # The first line names the Role that the rule belongs to.
        role, _, rule = (resource.state["rule"] or "").partition("\n")
        if rule:
            place = role.removeprefix("# "), resource.state["cluster"] or ""
            missing.setdefault(place, []).append(rule)
    return {
        "refused": refused,
        "missing": [(*place, "".join(rules)) for place, rules in missing.items()],
    }
