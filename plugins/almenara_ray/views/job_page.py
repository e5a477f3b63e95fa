"""The page of one job: live while it is unfinished, otherwise from history."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import DataView, ResourceQuery
from almenara.sdk import now
from almenara.signals import Event, Resource
from almenara_ray.kinds import END_EVENTS, JOB, RAY_JOB, correlation_id
from almenara_ray.settings import RaySettings
from almenara_ray.views.job_rows import decode_data, make_row
from almenara_ray.views.jobs import list_unknown_clusters
from almenara_ray.views.links import events_address, page_address, pod_address

EVENT_LIMIT: Final = 100
POD_QUERY_LIMIT: Final = 5_000
POD_LIMIT: Final = 12
CLUSTER_LABEL: Final = "ray.io/cluster"
"""The label by which KubeRay marks the pods of a RayCluster."""
NODE_TYPE_LABEL: Final = "ray.io/node-type"
DEFAULTS: Final[Mapping[str, Any]] = {
    "node": "", "node_id": "", "job_id": "", "error_type": "", "message": "", "exit_code": None,
}  # fmt: skip
"""Fields that the record of a job may lack."""
SNAPSHOT_DEFAULTS: Final[Mapping[str, Any]] = {"count": 0, "dead": 0, "ray": "", "demand": 0}

JobEvent = tuple[Event, dict[str, Any]]
"""An event with its decoded data."""


async def prepare_job(
    settings: RaySettings, data: DataView, filters: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return everything known of the job `name` of the cluster `namespace`."""
    cluster, name = filters.get("namespace", ""), filters.get("name", "")
    if not cluster or not name:
        return {"job": None, "problem": "Choose a job on the Ray page."}
    correlation = correlation_id(cluster, name)
    stored = await data.events({"correlation": correlation}, limit=EVENT_LIMIT)
    events = [(event, decode_data(event)) for _, event in stored]
    live = data.resource(JOB, cluster, name)
    run, earlier_runs = _select_run(events, live)
    if live is None and not run:
        problem = f"No job {name} of the cluster {cluster} is known; it may be older than history."
        return {"job": None, "problem": problem}
    end = next((record for event, record in run if event.type in END_EVENTS.values()), {})
    if live is not None and not end:
        record, status = dict(live.state), live.status
    else:
        record = end or run[0][1]
        status = str(record.get("status", ""))
    configured = next((item for item in settings.clusters if item.name == cluster), None)
    # The name of a discovered cluster is the namespace and the name of its RayCluster.
    namespace, _, raycluster = cluster.partition(".")
    if configured is not None:
        namespace, raycluster = configured.kubernetes_namespace, ""
    return {
        "simulated": configured is not None and configured.simulated,
        "job": make_row(record, status, now()),
        "is_live": live is not None and cluster not in list_unknown_clusters(data),
        "record": {**DEFAULTS, **record},
        "reason": record.get("reason", ""),
        "log": end.get("log", ""),
        "log_note": end.get("log_note", ""),
        "steps": _make_steps(run),
        "earlier": earlier_runs,
        "events": events_address(correlation=correlation),
        "pod": pod_address(data, namespace, str(record.get("node", ""))),
        "metadata": record.get("metadata") or {},
        "runtime_env": _format_json(record.get("runtime_env")),
        **_describe_snapshot(data, namespace, end),
        **_describe_pods(data, namespace, raycluster),
    }


def _select_run(events: Sequence[JobEvent], live: Resource | None) -> tuple[list[JobEvent], int]:
    """Return the events of the last run of an id, newest first, and how many runs precede it."""
    runs = [record.get("submitted") for event, record in events if event.type.startswith(f"{JOB}.")]
    newest = live.state.get("submitted") if live is not None else next(iter(runs), None)
    selected = [
        (event, record)
        for event, record in events
        if record.get("submitted") == newest or event.type.startswith(f"{RAY_JOB}.")
    ]
    return selected, len({run for run in runs if run != newest})


def _make_steps(run: Sequence[JobEvent]) -> list[dict[str, Any]]:
    return [
        {
            "object": "RayJob" if event.type.startswith(f"{RAY_JOB}.") else "",
            "event": event.type.rpartition(".")[2],
            "time": event.time,
            "severity": event.severity.name,
            "reason": record.get("reason", ""),
        }
        for event, record in sorted(run, key=lambda step: step[0].time)
    ]


def _describe_snapshot(data: DataView, namespace: str, end: Mapping[str, Any]) -> dict[str, Any]:
    # Events stored by version 0.1 have it under `shape`.
    snapshot = end.get("snapshot") or end.get("shape") or {}
    nodes = []
    for node in snapshot.get("nodes") or []:
        total, name = node.get("total") or {}, str(node.get("name", ""))
        nodes.append(
            {
                "name": name, "head": node.get("head", False), "cpu": total.get("CPU"),
                "gpu": total.get("GPU"), "memory": total.get("memory"),
                "pod": pod_address(data, namespace, name),
            }
        )  # fmt: skip
    return {"snapshot": {**SNAPSHOT_DEFAULTS, **snapshot}, "snapshot_nodes": nodes}


def _describe_pods(data: DataView, namespace: str, raycluster: str) -> dict[str, Any]:
    pods = list_pods(data, namespace, raycluster)
    label = f"{CLUSTER_LABEL}={raycluster}"
    return {
        "pods": [
            {
                "name": pod.name,
                "status": pod.status,
                "severity": pod.severity.name,
                "node_type": pod.state["labels"].get(NODE_TYPE_LABEL, ""),
                "link": page_address("kubernetes.pod", namespace=namespace, name=pod.name),
            }
            for pod in pods[:POD_LIMIT]
        ],
        "more_pods": max(len(pods) - POD_LIMIT, 0),
        "all_pods": page_address("kubernetes.pods", namespace=namespace, label=label),
    }


def list_pods(data: DataView, namespace: str, raycluster: str) -> list[Resource]:
    """Return the current pods of a RayCluster, its head first, where the Kubernetes plugin watches
    them."""
    if not namespace or not raycluster:
        return []
    query = ResourceQuery(kind="kubernetes.pod", namespace=namespace, limit=POD_QUERY_LIMIT)
    pods = [
        pod
        for pod in data.resources(query)
        if (pod.state.get("labels") or {}).get(CLUSTER_LABEL) == raycluster
    ]
    pods.sort(key=lambda pod: (pod.state["labels"].get(NODE_TYPE_LABEL) != "head", pod.name))
    return pods


def _format_json(value: Any) -> str:
    if not value:
        return ""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
