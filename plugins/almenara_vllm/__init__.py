"""vLLM: servers, models and engines, their load, latency and caches."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

import almenara
from almenara.hookspecs import (
    AlertRule,
    Context,
    Finding,
    Page,
    Panel,
    ReportingSource,
    Requirement,
)
from almenara_kube.rules import KubernetesRule
from almenara_vllm.permissions import list_rules
from almenara_vllm.settings import VllmSettings


@almenara.hookimpl
def almenara_settings() -> type[VllmSettings]:
    return VllmSettings


@almenara.hookimpl
def almenara_sources(settings: VllmSettings, context: Context) -> Sequence[ReportingSource]:
    if not settings.entries:
        return []
    from almenara_vllm.source import VllmSource

    return [VllmSource(settings, context)]


@almenara.hookimpl
def almenara_panels(settings: VllmSettings) -> Sequence[Panel]:
    if not settings.entries:
        return []
    from almenara_vllm.panels import list_panels

    return list_panels(settings)


@almenara.hookimpl
def almenara_pages(settings: VllmSettings) -> Sequence[Page]:
    if not settings.entries:
        return []
    from almenara_vllm.panels import list_pages

    return list_pages(settings)


@almenara.hookimpl
def almenara_templates() -> Path | Mapping[str, str]:
    return Path(__file__).parent / "templates"


@almenara.hookimpl
def almenara_static() -> Path:
    return Path(__file__).parent / "static"


@almenara.hookimpl
async def almenara_diagnose(settings: VllmSettings) -> Sequence[Finding]:
    if not settings.entries:
        return []
    from almenara_vllm.doctor import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_commands(
    read_requirements: Callable[[], Sequence[Requirement]],
) -> Sequence[click.Command]:
    # The same command as of the Kubernetes plugin, which may be disabled.
    from almenara_kube.commands import kubernetes_commands

    return [kubernetes_commands(read_requirements)]


@almenara.hookimpl
def almenara_requirements(settings: VllmSettings) -> Sequence[KubernetesRule]:
    return list_rules(settings)


@almenara.hookimpl
async def almenara_review(requirements: Sequence[Requirement]) -> Sequence[Finding] | None:
    try:
        from almenara_kube.access_review import review
    except ImportError:
        return None
    return await review(requirements)


@almenara.hookimpl
def almenara_alert_rules(settings: VllmSettings) -> Sequence[AlertRule]:
    if not settings.entries:
        return []
    from almenara_vllm.alert_rules import RULES

    return RULES
