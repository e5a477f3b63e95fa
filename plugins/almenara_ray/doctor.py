"""Checks of `almenara doctor`: which Ray each dashboard is of, and whether anyone can use it."""

import asyncio
from collections.abc import Sequence

from almenara.hookspecs import Finding
from almenara_ray.client import DashboardClient
from almenara_ray.errors import AccessDeniedError, DashboardError, MissingError
from almenara_ray.mapping import lists_no_job, parse_jobs, parse_version
from almenara_ray.models import Version
from almenara_ray.settings import ClusterSettings, RaySettings


async def diagnose(settings: RaySettings) -> Sequence[Finding]:
    """Return one finding for each configured cluster."""
    return await asyncio.gather(
        *(check_cluster(cluster, settings) for cluster in settings.clusters)
    )


async def check_cluster(cluster: ClusterSettings, settings: RaySettings) -> Finding:
    """Check that a dashboard answers and requires a token."""
    check = f"Ray cluster {cluster.name}"
    try:
        async with DashboardClient(cluster, settings) as client:
            version = await _read_version(client)
            client.ray_version = version.ray
            count, problem = await _count_jobs(client, version)
    except AccessDeniedError as error:
        return Finding(
            check=check, verdict="failed", message=f"{cluster.url}: {error}",
            remedy="Set the cluster's `token` (`ray get-auth-token` prints it), or the `headers`"
            " that the proxy in front of it expects.",
        )  # fmt: skip
    except (DashboardError, OSError) as error:
        return Finding(
            check=check, verdict="failed", message=f"{cluster.url}: {error}",
            remedy="Check `url`, that the head runs with its dashboard, and that the dashboard"
            " listens on a reachable address (`--dashboard-host`).",
        )  # fmt: skip
    ray = f"Ray {version.ray or '(unknown version)'}"
    if problem:
        return Finding(
            check=check, verdict="warning",
            message=f"{ray}; its job list cannot be read: {problem}",
            remedy="Delete old jobs from Ray, or raise `timeout` or `body_limit`. Everything else"
            " is monitored.",
        )  # fmt: skip
    if cluster.token is None and not cluster.headers:
        return Finding(
            check=check, verdict="warning",
            message=f"{ray}, {count} jobs; anyone who can reach it can run code on it",
            remedy="Start Ray with `RAY_AUTH_MODE=token`, and restrict access to its dashboard with"
            " a network policy.",
        )  # fmt: skip
    return Finding(check=check, verdict="ok", message=f"{ray}, {count} jobs")


async def _read_version(client: DashboardClient) -> Version:
    try:
        return parse_version(await client.get("version"))
    except MissingError:
        return Version()


async def _count_jobs(client: DashboardClient, version: Version) -> tuple[int, str]:
    """Return how many jobs there are, or why they cannot be listed by a dashboard that answers
    otherwise, which the source reports as `partial`."""
    try:
        body = await client.get("jobs")
        jobs = [] if lists_no_job(body, client.version) else parse_jobs(body)[0]
    except DashboardError as error:
        if isinstance(error, AccessDeniedError) or not version.ray:
            raise
        return 0, str(error)
    return len(jobs), ""
