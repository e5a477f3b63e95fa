"""A real server: what is observed, and what is known of one that does not answer."""

import asyncio
from typing import Any

import msgspec
import pytest

from almenara.config import Secret
from almenara.sdk.servers import Address, TlsSettings
from almenara.signals import Event, Severity
from almenara.testing import SourceRun
from almenara_neo4j.client import BoltClient
from almenara_neo4j.doctor import diagnose
from almenara_neo4j.errors import QueryError, ServerError
from almenara_neo4j.settings import (
    DeploymentSettings,
    GraphSettings,
    Neo4jSettings,
)
from support.faulty_link import FaultyLink
from support.neo4j import ENDS_COMPUTATIONS, VERSION, Neo4jServer, needs_neo4j
from support.servers import free_port, wait_until

pytestmark = [pytest.mark.anyio, needs_neo4j]
PASSWORD = Secret.of("right-password")


def status_of(run: SourceRun, name: str) -> str:
    resource = run.resources.get(name)
    return resource.status if resource is not None else ""


def newest(run: SourceRun, name: str, metric: str) -> float | None:
    values = [
        sample.value for sample in run.samples if (sample.name, sample.metric) == (name, metric)
    ]
    return values[-1] if values else None


def events_of(run: SourceRun, kind: str) -> list[Event]:
    return [event for event in run.events if event.type == kind]


async def test_server_and_databases_have_state_and_samples(server: Neo4jServer, run: Any) -> None:
    server.call("CREATE (:City {name: 'Rome'})-[:ROAD]->(:City {name: 'Ostia'})")
    async with run(server.url, password=PASSWORD) as source:
        await source.until(lambda: newest(source, "neo4j", "relationships") is not None)
        resource, database = source.resources[server.address], source.resources["neo4j"]
        assert not source.is_degraded
    assert (resource.status, resource.namespace, resource.severity) == ("ok", "lab", Severity.INFO)
    assert resource.state["version"].startswith(VERSION)
    assert resource.state["edition"] == "community"
    assert resource.state["started"] > 0
    assert (database.status, database.kind) == ("online", "neo4j.database")
    assert database.state["role"] in ("primary", "standalone")
    assert status_of(source, "system") == "online"
    assert (newest(source, "neo4j", "nodes") or 0) >= 2
    assert (newest(source, "neo4j", "relationships") or 0) >= 1
    assert (newest(source, server.address, "heap") or 0) > 0
    assert 0 < (newest(source, server.address, "heap_share") or 0) < 1
    assert newest(source, server.address, "blocked_transactions") == 0


async def test_long_query_is_blocked_and_finished_without_literals(
    server: Neo4jServer, run: Any
) -> None:
    server.call("CREATE (:Lock {id: 'a'})")
    write = "MATCH (n:Lock) SET n.holder = 'secret value'"

    def wait_for_lock() -> None:
        with server.transaction() as transaction:
            transaction.run(
                "MATCH (n:Lock) SET n.holder = 'secret text', n.other = $other", other="hidden one"
            ).consume()

    async with run(server.url, password=PASSWORD, long_query_after=0.3) as source:
        await source.until(lambda: status_of(source, "neo4j") == "online")
        with server.transaction(write):
            await source.until(lambda: len(events_of(source, "neo4j.query.long")) == 1)
            waiting = asyncio.create_task(asyncio.to_thread(wait_for_lock))
            await source.until(lambda: len(events_of(source, "neo4j.query.blocked")) == 1)
            await source.until(
                lambda: (newest(source, server.address, "blocked_transactions") or 0) == 1
            )
            blocked = next(each for each in source.resources.values() if each.status == "blocked")
        await waiting
        await source.until(lambda: len(events_of(source, "neo4j.query.finished")) == 2)
        await source.until(
            lambda: not [each for each in source.resources.values() if each.kind == "neo4j.query"]
        )
    assert blocked.state["query"] == "MATCH (n:Lock) SET n.holder = ?, n.other = $other"
    assert blocked.state["user"] == "neo4j"
    assert "Blocked" in blocked.state["reason"]
    published = msgspec.json.encode(source.bus.signals).decode()
    assert "secret" not in published
    assert "hidden" not in published
    # Our own transactions are not among them.
    assert "SHOW TRANSACTIONS" not in published
    assert source.bus.repeats == []


