"""vLLM: servers, models and engines, their load, latency and caches."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import almenara
from almenara.hookspecs import (
    AlertRule,
    Context,
    Finding,
    Page,
    Panel,
    ReportingSource,
)
from almenara_vllm.settings import VllmSettings


@almenara.hookimpl
def almenara_settings() -> type[VllmSettings]:
    return VllmSettings


@almenara.hookimpl
def almenara_sources(settings: VllmSettings, context: Context) -> Sequence[ReportingSource]:
    if not settings.servers:
        return []
    from almenara_vllm.source import VllmSource

    return [VllmSource(settings, context)]


@almenara.hookimpl
def almenara_panels(settings: VllmSettings) -> Sequence[Panel]:
    if not settings.servers:
        return []
    from almenara_vllm.panels import list_panels

    return list_panels()


@almenara.hookimpl
def almenara_pages(settings: VllmSettings) -> Sequence[Page]:
    if not settings.servers:
        return []
    from almenara_vllm.panels import list_pages

    return list_pages()


@almenara.hookimpl
def almenara_templates() -> Path | Mapping[str, str]:
    return Path(__file__).parent / "templates"


@almenara.hookimpl
def almenara_static() -> Path:
    return Path(__file__).parent / "static"


@almenara.hookimpl
async def almenara_diagnose(settings: VllmSettings) -> Sequence[Finding]:
    if not settings.servers:
        return []
    from almenara_vllm.doctor import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_alert_rules(settings: VllmSettings) -> Sequence[AlertRule]:
    if not settings.servers:
        return []
    from almenara_vllm.alert_rules import RULES

    return RULES
