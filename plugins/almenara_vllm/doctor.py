"""What `almenara doctor` reports about each server."""

import asyncio
from collections.abc import Sequence

from almenara.hookspecs import Finding
from almenara.sdk.http import Resolver
from almenara_vllm.kinds import SERVER, UNREACHABLE
from almenara_vllm.settings import Entry, VllmSettings
from almenara_vllm.source import ServerGroup


async def diagnose(settings: VllmSettings) -> Sequence[Finding]:
    """Observe each server once."""
    return await asyncio.gather(*(check_server(each, settings) for each in settings.entries))


async def check_server(server: Entry, settings: VllmSettings) -> Finding:
    """Whether a server sends metrics of vLLM, and is healthy."""
    check = f"vLLM {server.name}"
    group = ServerGroup(server, settings, Resolver())
    try:
        resources, _ = await group.observe()
    finally:
        await group.close()
    servers = [resource for resource in resources if resource.kind == SERVER]
    failed = [each for each in servers if each.status == UNREACHABLE or "reason" in each.state]
    if failed:
        return Finding(
            check=check,
            verdict="failed" if len(failed) == len(servers) else "warning",
            message=f"{failed[0].name}: {failed[0].state.get('reason', failed[0].status)}",
            remedy="Check url, headers and that the server runs; its page of metrics is /metrics"
            " unless metrics_only is set.",
        )
    if not servers:
        return Finding(
            check=check,
            verdict="warning",
            message="no server was found",
            remedy="Check the labels and namespaces, or url of the dashboard, and that a ready pod"
            " or replica serves a model.",
        )
    models = ", ".join(sorted({str(each.state.get("models", "")) for each in servers}))
    versions = ", ".join(sorted({str(each.state.get("version", "?")) for each in servers}))
    return Finding(check=check, verdict="ok", message=f"serves {models} with vLLM {versions}")
