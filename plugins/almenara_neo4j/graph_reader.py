"""Reads one graph from the first server of a deployment that answers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from almenara.sdk import monotonic, now
from almenara_neo4j.change_feed import ChangeFeed
from almenara_neo4j.client import Client, Row, make_client
from almenara_neo4j.errors import QueryError, ServerError
from almenara_neo4j.graph_queries import (
    Seeds,
    Statement,
    make_part_query,
    make_summary_query,
    make_whole_query,
)
from almenara_neo4j.metrics import read_number
from almenara_neo4j.settings import DeploymentSettings, GraphSettings

T = TypeVar("T")
Summary = Mapping[str, Any]
"""The numbers of nodes and relationships and the newest change; empty for a configured query."""
ENOUGH: Final = 0.5
"""The share of the chosen nodes of a part that must still exist."""


class Part(msgspec.Struct):
    """The part that is read of a graph with more nodes than its limit."""

    seeds: Seeds
    chosen_at: int
    """Microseconds since the epoch."""
    expires_at: float
    """Monotonic seconds."""


class GraphReader:
    """The connections for one graph. Each graph has its own, so that a slow query delays no
    other."""

    def __init__(self, deployment: DeploymentSettings, settings: GraphSettings) -> None:
        self.settings = settings
        self.part: Part | None = None
        """None while all nodes are read, and for a configured query."""
        self._feed = ChangeFeed(settings)
        self._clients = [
            make_client(address, deployment, settings.timeout) for address in deployment.addresses
        ]

    async def read(self, known: Summary | None = None) -> tuple[list[Row] | None, Summary]:
        """The rows and the summary of the graph; None in place of rows where the summary is `known`
        and nothing has changed. Raises the `ServerError` of the last server."""
        return await self._read_from_first(lambda client: self._read(client, known))

    async def run(self, statement: Statement) -> list[Row]:
        """The rows of a query of the graph. Raises the `ServerError` of the last server."""
        return await self._read_from_first(lambda client: self._run(client, statement))

    async def _read_from_first(self, read: Callable[[Client], Awaitable[T]]) -> T:
        problem = ServerError("no server is configured")
        for client in self._clients:
            try:
                return await read(client)
            except QueryError:
                # Another server would answer the same.
                raise
            except ServerError as error:
                problem = error
        raise problem

    async def _read(
        self, client: Client, known: Summary | None
    ) -> tuple[list[Row] | None, Summary]:
        settings = self.settings
        has_changed = await self._feed.has_changed(client)
        if has_changed is False and known is not None:
            return None, known
        if settings.query:
            return await self._run(client, Statement(settings.query, settings.parameters)), {}
        totals = await client.read(
            f"the totals of the graph {settings.name}",
            make_summary_query(settings).text,
            database=settings.database,
        )
        summary = dict(totals[0]) if totals else {}
        if settings.changed_property and summary == known and not has_changed:
            return None, summary
        if (read_number(summary.get("nodes")) or 0) <= settings.node_limit:
            self.part = None
            return await self._run(client, make_whole_query(settings)), summary
        return await self._read_part(client), summary

    async def _read_part(self, client: Client) -> list[Row]:
        """Follow the part that was chosen, so that the drawing can be read although others change;
        choose another one now and then."""
        part = self.part
        if part is not None and monotonic() < part.expires_at:
            rows = await self._run(client, make_part_query(self.settings, part.seeds))
            if len(_read_seeds(rows)) >= ENOUGH * len(part.seeds):
                return rows
        rows = await self._run(client, make_part_query(self.settings))
        self.part = Part(_read_seeds(rows), now(), monotonic() + self.settings.reread_every)
        return rows

    async def _run(self, client: Client, statement: Statement) -> list[Row]:
        return await client.read(
            f"the graph {self.settings.name}",
            statement.text,
            dict(statement.parameters),
            database=self.settings.database,
            limit=self.settings.row_limit,
        )

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.close()


def _read_seeds(rows: Sequence[Row]) -> list[int]:
    numbers = (row.get("seed") for row in rows)
    return list(dict.fromkeys(number for number in numbers if isinstance(number, int)))
