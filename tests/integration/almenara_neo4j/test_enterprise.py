"""A cluster of the Enterprise Edition, at the wire: the answers are those of its documentation,
since the other tests have the Community Edition.

https://neo4j.com/docs/operations-manual/current/database-administration/standard-databases/listing-databases/
"""

from contextlib import AsyncExitStack
from typing import Any

import pytest

from almenara.testing import SourceRun
from support.bolt import Answer, run_bolt_server

pytestmark = pytest.mark.anyio
NAMES = ("core-0:7687", "core-1:7687")
COLUMNS = [
    "name", "type", "address", "role", "writer", "access", "requestedStatus", "currentStatus",
    "statusMessage", "lastCommittedTxn", "replicationLag", "lastStartTime",
]  # fmt: skip
BEANS = {
    "neo4j.dbms.page_cache.hit_ratio": 0.97,
    "neo4j.dbms.page_cache.usage_ratio": 0.5,
    "neo4j.dbms.bolt.connections_running": 3,
    "neo4j.database.orders.store.size.total": 5_000_000,
    "neo4j.database.orders.check_point.duration": 1_500,
}


class Cluster:
    """Two members, one of which leads; both answer for the whole cluster."""

    def __init__(self) -> None:
        self.leader, self.transactions, self.checkpoints = 0, 100, 1
        self.roles = ["primary", "primary"]
        self.lists_databases, self.rounds = True, 0

    def answer(self, query: str, _parameters: dict[str, Any]) -> Answer:
        self.rounds += "dbms.components" in query
        if "SHOW DATABASES" in query and not self.lists_databases:
            return "Neo.ClientError.Transaction.TransactionTimedOut"
        for part, names, rows in (
            ("dbms.components", ["name", "versions", "edition"],
             [["Neo4j Kernel", ["5.26.0"], "enterprise"]]),
            ("SHOW DATABASES", COLUMNS, self._databases()),
            ("SHOW TRANSACTIONS", ["transactionId"], []),
            ("type=Runtime", ["started"], [[1_700_000_000_000]]),
            ("type=Memory", ["used", "max"], [[250, 1_000]]),
            ("neo4j.metrics", ["name", "value"], self._beans()),
            ("count(n)", ["count"], [[7]]),
            ("count(r)", ["count"], [[9]]),
        ):  # fmt: skip
            if part in query:
                return names, rows
        return "Neo.ClientError.Statement.SyntaxError"

    def _databases(self) -> list[list[Any]]:
        self.transactions += 10
        return [
            ["orders", "standard", name, self.roles[number], number == self.leader, "read-write",
             "online", "online", "", self.transactions, 0 if number == self.leader else -12,
             "2026-01-01T00:00:00Z"]
            for number, name in enumerate(NAMES)
        ]  # fmt: skip

    def _beans(self) -> list[list[Any]]:
        events = {"neo4j.database.orders.check_point.events": self.checkpoints}
        return [
            [f"neo4j.metrics:name={name}", value] for name, value in {**BEANS, **events}.items()
        ]


def newest(source: SourceRun, name: str, metric: str) -> float | None:
    values = [each.value for each in source.samples if (each.name, each.metric) == (name, metric)]
    return values[-1] if values else None


async def test_cluster_has_roles_writer_lag_checkpoints_and_page_cache(run: Any) -> None:
    cluster = Cluster()
    first, second = (f"orders@{name}" for name in NAMES)
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(run_bolt_server(cluster.answer)) for _ in NAMES]
        source = await stack.enter_async_context(run(*urls))
        await source.until(lambda: newest(source, first, "commits") is not None)
        assert (newest(source, first, "commits") or 0) > 0
        states = [source.resources[name].state for name in (first, second)]
        assert [each["role"] for each in states] == ["primary", "primary"]
        assert [each["writer"] for each in states] == [True, False]
        assert newest(source, second, "replication_lag") == 12
        assert newest(source, first, "store_size") == 5_000_000
        assert newest(source, first, "nodes") == 7
        for url in urls:
            server = source.resources[url.removeprefix("bolt://")]
            assert (server.status, server.state["edition"]) == ("ok", "enterprise")
            assert newest(source, server.name, "page_cache_hit_rate") == 0.97
            assert newest(source, server.name, "connections_running") == 3
            assert newest(source, server.name, "heap_share") == 0.25
        cluster.leader, cluster.checkpoints = 1, 2
        await source.until(lambda: source.resources[second].state["writer"])
        cluster.roles[0] = "secondary"
        await source.until(lambda: source.resources[first].state["role"] == "secondary")
        assert not source.is_degraded
    events = sorted((event.type, event.subject) for event in source.events)
    assert events == [
        ("neo4j.database.checkpoint", first), ("neo4j.database.role_changed", first),
        ("neo4j.database.writer_changed", second),
    ]  # fmt: skip


async def test_checkpoints_of_several_servers_are_not_compared(run: Any) -> None:
    members = [Cluster(), Cluster()]
    members[0].checkpoints, members[1].checkpoints = 3, 500
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(run_bolt_server(each.answer)) for each in members]
        source = await stack.enter_async_context(run(*urls))

        async def pass_rounds() -> None:
            last = [each.rounds + 3 for each in members]
            await source.until(
                lambda: all(each.rounds >= at for each, at in zip(members, last, strict=True))
            )

        await pass_rounds()
        # The other one names the databases now, and has written more checkpoints since its start.
        members[0].lists_databases = False
        await pass_rounds()
        members[0].lists_databases = True
        await pass_rounds()
        assert source.events == []
        members[0].checkpoints += 1
        await source.until(lambda: bool(source.events))
    (event,) = source.events
    assert event.type == "neo4j.database.checkpoint"
