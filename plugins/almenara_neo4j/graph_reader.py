"""Reads one graph from the first server of a deployment that answers."""

from collections.abc import Mapping
from typing import Any

from almenara_neo4j.client import Client, Row, make_client
from almenara_neo4j.errors import QueryError, ServerError
from almenara_neo4j.graph import make_query, make_summary_query
from almenara_neo4j.settings import DeploymentSettings, GraphSettings

Summary = Mapping[str, Any]
"""The numbers of nodes and relationships and the newest change; empty for a configured query."""


class GraphReader:
    """The connections for one graph. Each graph has its own, so that a slow query delays no
    other."""

    def __init__(self, deployment: DeploymentSettings, settings: GraphSettings) -> None:
        self.settings = settings
        self._clients = [
            make_client(address, deployment, settings.timeout) for address in deployment.addresses
        ]

    async def read(self, known: Summary | None = None) -> tuple[list[Row] | None, Summary]:
        """The rows and the summary of the graph; None in place of rows where the summary is `known`
        and nothing has changed. Raises the `ServerError` of the last server."""
        problem = ServerError("no server is configured")
        for client in self._clients:
            try:
                return await self._read(client, known)
            except QueryError:
                # Another server would answer the same.
                raise
            except ServerError as error:
                problem = error
        raise problem

    async def _read(
        self, client: Client, known: Summary | None
    ) -> tuple[list[Row] | None, Summary]:
        settings, summary = self.settings, dict[str, Any]()
        if not settings.query:
            totals = await client.read(
                f"the totals of the graph {settings.name}",
                make_summary_query(settings),
                database=settings.database,
            )
            summary = dict(totals[0]) if totals else {}
            if settings.changed_property and summary == known:
                return None, summary
        rows = await client.read(
            f"the graph {settings.name}",
            make_query(settings),
            dict(settings.parameters),
            database=settings.database,
            limit=settings.row_limit,
        )
        return rows, summary

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.close()
