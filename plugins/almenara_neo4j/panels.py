"""The panels and the page of the plugin."""

from collections.abc import Sequence
from typing import Final

from almenara.hookspecs import (
    Column,
    EventQuery,
    EventsPanel,
    Filter,
    Format,
    Page,
    Panel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TablePanel,
)
from almenara_neo4j.kinds import DATABASE, QUERY, SERVER
from almenara_neo4j.settings import Neo4jSettings

CHARTS: Final[Sequence[tuple[str, str, str, str, Format]]] = (
    ("transactions", "Transactions", SERVER, "transactions", "number"),
    ("longest", "Longest transaction", SERVER, "longest_transaction", "seconds"),
    ("latency", "Response time", SERVER, "latency", "seconds"),
    ("heap", "Heap", SERVER, "heap_share", "percent"),
    ("nodes", "Nodes", DATABASE, "nodes", "number"),
    ("commits", "Committed transactions per second", DATABASE, "commits", "number"),
)


def list_panels(settings: Neo4jSettings) -> Sequence[Panel]:
    """The panels."""
    deployment = make_deployment_filter(settings)
    filters = (deployment, "name", "status", "text")
    is_simulated = any(deployment.simulated for deployment in settings.deployments)
    simulated = [Column(title="Data", path="state.data")] if is_simulated else []
    return [
        StatusPanel(
            name="states", title="Neo4j", query=ResourceQuery(kind=SERVER), width=12,
            on_overview=True,
        ),
        TablePanel(
            name="servers", title="Servers", width=12, filters=filters,
            query=ResourceQuery(kind=SERVER, limit=1_000),
            columns=[
                Column(title="Server", path="name"),
                Column(title="Deployment", path="namespace"),
                Column(title="Status", path="status", format="status"),
                *simulated,
                Column(
                    title="Transactions", path="sample.transactions", format="number",
                    spark="transactions",
                ),
                Column(
                    title="Waiting for locks", path="sample.blocked_transactions", format="number"
                ),
                Column(title="Longest", path="sample.longest_transaction", format="seconds"),
                Column(title="Heap", path="sample.heap", format="bytes", spark="heap"),
                Column(
                    title="Page cache hits", path="sample.page_cache_hit_rate", format="percent"
                ),
                Column(title="Version", path="state.version"),
                Column(title="Edition", path="state.edition"),
                Column(title="Started", path="state.started", format="age"),
                Column(title="Message", path="state.reason"),
            ],
            empty="No server has answered yet.",
        ),
        TablePanel(
            name="databases", title="Databases", width=12, filters=filters,
            query=ResourceQuery(kind=DATABASE, limit=1_000),
            columns=[
                Column(title="Database", path="name"),
                Column(title="Deployment", path="namespace"),
                Column(title="Status", path="status", format="status"),
                Column(title="Role", path="state.role"),
                Column(title="Writes", path="state.writer"),
                Column(title="Nodes", path="sample.nodes", format="number", spark="nodes"),
                Column(title="Relationships", path="sample.relationships", format="number"),
                Column(title="Commits/s", path="sample.commits", format="number", spark="commits"),
                Column(title="Replication lag", path="sample.replication_lag", format="number"),
                Column(title="Store", path="sample.store_size", format="bytes"),
                Column(title="Checkpoints", path="sample.checkpoints", format="number"),
                Column(title="Started", path="state.started", format="age"),
                Column(title="Message", path="state.reason"),
            ],
            empty="No server has named its databases yet.",
        ),
        TablePanel(
            name="queries", title="Long queries", width=12, filters=filters,
            query=ResourceQuery(kind=QUERY, limit=500), sort="-sample.elapsed",
            columns=[
                Column(title="Query", path="state.query"),
                Column(title="Status", path="status", format="status"),
                Column(title="Running for", path="sample.elapsed", format="seconds"),
                Column(title="Database", path="state.database"),
                Column(title="User", path="state.user"),
                Column(title="Client", path="state.client"),
                Column(title="Transaction", path="name"),
                Column(title="Message", path="state.reason"),
            ],
            empty="No query has been running for long.",
        ),
        *(
            SeriesPanel(
                name=name, title=title, query=SampleQuery(kind=kind, metric=metric),
                format=value_format, width=6, filters=(deployment, "name"),
            )
            for name, title, kind, metric, value_format in CHARTS
        ),
        EventsPanel(
            name="changes", title="Changes", width=12,
            query=EventQuery(filter={"type": "neo4j.*.*"}, limit=30),
            filters=["severity", "subject", "text"],
            empty="No server, database or query has changed its status.",
        ),
    ]  # fmt: skip


def list_pages(settings: Neo4jSettings) -> Sequence[Page]:
    """The page of the plugin."""
    names = [panel.name for panel in list_panels(settings)]
    return [
        Page(
            name="main", title="Neo4j", panels=names, navigation=True,
            filters=[make_deployment_filter(settings), "name", "status", "text"],
        )
    ]  # fmt: skip


def make_deployment_filter(settings: Neo4jSettings) -> Filter:
    """The filter of the deployment: a list of names."""
    names = tuple(deployment.name for deployment in settings.deployments)
    return Filter(name="namespace", label="Deployment", choices=names, hint="all")
