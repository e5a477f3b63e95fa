"""Kubernetes: pods, workloads, nodes and more as resources, their transitions as events."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click

import almenara
from almenara.hookspecs import (
    AlertRule,
    Context,
    Finding,
    LogStream,
    Page,
    Panel,
    ReportingSource,
    Requirement,
    ResourceLink,
    Source,
)
from almenara_kube.rules import KubernetesRule
from almenara_kubernetes.settings import KubernetesSettings


@almenara.hookimpl
def almenara_settings() -> type[KubernetesSettings]:
    return KubernetesSettings


@almenara.hookimpl
def almenara_sources(
    settings: KubernetesSettings, context: Context
) -> Sequence[Source | ReportingSource]:
    if not settings.clusters:
        return []
    from almenara_kubernetes.source import ClusterSource

    return [ClusterSource(cluster, settings, context) for cluster in settings.clusters]


@almenara.hookimpl
def almenara_log_streams(settings: KubernetesSettings) -> Sequence[LogStream]:
    if not settings.clusters:
        return []
    from almenara_kubernetes.logs import PodLogs
    from almenara_kubernetes.manifests import Manifests

    return [PodLogs(settings), Manifests(settings)]


@almenara.hookimpl
def almenara_commands(
    read_requirements: Callable[[], Sequence[Requirement]],
) -> Sequence[click.Command]:
    from almenara_kube.commands import kubernetes_commands

    return [kubernetes_commands(read_requirements)]


@almenara.hookimpl
def almenara_requirements(settings: KubernetesSettings) -> Sequence[KubernetesRule]:
    from almenara_kubernetes.rbac import needed_rules

    return needed_rules(settings)


@almenara.hookimpl
async def almenara_review(requirements: Sequence[Requirement]) -> Sequence[Finding] | None:
    from almenara_kube.access_review import review

    return await review(requirements)


@almenara.hookimpl
async def almenara_diagnose(settings: KubernetesSettings) -> Sequence[Finding]:
    from almenara_kubernetes.doctor import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_panels(settings: KubernetesSettings) -> Sequence[Panel]:
    if not settings.clusters:
        return []
    from almenara_kubernetes.panels import panels

    return panels(settings)


@almenara.hookimpl
def almenara_pages(settings: KubernetesSettings) -> Sequence[Page]:
    if not settings.clusters:
        return []
    from almenara_kubernetes.panels import pages

    return pages(settings)


@almenara.hookimpl
def almenara_templates() -> Path:
    return Path(__file__).parent / "templates"


@almenara.hookimpl
def almenara_static() -> Path:
    return Path(__file__).parent / "static"


@almenara.hookimpl
def almenara_alert_rules(settings: KubernetesSettings) -> Sequence[AlertRule]:
    if not settings.clusters:
        return []
    from almenara_kubernetes.alert_rules import RULES

    return RULES


@almenara.hookimpl
def almenara_resource_links() -> Sequence[ResourceLink]:
    from almenara_kubernetes.alert_rules import LINKS

    return LINKS
