"""Checks of `almenara doctor`: which Ray each dashboard is of, and whether anyone can use it."""

import asyncio
from collections.abc import Sequence

from almenara.hookspecs import Finding
from almenara_ray.client import DashboardClient
from almenara_ray.errors import AccessDeniedError, DashboardError
from almenara_ray.mapping import parse_jobs, parse_version
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
            version = parse_version(await client.get("version"))
            jobs, _ = parse_jobs(await client.get("jobs"))
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
    summary = f"Ray {version.ray or '(unknown version)'}, {len(jobs)} jobs"
    if cluster.token is None and not cluster.headers:
        return Finding(
            check=check, verdict="warning",
            message=f"{summary}; anyone who can reach it can run code on it",
            remedy="Start Ray with `RAY_AUTH_MODE=token`, and restrict access to its dashboard with"
            " a network policy.",
        )  # fmt: skip
    return Finding(check=check, verdict="ok", message=summary)