async def test_stopped_frozen_and_restarted_server(server: Neo4jServer, run: Any) -> None:
    async with run(server.url, password=PASSWORD) as source:
        await source.until(lambda: status_of(source, server.address) == "ok")
        server.freeze()
        try:
            await source.until(lambda: status_of(source, server.address) == "unreachable")
            assert "no response within" in source.degraded_for[-1]
        finally:
            server.thaw()
        await source.until(lambda: status_of(source, server.address) == "ok")
        assert events_of(source, "neo4j.server.restarted") == []
        server.kill()
        await source.until(
            lambda: (
                status_of(source, server.address) == "unreachable"
                and "refused" in source.resources[server.address].state["reason"]
            )
        )
        resource = source.resources[server.address]
        assert resource.severity is Severity.ERROR
        assert resource.state["version"].startswith(VERSION)
        assert resource.state["stale_since"] > 0
        assert status_of(source, "neo4j") == "unknown"
        assert source.is_degraded
        server.start()
        await source.until(lambda: status_of(source, server.address) == "ok")
        await source.until(lambda: status_of(source, "neo4j") == "online")
        await source.until(lambda: not source.is_degraded)
        assert "stale_since" not in source.resources[server.address].state
    kinds = [
        event.type.removeprefix("neo4j.server.")
        for event in source.events
        if event.subject == server.address
    ]
    assert kinds.count("restarted") == 1
    assert kinds[kinds.index("restarted") - 1] == "unreachable"
    # In turns: a machine under load may be as slow as a frozen server, at first and in between.
    kinds.remove("restarted")
    if kinds[0] == "recovered":
        del kinds[0]
    assert kinds == ["unreachable", "recovered"] * (len(kinds) // 2)
    assert len(kinds) >= 4


# One that ends connections and one that does not; the silence matrix has all faults.
@pytest.mark.parametrize("fault", ["reset", "drip"])
async def test_no_health_is_claimed_of_a_faulty_server(
    server: Neo4jServer, run: Any, fault: Any
) -> None:
    with FaultyLink(server.port) as link:
        address = f"127.0.0.1:{link.port}"
        async with run(f"bolt://{address}", password=PASSWORD, timeout=1.0) as source:
            await source.until(lambda: status_of(source, address) == "ok")
            link.set(fault)
            await source.until(lambda: status_of(source, address) == "unreachable")
            await source.until(lambda: status_of(source, "neo4j") == "unknown")
            link.set("pass")
            await source.until(lambda: status_of(source, address) == "ok")
    assert events_of(source, "neo4j.server.restarted") == []


async def test_writing_query_is_refused(server: Neo4jServer) -> None:
    settings = DeploymentSettings(name="lab", urls=[server.url], password=PASSWORD, timeout=30.0)
    client = BoltClient(Address("127.0.0.1", server.port), settings)
    try:
        with pytest.raises(QueryError, match="the graph writes, and only reading is allowed"):
            await client.read("the graph", "CREATE (n:Written) RETURN n", database="neo4j")
        rows = await client.read(
            "all", "UNWIND range(1, 50000) AS n RETURN n", database="neo4j", limit=7
        )
        assert [row["n"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    finally:
        await client.close()
    assert server.call("MATCH (n:Written) RETURN count(n) AS count") == [{"count": 0}]


@pytest.mark.skipif(not ENDS_COMPUTATIONS, reason="Neo4j 4.4 ends no query that only computes")
async def test_endless_query_is_terminated(server: Neo4jServer) -> None:
    settings = DeploymentSettings(name="lab", urls=[server.url], password=PASSWORD, timeout=1.0)
    client = BoltClient(Address("127.0.0.1", server.port), settings)
    endless = "UNWIND range(1, 100000) AS a UNWIND range(1, 1000000) AS b RETURN count(*)"
    try:
        with pytest.raises(ServerError, match=r"(longer than|no response within) 1 s"):
            await client.read("the graph", endless, database="neo4j")
    finally:
        await client.close()

    def is_running() -> bool:
        return any("range" in row["currentQuery"] for row in server.call("SHOW TRANSACTIONS"))

    await asyncio.to_thread(wait_until, lambda: not is_running(), "the termination", 60.0)


async def test_refused_password_is_named_once_and_not_shown(server: Neo4jServer, run: Any) -> None:
    async with run(server.url, password=Secret.of("wrong-password")) as source:
        await source.until(lambda: status_of(source, server.address) == "unreachable")
        reason = source.resources[server.address].state["reason"]
    assert "refuses the password" in reason
    assert "wrong-password" not in msgspec.json.encode(source.bus.signals).decode()
    # The user is not locked out for others.
    assert server.call("RETURN 1 AS n") == [{"n": 1}]


async def test_doctor_reports_each_deployment(server: Neo4jServer) -> None:
    deployments = [
        DeploymentSettings(name="good", urls=[server.url], password=PASSWORD, timeout=30.0),
        DeploymentSettings(
            name="partly", urls=[server.url, "bolt://127.0.0.1:1"], password=PASSWORD, timeout=30.0
        ),
        DeploymentSettings(name="away", urls=[f"bolt://127.0.0.1:{free_port()}"]),
        DeploymentSettings(name="refused", urls=[server.url], password=Secret.of("wrong")),
    ]
    findings = await diagnose(Neo4jSettings(deployments=deployments))
    assert [finding.verdict for finding in findings] == ["ok", "warning", "failed", "failed"]
    assert (
        f"servers that answer: 1 (Neo4j {VERSION} community); databases: 2" in findings[0].message
    )
    assert "the connection is refused" in findings[2].message
    assert "refuses the password" in findings[3].message
    assert all(finding.remedy for finding in findings[1:])


async def test_doctor_reads_each_graph(server: Neo4jServer) -> None:
    server.call("MATCH (n) DETACH DELETE n")
    server.call("CREATE (:Story {id: 'US-1'})")
    graphs = [
        GraphSettings(timeout=30.0, name="stories"),
        GraphSettings(timeout=30.0, name="empty", labels=["Nothing"]),
        GraphSettings(timeout=30.0, name="wrong", query="MATCH (n RETURN n"),
        GraphSettings(timeout=30.0, name="away", database="missing"),
    ]
    deployment = DeploymentSettings(
        name="lab", urls=[server.url], password=PASSWORD, timeout=30.0, graphs=graphs
    )
    findings = (await diagnose(Neo4jSettings(deployments=[deployment])))[1:]
    assert [finding.verdict for finding in findings] == ["ok", "warning", "failed", "failed"]
    assert findings[0].message == "nodes: 1, relationships: 0"
    assert findings[2].message.startswith("the graph wrong: ")
    assert "neo4j_code" not in findings[2].message
    assert "the database does not exist" in findings[3].message
    assert all(finding.remedy for finding in findings[1:])


async def test_tls_is_verified(server: Neo4jServer, run: Any) -> None:
    url = f"bolt+s://{server.address}"
    files = TlsSettings(ca=server.folder / "cert.pem")
    async with run(url, password=PASSWORD, tls=files) as source:
        await source.until(lambda: status_of(source, server.address) == "ok")
    async with run(url, password=PASSWORD) as source:
        await source.until(lambda: status_of(source, server.address) == "unreachable")
        assert "TLS" in source.resources[server.address].state["reason"]
    async with run(url, password=PASSWORD, tls=TlsSettings(verify=False)) as source:
        await source.until(lambda: status_of(source, server.address) == "ok")
