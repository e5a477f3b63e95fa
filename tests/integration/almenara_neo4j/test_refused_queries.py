"""Servers that answer some queries and not others, at the wire: what cannot be read is unknown, not
deleted."""

from typing import Any

import pytest

from almenara.signals import Severity
from almenara.testing import SourceRun
from support.bolt import Answer, run_bolt_server

pytestmark = pytest.mark.anyio
TIMED_OUT = "Neo.ClientError.Transaction.TransactionTimedOut"
FORBIDDEN = "Neo.ClientError.Security.Forbidden"
DATABASES = ["name", "currentStatus", "requestedStatus", "lastStartTime"]
TRANSACTIONS = ["database", "transactionId", "currentQuery", "startTime", "status", "elapsedTime"]
STARTED = 1_700_000_000_000
"""Milliseconds at which the process was started."""


class Server:
    """A server of the Community Edition with one database and two long queries."""

    def __init__(self) -> None:
        self.refusals: dict[str, str] = {}
        """The error code of each query that is not answered, by a part of its text."""
        self.queries = ["tx-1", "tx-2"]
        self.status = "online"
        self.rounds = 0

    def answer(self, query: str, _parameters: dict[str, Any]) -> Answer:
        if "dbms.components" in query:
            self.rounds += 1
        for part, code in self.refusals.items():
            if part in query:
                return code
        for part, names, rows in (
            ("dbms.components", ["name", "versions", "edition"],
             [["Neo4j Kernel", ["5.26.0"], "community"]]),
            ("SHOW DATABASES", DATABASES, self._databases()),
            ("SHOW TRANSACTIONS", TRANSACTIONS, self._transactions()),
            ("type=Runtime", ["started"], [[STARTED]]),
            ("type=Memory", ["used", "max"], [[250, 1_000]]),
            ("count(n)", ["count"], [[7]]),
            ("count(r)", ["count"], [[9]]),
        ):  # fmt: skip
            if part in query:
                return names, rows
        return "Neo.ClientError.Statement.SyntaxError"

    def _databases(self) -> list[list[Any]]:
        # The database `system` starts some seconds after the process.
        started = "2023-11-14T22:13:30Z"
        return [
            ["system", "online", "online", started],
            ["orders", self.status, "online", started],
        ]

    def _transactions(self) -> list[list[Any]]:
        statuses = {"tx-1": "Running", "tx-2": "Blocked by: [tx-1]"}
        return [
            ["orders", name, "MATCH (n) RETURN n", "2026-01-01T00:00:00Z", statuses[name], 60.0]
            for name in self.queries
        ]


async def pass_rounds(source: SourceRun, server: Server, number: int = 3) -> None:
    """Return after some observations, the first of which may have started already."""
    last = server.rounds + number
    await source.until(lambda: server.rounds >= last)


def statuses_of(source: SourceRun) -> dict[str, str]:
    return {
        name.partition("@")[0]: resource.status
        for name, resource in source.resources.items()
        if resource.kind != "neo4j.server"
    }


KNOWN = {"system": "online", "orders": "online", "tx-1": "running", "tx-2": "blocked"}
UNKNOWN = dict.fromkeys(KNOWN, "unknown")


async def test_what_a_terminated_query_reports_is_unknown_and_known_again(run: Any) -> None:
    server = Server()
    async with run_bolt_server(server.answer) as url, run(url) as source:
        await source.until(lambda: statuses_of(source) == KNOWN)
        (name,) = [name for name in source.resources if name.startswith("tx-1")]
        before = source.resources[name]
        server.refusals = {"SHOW DATABASES": TIMED_OUT, "SHOW TRANSACTIONS": TIMED_OUT}
        await source.until(lambda: statuses_of(source) == UNKNOWN)
        query, database = source.resources[name], source.resources["orders"]
        assert query.state == {
            **before.state, "last_status": "running", "stale_since": query.state["stale_since"],
            "reason": "SHOW TRANSACTIONS takes longer than 2 s and was terminated",
        }  # fmt: skip
        assert database.severity is Severity.WARN
        assert database.state["reason"] == "SHOW DATABASES takes longer than 2 s and was terminated"
        assert source.resources[url.removeprefix("bolt://")].status == "ok"
        assert source.is_degraded
        await pass_rounds(source, server)
        server.refusals = {}
        await source.until(lambda: statuses_of(source) == KNOWN)
        assert source.resources[name].state == before.state
        await source.until(lambda: not source.is_degraded)
    assert source.events == []
    assert not any(getattr(signal, "deleted", False) for signal in source.bus.signals)


async def test_what_changed_while_it_was_unknown_is_one_event(run: Any) -> None:
    server = Server()
    async with run_bolt_server(server.answer) as url, run(url) as source:
        await source.until(lambda: statuses_of(source) == KNOWN)
        server.refusals = {"SHOW DATABASES": TIMED_OUT, "SHOW TRANSACTIONS": TIMED_OUT}
        await source.until(lambda: statuses_of(source) == UNKNOWN)
        server.status, server.queries = "offline", ["tx-2"]
        server.refusals = {}
        await source.until(
            lambda: (
                statuses_of(source) == {"system": "online", "orders": "offline", "tx-2": "blocked"}
            )
        )
    assert sorted(event.type for event in source.events) == [
        "neo4j.database.offline", "neo4j.query.finished",
    ]  # fmt: skip


async def test_another_server_reports_the_databases(run: Any) -> None:
    first, second = Server(), Server()
    first.queries, second.queries = ["tx-1"], ["tx-2"]
    first.refusals = {"SHOW DATABASES": FORBIDDEN}
    async with (
        run_bolt_server(first.answer) as one, run_bolt_server(second.answer) as two,
        run(one, two) as source,
    ):  # fmt: skip
        await source.until(lambda: statuses_of(source) == KNOWN)
        second.refusals = {"SHOW TRANSACTIONS": TIMED_OUT}
        await source.until(lambda: statuses_of(source) == {**KNOWN, "tx-2": "unknown"})


async def test_resources_of_an_earlier_run_are_unknown_until_they_are_read(run: Any) -> None:
    server = Server()
    async with run_bolt_server(server.answer) as url:
        async with run(url) as source:
            await source.until(lambda: statuses_of(source) == KNOWN)
        server.refusals = {"SHOW DATABASES": TIMED_OUT, "SHOW TRANSACTIONS": TIMED_OUT}
        async with run(url) as source:
            await source.until(lambda: statuses_of(source) == UNKNOWN)
            await pass_rounds(source, server)
            server.refusals = {}
            await source.until(lambda: statuses_of(source) == KNOWN)
    assert source.events == []
    assert not any(getattr(signal, "deleted", False) for signal in source.bus.signals)


async def test_start_of_the_process_is_not_compared_with_that_of_a_database(run: Any) -> None:
    server = Server()
    async with run_bolt_server(server.answer) as url, run(url) as source:
        await source.until(lambda: statuses_of(source) == KNOWN)
        name = url.removeprefix("bolt://")
        assert source.resources[name].state["started"] == STARTED * 1000
        server.refusals = {"type=Runtime": TIMED_OUT}
        await source.until(lambda: source.is_degraded)
        await pass_rounds(source, server)
        assert source.resources[name].state["started"] == STARTED * 1000
        server.refusals = {}
        await source.until(lambda: not source.is_degraded)
    assert source.events == []
