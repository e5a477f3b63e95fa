"""Whether a database has changed, by the change data capture of the Enterprise Edition.

https://neo4j.com/docs/cdc/current/procedures/
"""

from typing import Any, Final

from almenara.sdk import monotonic
from almenara_neo4j.client import Client
from almenara_neo4j.errors import QueryError
from almenara_neo4j.settings import GraphSettings

CURRENT: Final = "CALL db.cdc.current() YIELD id"
QUERY: Final = "CALL db.cdc.query($from, $selectors) YIELD id RETURN id LIMIT 1"
IDENTIFIER_CODES: Final = frozenset(
    (
        "Neo.ClientError.ChangeDataCapture.InvalidIdentifier",
        "Neo.ClientError.ChangeDataCapture.FutureIdentifier",
    )
)
"""The identifier is of a log that was pruned, or of another database, as after a restore."""
RETRY: Final = 300.0
"""Seconds until a database without change data capture is checked again."""


class ChangeFeed:
    """Follows the changes of the database of one graph, where it captures them."""

    def __init__(self, settings: GraphSettings) -> None:
        self._settings = settings
        self._identifier = ""
        self._retry_at = 0.0 if settings.change_data_capture else float("inf")

    async def has_changed(self, client: Client) -> bool | None:
        """Whether the graph may have changed since the last call; None where the database does not
        capture changes, or the user may not read them. Raises `ServerError` for a server that does
        not answer."""
        if monotonic() < self._retry_at:
            return None
        try:
            # Before the changes are read, so that none is missed.
            current = await self._read_identifier(client)
            has_changed = not self._identifier or await self._has_changes(client)
        except QueryError as error:
            if error.code in IDENTIFIER_CODES:
                self._identifier = ""
                return True
            current = has_changed = None
        if not current:
            self._identifier, self._retry_at = "", monotonic() + RETRY
            return None
        self._identifier = current
        return has_changed

    async def _read_identifier(self, client: Client) -> str | None:
        rows = await client.read("db.cdc.current", CURRENT, database=self._settings.database)
        identifier = rows[0].get("id") if rows else None
        return identifier if isinstance(identifier, str) else None

    async def _has_changes(self, client: Client) -> bool:
        parameters = {"from": self._identifier, "selectors": make_selectors(self._settings)}
        rows = await client.read(
            "db.cdc.query", QUERY, parameters, database=self._settings.database
        )
        return bool(rows)


def make_selectors(settings: GraphSettings) -> list[dict[str, Any]]:
    """The changes that concern a graph; all of them for a configured query."""
    if settings.query:
        return []
    nodes = [{"select": "n", "labels": [label]} for label in settings.labels]
    return [*nodes, {"select": "r"}]
