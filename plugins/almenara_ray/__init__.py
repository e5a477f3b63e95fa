"""Ray: jobs, clusters and what they are doing, read from the dashboards of their heads."""

from collections.abc import Sequence
from pathlib import Path

import almenara
from almenara.hookspecs import (
    Context,
    Finding,
    LogStream,
    Page,
    Panel,
    ReportingSource,
    Requirement,
)
from almenara_kube.rules import KubernetesRule
from almenara_ray.settings import RaySettings


@almenara.hookimpl
def almenara_settings() -> type[RaySettings]:
    return RaySettings


@almenara.hookimpl
def almenara_sources(settings: RaySettings, context: Context) -> Sequence[ReportingSource]:
    from almenara_ray.source import RaySource

    sources: list[ReportingSource] = [
        RaySource(cluster, settings, context) for cluster in settings.clusters
    ]
    if settings.kuberay:
        try:
            from almenara_ray.kuberay import KubeRaySource
        except ImportError as error:
            raise ValueError(
                "kuberay needs the libraries of the Kubernetes plugin: install"
                f" almenara[kubernetes] ({error})"
            ) from None

        sources += [KubeRaySource(it, settings, context) for it in settings.kuberay]
    return sources


@almenara.hookimpl
def almenara_log_streams(settings: RaySettings, context: Context) -> Sequence[LogStream]:
    from almenara_ray.logs import JobLogs

    return [JobLogs(settings, context)] if settings.any else []


@almenara.hookimpl
def almenara_panels(settings: RaySettings) -> Sequence[Panel]:
    from almenara_ray.panels import panels

    return panels(settings) if settings.any else []


@almenara.hookimpl
def almenara_pages(settings: RaySettings) -> Sequence[Page]:
    from almenara_ray.panels import pages

    return pages(settings) if settings.any else []


@almenara.hookimpl
def almenara_templates() -> Path:
    return Path(__file__).parent / "templates"


@almenara.hookimpl
def almenara_static() -> Path:
    return Path(__file__).parent / "static"


@almenara.hookimpl
async def almenara_diagnose(settings: RaySettings) -> Sequence[Finding]:
    from almenara_ray.diagnosis import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_requirements(settings: RaySettings) -> Sequence[KubernetesRule]:
    from almenara_ray.rights import rules

    return rules(settings)


@almenara.hookimpl
async def almenara_review(requirements: Sequence[Requirement]) -> Sequence[Finding] | None:
    try:
        from almenara_kube.access_review import review
    except ImportError:
        return None
    rules = [rule for rule in requirements if isinstance(rule, KubernetesRule)]
    return await review(rules) if rules else None
