"""Kubernetes: pods, workloads, nodes and the rest as resources, what happens to them as events."""

from collections.abc import Callable, Sequence
from typing import Any

import click

import almenara
from almenara.hookspecs import Context, Finding, ReportingSource, Tail
from almenara_kubernetes.settings import KubernetesSettings


@almenara.hookimpl
def almenara_settings() -> type[KubernetesSettings]:
    return KubernetesSettings


@almenara.hookimpl
def almenara_sources(settings: KubernetesSettings, context: Context) -> Sequence[ReportingSource]:
    from almenara_kubernetes.source import ClusterSource

    return [ClusterSource(cluster, settings, context) for cluster in settings.clusters]


@almenara.hookimpl
def almenara_tails(settings: KubernetesSettings) -> Sequence[Tail]:
    from almenara_kubernetes.logs import PodLogs

    return [PodLogs(settings)]


@almenara.hookimpl
def almenara_commands(read_settings: Callable[[], Any]) -> Sequence[click.Command]:
    from almenara_kubernetes.commands import commands

    return commands(read_settings)


@almenara.hookimpl
async def almenara_diagnose(settings: KubernetesSettings) -> Sequence[Finding]:
    from almenara_kubernetes.diagnosis import diagnose

    return await diagnose(settings)
