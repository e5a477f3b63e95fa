"""Prometheus: the series of any `/metrics` page, as samples and resources."""

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
from almenara_prometheus.settings import PrometheusSettings


@almenara.hookimpl
def almenara_settings() -> type[PrometheusSettings]:
    return PrometheusSettings


@almenara.hookimpl
def almenara_sources(settings: PrometheusSettings, context: Context) -> Sequence[ReportingSource]:
    if not settings.targets:
        return []
    from almenara_prometheus.source import PrometheusSource

    return [PrometheusSource(settings, context)]


@almenara.hookimpl
def almenara_panels(settings: PrometheusSettings) -> Sequence[Panel]:
    if not settings.targets:
        return []
    from almenara_prometheus.panels import panels

    return panels(settings)


@almenara.hookimpl
async def almenara_diagnose(settings: PrometheusSettings) -> Sequence[Finding]:
    from almenara_prometheus.doctor import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_alert_rules(settings: PrometheusSettings) -> Sequence[AlertRule]:
    if not settings.targets:
        return []
    from almenara_prometheus.alert_rules import RULES

    return RULES


@almenara.hookimpl
def almenara_resource_links(settings: PrometheusSettings) -> Sequence[ResourceLink]:
    if not settings.targets:
        return []
    from almenara_prometheus.alert_rules import list_links

    return list_links(settings)
