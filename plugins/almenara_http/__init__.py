"""HTTP checks: whether URLs respond as expected, and how fast."""

from collections.abc import Sequence

import almenara
from almenara.hookspecs import (
    AlertRule,
    Context,
    Finding,
    Panel,
    ReportingSource,
    ResourceLink,
)
from almenara_http.settings import HttpSettings


@almenara.hookimpl
def almenara_settings() -> type[HttpSettings]:
    return HttpSettings


@almenara.hookimpl
def almenara_sources(settings: HttpSettings, context: Context) -> Sequence[ReportingSource]:
    if not settings.checks:
        return []
    from almenara_http.source import HttpSource

    return [HttpSource(settings, context)]


@almenara.hookimpl
def almenara_panels(settings: HttpSettings) -> Sequence[Panel]:
    if not settings.checks:
        return []
    from almenara_http.panels import panels

    return panels(settings)


@almenara.hookimpl
async def almenara_diagnose(settings: HttpSettings) -> Sequence[Finding]:
    from almenara_http.doctor import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_alert_rules(settings: HttpSettings) -> Sequence[AlertRule]:
    if not settings.checks:
        return []
    from almenara_http.alert_rules import RULES

    return RULES


@almenara.hookimpl
def almenara_resource_links(settings: HttpSettings) -> Sequence[ResourceLink]:
    if not settings.checks:
        return []
    from almenara_http.alert_rules import LINKS

    return LINKS
