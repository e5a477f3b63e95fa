"""A cluster of three servers: what no server answers about is offline, and never zero."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
import pytest
from structlog.testing import capture_logs

from almenara.bus.shared import SharedBus
from almenara.cancellation import cancel_and_wait
from almenara.config import StorageSettings
from almenara.hookspecs import LogBounds
from almenara.signals import Severity
from almenara.testing.source_run import MemoryContext
from almenara_nats.bus_log import JetStreamLog, JetStreamSession
from almenara_nats.doctor import diagnose
from almenara_nats.settings import NatsSettings
from support.bus import make_event
from support.nats_cluster import nats_cluster
from support.nats_source import publish_numbers, running, until
from support.replicas import create_stream as create_bus_stream, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

STREAM, CONSUMER = "nats.stream", "nats.consumer"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    with nats_cluster(tmp_path) as servers:
        yield servers


async def create_stream(client: Any, name: str, replicas: int) -> str:
    """Create a stream once the cluster has a leader; the name of the server that leads it."""
    jetstream = client.jetstream(timeout=2)

    async def create() -> bool:
        try:
            await jetstream.add_stream(name=name, subjects=[name.lower()], num_replicas=replicas)
        except Exception:
            return False
        return True

    for _ in range(60):
        if await create():
            break
    info = await jetstream.stream_info(name)
    return str(info.cluster.leader)


async def test_offline_stream_is_offline_with_its_last_figures(
    cluster: list[NatsServer], memory: MemoryContext
) -> None:
    client = await nats.connect([server.url for server in cluster], reconnect_time_wait=0.2)
    leader = await create_stream(client, "ONE", 1)
    await create_stream(client, "THREE", 3)
    await publish_numbers(client.jetstream(), "one", range(3))
    await publish_numbers(client.jetstream(), "three", range(10, 13))
    victim = cluster[int(leader[1:])]
    others = [server.url for server in cluster if server is not victim]
    async with running(victim, memory, servers=others) as run:
        await until(lambda: len(run.numbers) == 6, "the messages", 30)
        await until(lambda: run.status_of(STREAM, "ONE") == "ok", "the stream", 30)
        await until(lambda: run.status_of(STREAM, "THREE") == "ok", "the replicas", 30)
        await until(
            lambda: any(getattr(signal, "kind", "") == CONSUMER for signal in run.signals),
            "the consumers", 30,
        )  # fmt: skip
        victim.kill()
        # Until the servers have elected a leader, they answer about no stream.
        await until(lambda: run.status_of(STREAM, "ONE") in ("unknown", "offline"), "the loss", 10)
        await until(lambda: run.status_of(STREAM, "ONE") == "offline", "the offline stream", 60)
        stream = run.resource(STREAM, "ONE")
        assert stream is not None
        assert stream.severity is Severity.ERROR
        assert stream.state["subjects"] == ["one"]
        assert stream.state["stale_since"] > 0
        assert run.samples("messages")[-1].name != "ONE"
        assert all(sample.value == 3 for sample in run.samples("messages")[10:])
        await until(lambda: "offline streams: ONE" in run.reason, "the report")
        await until(lambda: run.status_of(STREAM, "THREE") == "replica offline", "R3", 60)
        consumers = {
            signal.key for signal in run.signals if getattr(signal, "kind", "") == CONSUMER
        }
        assert {key[2] for key in consumers} == {"almenara"}
        await publish_numbers(client.jetstream(), "three", range(13, 16))
        await until(lambda: set(range(10, 16)) <= set(run.numbers), "R3 is read", 30)
        findings = {each.check: each for each in await diagnose(NatsSettings(servers=others))}
        assert findings["stream ONE"].verdict == "failed"
        assert "offline" in findings["stream ONE"].message
        assert findings["stream THREE"].verdict == "ok"
        assert "Enable JetStream" not in str(findings)
        victim.start()
        await until(lambda: run.status_of(STREAM, "ONE") == "ok", "the stream again", 60)
        assert not any(getattr(signal, "deleted", False) for signal in run.signals)
    await client.close()


async def test_replicated_stream_is_read_on_after_its_leader_was_killed(
    cluster: list[NatsServer], memory: MemoryContext
) -> None:
    client = await nats.connect([server.url for server in cluster], reconnect_time_wait=0.2)
    leader = await create_stream(client, "THREE", 3)
    await publish_numbers(client.jetstream(), "three", range(5))
    victim = cluster[int(leader[1:])]
    others = [server.url for server in cluster if server is not victim]
    async with running(victim, memory, servers=others) as run:
        await until(lambda: len(run.numbers) == 5, "the messages", 30)
        await until(lambda: run.status_of(STREAM, "THREE") == "ok", "the replicas", 30)
        victim.kill()
        for number in range(5, 10):
            await publish_until_stored(client, "three", number)
        await until(lambda: set(range(10)) <= set(run.numbers), "the messages after it", 60)
        await until(lambda: run.status_of(STREAM, "THREE") == "replica offline", "the loss", 60)
        assert sorted(run.numbers) == list(range(10))
        victim.start()
        await until(lambda: run.status_of(STREAM, "THREE") == "ok", "all replicas", 60)
    await client.close()


async def publish_until_stored(client: Any, subject: str, number: int) -> None:
    """Publish a message once, however often that is retried while a leader is elected."""
    headers = {"Nats-Msg-Id": str(number)}
    async with asyncio.timeout(60):
        while True:
            with suppress(nats.errors.Error, nats.js.errors.Error, TimeoutError):
                await client.jetstream(timeout=2).publish(
                    subject, b'{"n": %d}' % number, headers=headers
                )
                return
            await asyncio.sleep(0.2)


async def test_log_is_read_through_each_server_of_a_cluster(cluster: list[NatsServer]) -> None:
    # The server that creates a consumer is mostly not the one that it is read through, which
    # learns of it later than the client does.
    await create_bus_stream(cluster, 60)
    async with shared_log(*cluster).connect() as session:
        await session.append(b"batch", "1")
    for server in cluster * 5:
        async with (
            shared_log(server).connect() as session,
            aclosing(session.read(1)) as reading,
        ):
            assert await anext(reading) == []
            messages = await anext(reading)
            assert [message.payload for message in messages] == [b"batch"]


class CountingLog(JetStreamLog):
    """A log that counts how often its state was requested."""

    attempts = 0

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[JetStreamSession]:
        async with super().connect() as session:
            request_bounds = session.bounds

            async def count_bounds() -> LogBounds:
                self.attempts += 1
                return await request_bounds()

            session.bounds = count_bounds  # type: ignore[method-assign]
            yield session


@asynccontextmanager
async def open_bus(
    folder: Path, log: CountingLog, servers: list[NatsServer], reads_from_first: bool
) -> AsyncIterator[SharedBus]:
    """Run a bus connected to the first server whose consumer is on that server, or on another."""
    async with await nats.connect(servers[0].url) as client:
        for attempt in range(60):
            settings = StorageSettings(dir=folder / str(attempt), write_retry_interval=0.1)
            async with SharedBus(settings, log) as bus:
                consumers = await client.jetstream().consumers_info(log.bus.stream)
                newest = max(consumers, key=lambda consumer: consumer.created)
                # The server places a consumer of one copy at random.
                if (newest.cluster.leader == "n0") is reads_from_first:
                    yield bus
                    return
    raise AssertionError("no consumer was placed where the test needs one")


@asynccontextmanager
async def collect_readiness(bus: SharedBus) -> AsyncIterator[set[str]]:
    """Collect why a replica is not ready, at any moment."""
    reasons: set[str] = set()

    async def collect() -> None:
        while True:
            if (reason := bus.not_ready) is not None:
                reasons.add(reason)
            await asyncio.sleep(0.005)

    collecting = asyncio.create_task(collect())
    try:
        yield reasons
    finally:
        await cancel_and_wait(collecting)


@pytest.mark.parametrize("reads_on", [True, False], ids=["reads on", "reads nothing"])
async def test_replica_reports_a_bus_without_a_leader(
    cluster: list[NatsServer], tmp_path: Path, reads_on: bool
) -> None:
    await create_bus_stream(cluster, 60)
    known = shared_log(*cluster)
    log = CountingLog(known.settings, known.bus)
    async with open_bus(tmp_path, log, cluster, reads_on) as bus:
        await bus.publish([make_event(1)], "test")
        await until(lambda: bus.not_ready is None, "the start")
        async with collect_readiness(bus) as reasons:
            with capture_logs() as logs:
                await wait_for_attempts(bus, log, cluster[1:])
            reports = [entry["event"] for entry in logs if "shared log" in entry["event"]]
            assert reports == ["the shared log is not available"]
            await until(lambda: bus.write_problem is None, "the bus", 180)
        # All replicas have this problem, so none of them may leave the load balancer.
        assert reasons == set()
        await bus.publish([make_event(2)], "test")


async def wait_for_attempts(bus: SharedBus, log: CountingLog, servers: list[NatsServer]) -> None:
    """Freeze servers until the bus has tried several times to use the log without them."""
    for server in servers:
        server.freeze()
    try:
        # The server that is left still answers where the log ends, and may deliver it.
        await until(lambda: "has no leader" in (bus.write_problem or ""), "the cause", 60)
        before = log.attempts
        await until(lambda: log.attempts > before + 2, "further attempts", 180)
    finally:
        for server in servers:
            server.thaw()
