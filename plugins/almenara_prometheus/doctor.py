"""What `almenara doctor` checks: that each target sends a page that can be read."""

import asyncio
from collections.abc import Sequence

from almenara.hookspecs import Finding
from almenara.sdk import redact_urls
from almenara.sdk.exposition import describe_problems, describe_unreadable, read_page
from almenara_prometheus.client import ScrapeError, open_client, scrape
from almenara_prometheus.mapping import MetricMapper
from almenara_prometheus.settings import PrometheusSettings, TargetSettings


async def diagnose(settings: PrometheusSettings) -> Sequence[Finding]:
    """Return a finding for each target."""
    return await asyncio.gather(*(check_target(target) for target in settings.targets))


async def check_target(target: TargetSettings) -> Finding:
    """Scrape a target once."""
    check = f"metrics of {target.name}"
    try:
        async with open_client(target) as client:
            body = await scrape(client, target)
    except ScrapeError as error:
        return describe_failure(target, str(error))
    url = redact_urls(target.url)
    page = read_page(body, MetricMapper(target.name, target.mappings).filter)
    if not page.is_readable:
        return describe_failure(target, describe_unreadable(page))
    if page.problems:
        return Finding(
            check=check,
            verdict="warning",
            message=f"{url} {describe_problems(page.problems)}",
            remedy="Fix the application that exports the page.",
        )
    if not page.series:
        return Finding(
            check=check,
            verdict="warning",
            message=f"{url} has {page.lines:,} series, and no mapping matches any",
            remedy="Check metrics and presets of the target.",
        )
    return Finding(
        check=check,
        verdict="ok",
        message=f"{page.lines:,} series, {len(page.series):,} of them mapped",
    )


def describe_failure(target: TargetSettings, reason: str) -> Finding:
    """Return the finding of a target that is down."""
    return Finding(
        check=f"metrics of {target.name}",
        verdict="failed",
        message=f"{redact_urls(target.url)}: {reason}",
        remedy="Check the server, and url, bearer and headers of the target.",
    )
