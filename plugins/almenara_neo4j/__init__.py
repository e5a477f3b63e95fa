"""Neo4j: servers, databases, transactions and long queries, and graphs drawn live."""

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
    ResourceLink,
)
from almenara_neo4j.settings import Neo4jSettings


@almenara.hookimpl
def almenara_settings() -> type[Neo4jSettings]:
    return Neo4jSettings


@almenara.hookimpl
def almenara_sources(settings: Neo4jSettings, context: Context) -> Sequence[ReportingSource]:
    if not settings.deployments:
        return []
    from almenara_neo4j.graph_source import GraphSource
    from almenara_neo4j.source import Neo4jSource

    return [
        *(Neo4jSource(deployment, context) for deployment in settings.deployments),
        *(
            GraphSource(deployment, graph, context)
            for deployment in settings.deployments
            for graph in deployment.graphs
        ),
    ]


@almenara.hookimpl
def almenara_panels(settings: Neo4jSettings) -> Sequence[Panel]:
    if not settings.deployments:
        return []
    from almenara_neo4j.graph_panels import list_graph_panels
    from almenara_neo4j.panels import list_panels

    return [*list_panels(settings), *list_graph_panels(settings)]


@almenara.hookimpl
def almenara_pages(settings: Neo4jSettings) -> Sequence[Page]:
    if not settings.deployments:
        return []
    from almenara_neo4j.graph_panels import list_graph_pages
    from almenara_neo4j.panels import list_pages

    return [*list_pages(settings), *list_graph_pages(settings)]


@almenara.hookimpl
def almenara_templates() -> Path | Mapping[str, str]:
    return Path(__file__).parent / "templates"


@almenara.hookimpl
def almenara_static() -> Path:
    return Path(__file__).parent / "static"


@almenara.hookimpl
async def almenara_diagnose(settings: Neo4jSettings) -> Sequence[Finding]:
    if not settings.deployments:
        return []
    from almenara_neo4j.doctor import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_alert_rules(settings: Neo4jSettings) -> Sequence[AlertRule]:
    if not settings.deployments:
        return []
    from almenara_neo4j.alert_rules import RULES

    return RULES


@almenara.hookimpl
def almenara_resource_links() -> Sequence[ResourceLink]:
    from almenara_neo4j.alert_rules import LINKS

    return LINKS
