"""A server that does not exist: it answers from a file with a graph, as the demo writes it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.sdk import describe_error, now
from almenara.units import MINUTE
from almenara_neo4j.errors import ServerError
from almenara_neo4j.values import Node, Relationship

HEAP_BYTES: Final = 412 * 1024**2
MAX_HEAP_BYTES: Final = 1024**3


class SimulatedGraph(msgspec.Struct):
    """The content of the file."""

    nodes: list[Node] = []
    relationships: list[Relationship] = []
    transactions: int = 0
    """The number of transactions that were committed."""


class SimulatedClient:
    """Answers the queries of the plugin."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started = now() - 90 * MINUTE

    async def read(
        self,
        name: str,
        query: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        database: str | None = "system",
        limit: int = 10_000,
    ) -> list[Mapping[str, Any]]:
        """As `Client.read`."""
        try:
            text = await asyncio.to_thread(self._path.read_bytes)
            graph = msgspec.json.decode(text, type=SimulatedGraph)
        except (OSError, msgspec.DecodeError) as error:
            raise ServerError(
                f"the simulated graph cannot be read: {describe_error(error)}"
            ) from None
        return self._answer(name, query, graph)[:limit]

    def _answer(self, name: str, query: str, graph: SimulatedGraph) -> list[Mapping[str, Any]]:
        totals = {"nodes": len(graph.nodes), "relationships": len(graph.relationships)}
        if name == "dbms.components":
            return [{"name": "Neo4j Kernel", "versions": ["5.26.0"], "edition": "community"}]
        if name == "SHOW DATABASES":
            return [
                {
                    "name": each, "role": "primary", "writer": True, "access": "read-write",
                    "type": kind, "currentStatus": "online", "requestedStatus": "online",
                    "lastStartTime": self._started, "lastCommittedTxn": transactions,
                }
                for each, kind, transactions in (
                    ("neo4j", "standard", graph.transactions), ("system", "system", 12),
                )
            ]  # fmt: skip
        if name == "dbms.queryJmx":
            return [{"started": self._started // 1000, "used": HEAP_BYTES, "max": MAX_HEAP_BYTES}]
        if name.startswith("count("):
            return [{"count": totals[name[6:-1]]}]
        if name.startswith("the totals"):
            return [{**totals, "changed": None}]
        if name.startswith("the graph"):
            return [
                *({"n": node} for node in graph.nodes),
                *({"r": r} for r in graph.relationships),
            ]
        return []

    async def close(self) -> None:
        """Nothing is open."""
