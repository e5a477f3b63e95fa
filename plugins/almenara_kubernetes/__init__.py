"""Kubernetes: pods, workloads, nodes and the rest as resources, what happens to them as events."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click

import almenara
from almenara.hookspecs import (
    Context,
    Finding,
    LogStream,
    Page,
    Panel,
    ReportingSource,
    Requirement,
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
    from almenara_kubernetes.source import ClusterSource

    found: list[Source | ReportingSource] = [
        ClusterSource(cluster, settings, context) for cluster in settings.clusters
    ]
    if settings.simulated:
        from almenara_kubernetes.simulated import SimulatedCluster

        found.append(SimulatedCluster(settings.simulated, context))
    return found


@almenara.hookimpl
def almenara_log_streams(settings: KubernetesSettings) -> Sequence[LogStream]:
    if settings.simulated:
        from almenara_kubernetes.simulated import SimulatedLogs, SimulatedManifests

        return [SimulatedLogs(), SimulatedManifests()]
    from almenara_kubernetes.logs import PodLogs
    from almenara_kubernetes.manifests import Manifests

    return [PodLogs(settings), Manifests(settings)]


@almenara.hookimpl
def almenara_commands(
    read_requirements: Callable[[], Sequence[Requirement]],
) -> Sequence[click.Command]:
    from almenara_kubernetes.commands import kubernetes_commands

    return [kubernetes_commands(read_requirements)]


@almenara.hookimpl
def almenara_requirements(settings: KubernetesSettings) -> Sequence[KubernetesRule]:
    from almenara_kubernetes.rbac import rules

    return rules(settings)


@almenara.hookimpl
async def almenara_review(requirements: Sequence[Requirement]) -> Sequence[Finding] | None:
    from almenara_kube.access_review import review

    rules = [rule for rule in requirements if isinstance(rule, KubernetesRule)]
    return await review(rules) if rules else None


@almenara.hookimpl
async def almenara_diagnose(settings: KubernetesSettings) -> Sequence[Finding]:
    from almenara_kubernetes.diagnosis import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_panels(settings: KubernetesSettings) -> Sequence[Panel]:
    from almenara_kubernetes.panels import panels

    return panels(settings) if _watches(settings) else []


@almenara.hookimpl
def almenara_pages(settings: KubernetesSettings) -> Sequence[Page]:
    from almenara_kubernetes.panels import pages

    return pages(settings) if _watches(settings) else []


@almenara.hookimpl
def almenara_templates() -> Path:
    return Path(__file__).parent / "templates"


@almenara.hookimpl
def almenara_static() -> Path:
    return Path(__file__).parent / "static"


def _watches(settings: KubernetesSettings) -> bool:
    return bool(settings.clusters or settings.simulated)
