"""The panels of clusters: a card for each, and the figures of the overview."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from almenara.hookspecs import DataView, ResourceQuery
from almenara.sdk import now
from almenara.signals import Resource, Severity, format_time
from almenara.units import HOUR, MINUTE
from almenara_ray.kinds import CLUSTER, END_EVENTS, JOB
from almenara_ray.views.jobs import COUNT_LIMIT, list_unknown_clusters
from almenara_ray.views.links import events_address, page_address

CLUSTER_LIMIT: Final = 500
JOB_LIMIT: Final = 20_000
DEMAND_LIMIT: Final = 4
FULL: Final = 0.9
"""Used share of a resource from which on its bar is amber."""
BARS: Final = (
    ("CPU", "CPU", "number"),
    ("GPU", "GPU", "number"),
    ("memory", "Memory", "bytes"),
    ("object_store_memory", "Object store", "bytes"),
)
"""Resource, title and format of the bars of a cluster."""
ENDED_TASKS: Final = ("FINISHED", "FAILED", "NIL")


async def prepare_overview(data: DataView, _filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the state of all clusters and jobs in four figures."""
    clusters = data.resources(ResourceQuery(kind=CLUSTER, limit=CLUSTER_LIMIT))
    unhealthy = sum(cluster.severity >= Severity.WARN for cluster in clusters)
    jobs = data.resources(ResourceQuery(kind=JOB, limit=JOB_LIMIT))
    # Jobs of a cluster whose job list cannot be read are unknown, whatever they were before.
    unknown = list_unknown_clusters(data)
    statuses = Counter(job.status for job in jobs if job.namespace not in unknown)
    suffix = f" ({len(unknown):,} {'cluster' if len(unknown) == 1 else 'clusters'} unknown)"
    suffix = suffix if unknown else ""
    # In whole minutes, so that the link does not change with every frame.
    since = (now() - HOUR) // MINUTE * MINUTE
    failed_filter = {"type": END_EVENTS["FAILED"], "since": format_time(since)}
    failed = await data.count(failed_filter, limit=COUNT_LIMIT)
    noun = "cluster" if unhealthy == 1 else "clusters"
    return {
        "figures": [
            {"value": failed, "more": "+" if failed >= COUNT_LIMIT else "",
             "label": "failed jobs, last hour", "link": events_address(**failed_filter),
             "worry": failed and "bad"},
            {"value": statuses["RUNNING"], "label": f"running jobs{suffix}",
             "link": page_address("ray", status="RUNNING")},
            {"value": statuses["PENDING"], "label": f"pending jobs{suffix}",
             "link": page_address("ray", status="PENDING")},
            {"value": unhealthy, "label": f"unhealthy {noun} (of {len(clusters):,})",
             "link": page_address("ray"), "worry": unhealthy and "bad"},
        ],
        "simulated": any(cluster.state.get("simulated") for cluster in clusters),
    }  # fmt: skip


async def prepare_clusters(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Return each cluster with its usage, nodes and demand, the unhealthy ones first."""
    name = filters.get("namespace", "")
    clusters = [
        cluster
        for cluster in data.resources(ResourceQuery(kind=CLUSTER, limit=CLUSTER_LIMIT))
        if not name or cluster.name == name
    ]
    clusters.sort(key=lambda cluster: (-int(cluster.severity), cluster.name))
    return {
        "clusters": [_make_card(cluster) for cluster in clusters],
        "simulated": [cluster.name for cluster in clusters if cluster.state.get("simulated")],
    }


def _make_card(cluster: Resource) -> dict[str, Any]:
    state = cluster.state
    jobs, actors = state.get("jobs"), state.get("actors")
    return {
        "name": cluster.name,
        "link": page_address("ray", namespace=cluster.name),
        "status": cluster.status,
        "severity": cluster.severity.name,
        "stale": cluster.status in ("down", "stale"),
        "last_answer": state.get("last_answer") or None,
        "ray": state.get("ray", ""),
        "address": state.get("address", ""),
        "reason": state.get("reason", ""),
        "bars": _make_bars(state.get("usage") or {}),
        # None is displayed as unknown.
        "nodes": state.get("nodes"),
        "dead": state.get("dead"),
        "starting": state.get("starting", 0),
        "start_failures": state.get("start_failures", 0),
        "autoscaler_error": state.get("autoscaler_error", ""),
        "waiting": state.get("waiting"),
        "demand": [
            _describe_demand(demand) for demand in (state.get("demand") or [])[:DEMAND_LIMIT]
        ],
        "running": None if jobs is None else jobs.get("RUNNING", 0),
        "pending": None if jobs is None else jobs.get("PENDING", 0),
        "actors": None if actors is None else actors.get("ALIVE", 0),
        "restarting": None if actors is None else actors.get("RESTARTING", 0),
        "tasks": {
            name: count
            for name, count in (state.get("tasks") or {}).items()
            if name not in ENDED_TASKS
        },
        "applications": state.get("applications") or {},
    }


def _make_bars(usage: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    bars = []
    for resource, title, number_format in BARS:
        used, total = usage.get(resource, (0.0, 0.0))
        if total > 0:
            share = min(used / total, 1.0)
            bars.append(
                {
                    "title": title, "used": used, "total": total, "format": number_format,
                    "share": share, "width": round(share * 100, 1), "full": share >= FULL,
                }
            )  # fmt: skip
    return bars


def _describe_demand(demand: Mapping[str, Any]) -> dict[str, Any]:
    resources = demand.get("resources") or {}
    return {
        "count": demand.get("count", 1),
        "resources": ", ".join(f"{amount:g} {name}" for name, amount in resources.items()),
        "group": demand.get("group", ""),
    }
