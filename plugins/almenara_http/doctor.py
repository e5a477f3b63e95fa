"""What `almenara doctor` reports about each check."""

import asyncio
from collections.abc import Sequence

from almenara.hookspecs import Finding
from almenara.sdk import redact_urls
from almenara_http.client import perform_check
from almenara_http.settings import CheckSettings, HttpSettings


async def diagnose(settings: HttpSettings) -> Sequence[Finding]:
    """Perform each check once, as many at a time as the source does."""
    slots = asyncio.Semaphore(settings.concurrency)

    async def examine(check: CheckSettings) -> Finding:
        async with slots:
            outcome = await perform_check(check)
        name = f"HTTP {check.name}"
        address = redact_urls(check.url)
        if outcome.failure is None:
            latency = (outcome.latency or 0) * 1000
            message = (
                f"{address} responds with {outcome.code} in {latency:.0f} ms ({outcome.version})"
            )
            if outcome.location is not None:
                leads = "redirected" if outcome.redirects else "redirects"
                message += f", {leads} to {outcome.location}"
            return Finding(check=name, verdict="ok", message=message)
        return Finding(
            check=name,
            verdict="failed",
            message=f"{address}: {outcome.failure}",
            remedy="Check the server, or the expectations of the check.",
        )

    return await asyncio.gather(*(examine(check) for check in settings.checks))
