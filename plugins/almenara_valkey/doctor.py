"""What `almenara doctor` reports about each deployment."""

import asyncio
from collections.abc import Sequence

from almenara.hookspecs import Finding
from almenara.sdk.servers import report_silent
from almenara_valkey.deployment import Deployment
from almenara_valkey.settings import DeploymentSettings, ValkeySettings


async def diagnose(settings: ValkeySettings) -> Sequence[Finding]:
    """Observe each deployment once."""
    return await asyncio.gather(
        *(check_deployment(deployment) for deployment in settings.deployments)
    )


async def check_deployment(settings: DeploymentSettings) -> Finding:
    """Whether all servers of a deployment answer, and the user has the rights that are needed."""
    check = f"Valkey {settings.name}"
    deployment = Deployment(settings)
    try:
        observations = await deployment.observe_all()
    finally:
        await deployment.close()
    silent = [item.resource for item in observations if not item.is_reachable]
    problems = sorted({item.problem for item in observations} - {""})
    remedy = (
        "Check urls, user, password and tls. Addresses that servers announce must be reachable from"
        " here; otherwise set discover: false and list all servers in urls."
    )
    if (finding := report_silent(check, silent, len(observations), remedy)) is not None:
        return finding
    if problems:
        return Finding(
            check=check,
            verdict="warning",
            message="; ".join(problems),
            remedy="Grant the commands in the README of the plugin, or turn off slow_log,"
            " discover_streams and key_samples.",
        )
    versions = sorted({str(item.resource.state.get("version", "")) for item in observations})
    return Finding(
        check=check,
        verdict="ok",
        message=f"servers that answer: {len(observations)} ({', '.join(versions)})",
    )
