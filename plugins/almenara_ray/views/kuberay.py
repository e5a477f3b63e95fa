"""The panels of KubeRay's custom resources."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.hookspecs import DataView, ResourceQuery
from almenara.sdk import now
from almenara.signals import STALE_SINCE, Resource
from almenara.units import SECOND
from almenara_ray.kinds import FINAL_DEPLOYMENTS, RAY_CLUSTER, RAY_JOB
from almenara_ray.views.links import events_address, job_address, page_address

QUERY_LIMIT: Final = 10_000
LIMIT: Final = 500
"""Rows of a table."""


async def prepare_rayjobs(data: DataView, _filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the RayJobs, the newest first; each links to the page of its job."""
    moment = now()
    jobs = list(data.resources(ResourceQuery(kind=RAY_JOB, limit=QUERY_LIMIT)))
    jobs.sort(key=lambda job: -int(job.state.get("submitted") or 0))
    return {
        "rayjobs": [_make_job_row(job, moment) for job in jobs[:LIMIT]],
        "more": max(len(jobs) - LIMIT, 0),
    }


def _make_job_row(job: Resource, moment: int) -> dict[str, Any]:
    state = job.state
    # The duration of a job that is unknown since some time does not go on.
    moment = state.get(STALE_SINCE) or moment
    started, ended = state.get("submitted"), state.get("ended")
    cluster, job_id = str(state.get("cluster", "")), str(state.get("id", ""))
    has_duration = started and (ended or state.get("deployment") not in FINAL_DEPLOYMENTS)
    return {
        "name": job.name,
        "namespace": job.namespace,
        "status": job.status,
        "severity": job.severity.name,
        # The page of the job exists once the job has an id.
        "link": job_address(cluster, job_id)
        if job_id
        else events_address(type=f"{RAY_JOB}.>", subject=job.name),
        "cluster": cluster.partition(".")[2],
        "cluster_link": page_address("ray", namespace=cluster),
        "started": started,
        "seconds": ((ended or moment) - started) / SECOND if started and has_duration else None,
        "failed": state.get("failed", 0),
        "retries": state.get("retries", 0),
        "reason": state.get("reason", ""),
    }


async def prepare_rayclusters(data: DataView, _filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the RayClusters, the unhealthy ones first."""
    clusters = list(data.resources(ResourceQuery(kind=RAY_CLUSTER, limit=QUERY_LIMIT)))
    clusters.sort(key=lambda cluster: (-int(cluster.severity), cluster.namespace, cluster.name))
    return {
        "rayclusters": [
            {
                # One of an earlier run is unknown, with no state, until it is read.
                "available": None,
                "desired": None,
                "created": None,
                "reason": "",
                **cluster.state,
                "name": cluster.name,
                "namespace": cluster.namespace,
                "status": cluster.status,
                "severity": cluster.severity.name,
                "link": page_address("ray", namespace=str(cluster.state.get("cluster", ""))),
            }
            for cluster in clusters[:LIMIT]
        ],
        "more": max(len(clusters) - LIMIT, 0),
    }
