"""What `almenara doctor` says of the clusters."""

import asyncio
from collections.abc import Sequence

from almenara.hookspecs import Finding
from almenara_ray import answers
from almenara_ray.answers import AnswerError
from almenara_ray.dashboard import AskingError, Dashboard, RefusedError
from almenara_ray.settings import ClusterSettings, RaySettings


async def diagnose(settings: RaySettings) -> Sequence[Finding]:
    """One line for each cluster."""
    return await asyncio.gather(*(look(cluster, settings) for cluster in settings.clusters))


async def look(cluster: ClusterSettings, settings: RaySettings) -> Finding:
    """Whether a dashboard answers, which Ray it is of, and whether it lets anybody in."""
    what = f"Ray cluster {cluster.name}"
    try:
        async with Dashboard(cluster, settings) as dashboard:
            version = answers.version(await dashboard.get("version"))
            jobs, _ = answers.jobs(await dashboard.get("jobs"))
    except RefusedError as error:
        return Finding(
            check=what, verdict="failed", message=f"{cluster.url}: {error}",
            remedy="Give the cluster its token (`ray get-auth-token` prints it), or the headers"
            " that the proxy in front of it wants.",
        )  # fmt: skip
    except (AskingError, AnswerError, OSError) as error:
        return Finding(
            check=what, verdict="failed", message=f"{cluster.url}: {error}",
            remedy="Look at url, and whether the head runs with its dashboard and lets us reach it"
            " (--dashboard-host).",
        )  # fmt: skip
    found = f"Ray {version.ray or 'of an unknown version'}, {len(jobs)} jobs"
    if cluster.token is None and not cluster.headers:
        return Finding(
            check=what, verdict="warning", message=f"{found}; whoever reaches it can run code",
            remedy="Start Ray with RAY_AUTH_MODE=token, and let a network policy admit only those"
            " who need its dashboard.",
        )  # fmt: skip
    return Finding(check=what, verdict="ok", message=found)
