"""Change data capture, at the wire: the answers are those that Neo4j documents, since the Community
Edition of the other tests has none."""

from typing import Any

import pytest

from almenara_neo4j.change_feed import ChangeFeed, make_selectors
from almenara_neo4j.client import BoltClient
from almenara_neo4j.settings import DeploymentSettings, GraphSettings
from support.bolt import Answer, run_bolt_server

pytestmark = pytest.mark.anyio
CODE = "Neo.ClientError.ChangeDataCapture."


class Database:
    """Answers the procedures of https://neo4j.com/docs/cdc/current/procedures/."""

    def __init__(self) -> None:
        self.changes, self.error, self.queries = 0, "", list[dict[str, Any]]()

    def answer(self, query: str, parameters: dict[str, Any]) -> Answer:
        if self.error and (self.error.startswith("Neo.ClientError.Proc") or "query(" in query):
            return self.error
        if "db.cdc.current" in query:
            return ["id"], [[f"A3V16ZaLlUmnipHLFkWrlA-{self.changes}"]]
        self.queries.append(parameters)
        since = int(parameters["from"].rpartition("-")[2])
        changes = [[f"A3V16ZaLlUmnipHLFkWrlA-{each}"] for each in range(since, self.changes)]
        return ["id"], changes[:1]


async def test_changes_are_noticed_once_each() -> None:
    database, settings = Database(), GraphSettings(name="g", labels=["A", "B"])
    async with run_bolt_server(database.answer) as url:
        deployment = DeploymentSettings(name="lab", urls=[url])
        client, feed = BoltClient(deployment.addresses[0], deployment), ChangeFeed(settings)
        try:
            assert await feed.has_changed(client) is True
            assert await feed.has_changed(client) is False
            database.changes += 3
            assert await feed.has_changed(client) is True
            assert await feed.has_changed(client) is False
            # The log was pruned, or the database was restored from a backup.
            database.error = CODE + "InvalidIdentifier"
            assert await feed.has_changed(client) is True
            database.error = ""
            assert await feed.has_changed(client) is True
            assert await feed.has_changed(client) is False
        finally:
            await client.close()
    assert database.queries[0]["selectors"] == [
        {"select": "n", "labels": ["A"]}, {"select": "n", "labels": ["B"]}, {"select": "r"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "error", ["Neo.ClientError.Procedure.ProcedureNotFound", CODE + "Disabled",
              "Neo.ClientError.Security.Forbidden"],
)  # fmt: skip
async def test_database_without_captured_changes_is_polled(error: str) -> None:
    database = Database()
    async with run_bolt_server(database.answer) as url:
        deployment = DeploymentSettings(name="lab", urls=[url])
        client = BoltClient(deployment.addresses[0], deployment)
        feed = ChangeFeed(GraphSettings(name="g"))
        try:
            if error.startswith("Neo.ClientError.Procedure"):
                database.error = error
                assert await feed.has_changed(client) is None
            else:
                assert await feed.has_changed(client) is True
                database.error = error
                assert await feed.has_changed(client) is None
            database.error = ""
            assert await feed.has_changed(client) is None
        finally:
            await client.close()


def test_every_change_concerns_a_configured_query() -> None:
    assert make_selectors(GraphSettings(name="g", query="RETURN 1")) == []
