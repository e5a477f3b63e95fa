"""Valkey and Redis: servers, sentinels and clusters, their commands, slow log and streams."""

from collections.abc import Sequence

import almenara
from almenara.hookspecs import (
    AlertRule,
    Context,
    Finding,
    Page,
    Panel,
    ReportingSource,
    ResourceLink,
)
from almenara_valkey.settings import ValkeySettings


@almenara.hookimpl
def almenara_settings() -> type[ValkeySettings]:
    return ValkeySettings


@almenara.hookimpl
def almenara_sources(settings: ValkeySettings, context: Context) -> Sequence[ReportingSource]:
    if not settings.deployments:
        return []
    from almenara_valkey.source import ValkeySource

    return [ValkeySource(deployment, context) for deployment in settings.deployments]


@almenara.hookimpl
def almenara_panels(settings: ValkeySettings) -> Sequence[Panel]:
    if not settings.deployments:
        return []
    from almenara_valkey.panels import list_panels

    return list_panels(settings)


@almenara.hookimpl
def almenara_pages(settings: ValkeySettings) -> Sequence[Page]:
    if not settings.deployments:
        return []
    from almenara_valkey.panels import list_pages

    return list_pages(settings)


@almenara.hookimpl
async def almenara_diagnose(settings: ValkeySettings) -> Sequence[Finding]:
    if not settings.deployments:
        return []
    from almenara_valkey.doctor import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_alert_rules(settings: ValkeySettings) -> Sequence[AlertRule]:
    if not settings.deployments:
        return []
    from almenara_valkey.alert_rules import RULES

    return RULES


@almenara.hookimpl
def almenara_resource_links() -> Sequence[ResourceLink]:
    from almenara_valkey.alert_rules import LINKS

    return LINKS
