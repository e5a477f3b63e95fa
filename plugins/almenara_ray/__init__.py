"""Ray: clusters, jobs, nodes and Serve applications, read from dashboards and from KubeRay."""

from collections.abc import Callable, Sequence
from pathlib import Path

import click

import almenara
from almenara.config import ConfigError
from almenara.hookspecs import (
    AlertRule,
    Context,
    Finding,
    IntakeKind,
    LogStream,
    Page,
    Panel,
    ReportingSource,
    Requirement,
    ResourceLink,
)
from almenara_kube.rules import KubernetesRule
from almenara_ray.settings import RaySettings


@almenara.hookimpl
def almenara_settings() -> type[RaySettings]:
    return RaySettings


@almenara.hookimpl
def almenara_sources(settings: RaySettings, context: Context) -> Sequence[ReportingSource]:
    if not settings.is_enabled:
        return []
    from almenara_ray.source import RaySource

    sources: list[ReportingSource] = [
        RaySource(cluster, settings, context) for cluster in settings.clusters
    ]
    if settings.kuberay:
        try:
            from almenara_ray.kuberay_source import KubeRaySource
        except ImportError as error:
            raise ConfigError(
                f"kuberay needs the Kubernetes client: install almenara[kubernetes] ({error})"
            ) from None

        sources += [KubeRaySource(kuberay, settings, context) for kuberay in settings.kuberay]
    return sources


@almenara.hookimpl
def almenara_log_streams(settings: RaySettings, context: Context) -> Sequence[LogStream]:
    if not settings.is_enabled:
        return []
    from almenara_ray.logs import JobLogs

    return [JobLogs(settings, context)]


@almenara.hookimpl
def almenara_intakes() -> Sequence[IntakeKind]:
    from almenara_ray.event_export import INTAKE

    return [INTAKE]


@almenara.hookimpl
def almenara_panels(settings: RaySettings) -> Sequence[Panel]:
    if not settings.is_enabled:
        return []
    from almenara_ray.panels import list_panels

    return list_panels(settings)


@almenara.hookimpl
def almenara_pages(settings: RaySettings) -> Sequence[Page]:
    if not settings.is_enabled:
        return []
    from almenara_ray.panels import list_pages

    return list_pages(settings)


@almenara.hookimpl
def almenara_templates() -> Path:
    return Path(__file__).parent / "templates"


@almenara.hookimpl
def almenara_static() -> Path:
    return Path(__file__).parent / "static"


@almenara.hookimpl
async def almenara_diagnose(settings: RaySettings) -> Sequence[Finding]:
    from almenara_ray.doctor import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_commands(
    read_requirements: Callable[[], Sequence[Requirement]],
) -> Sequence[click.Command]:
    # The same command as of the Kubernetes plugin, which may be disabled.
    from almenara_kube.commands import kubernetes_commands

    return [kubernetes_commands(read_requirements)]


@almenara.hookimpl
def almenara_requirements(settings: RaySettings) -> Sequence[KubernetesRule]:
    from almenara_ray.permissions import list_rules

    return list_rules(settings)


@almenara.hookimpl
async def almenara_review(requirements: Sequence[Requirement]) -> Sequence[Finding] | None:
    try:
        from almenara_kube.access_review import review
    except ImportError:
        return None
    return await review(requirements)


@almenara.hookimpl
def almenara_alert_rules(settings: RaySettings) -> Sequence[AlertRule]:
    if not settings.is_enabled:
        return []
    from almenara_ray.alert_rules import RULES

    return RULES


@almenara.hookimpl
def almenara_resource_links() -> Sequence[ResourceLink]:
    from almenara_ray.alert_rules import LINKS

    return LINKS
