"""Limits of servers, streams and accounts are adapted to, and the doctor tries them."""

from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import StreamConfig, StreamConsumerLimits

from almenara.testing.source_run import MemoryContext
from almenara_nats.doctor import diagnose
from almenara_nats.settings import NatsSettings
from support.faulty_link import FaultyLink
from support.nats_source import publish_numbers, running, until
from support.servers import NatsServer

pytestmark = pytest.mark.anyio


def limited(folder: Path, limits: str) -> NatsServer:
    server = NatsServer(folder / "nats")
    text = server.config.read_text()
    server.config.write_text(text.replace("jetstream {", f"jetstream {{ limits: {{{limits}}},"))
    return server


@pytest.mark.parametrize(
    "limits",
    [
        "max_request_batch: 100",
        "max_ack_pending: 1000",
        "max_request_batch: 7, max_ack_pending: 20",
    ],
)
async def test_stream_is_read_within_the_limits_of_the_server(
    tmp_path: Path, memory: MemoryContext, limits: str
) -> None:
    with limited(tmp_path, limits) as server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="S", subjects=["s"])
        await publish_numbers(client.jetstream(), "s", range(300))
        findings = await diagnose(NatsSettings(servers=[server.url]))
        assert {finding.verdict for finding in findings} == {"ok"}
        async with running(server, memory) as run:
            await until(lambda: run.numbers == list(range(300)), "all messages")
            assert run.status == "running"
        await client.close()


async def test_stream_is_read_within_its_limits_for_consumers(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    limits = StreamConsumerLimits(max_ack_pending=50, inactive_threshold=3600)
    await client.jetstream().add_stream(
        StreamConfig(name="S", subjects=["s"], consumer_limits=limits)
    )
    await publish_numbers(client.jetstream(), "s", range(300))
    async with running(nats_server, memory) as run:
        await until(lambda: run.numbers == list(range(300)), "all messages")


async def test_doctor_tries_to_create_the_consumer(nats_server: NatsServer, client: Any) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="FULL", subjects=["full"], max_consumers=1)
    await jetstream.add_consumer("FULL", durable_name="other", ack_policy="explicit")
    await jetstream.add_stream(name="S", subjects=["s"])
    findings = {
        finding.check: finding
        for finding in await diagnose(NatsSettings(servers=[nats_server.url]))
    }
    assert findings["stream FULL"].verdict == "failed"
    assert "maximum consumers limit" in findings["stream FULL"].message
    assert findings["stream S"].verdict == "ok"
    assert await jetstream.consumers_info("S") == []


async def test_connection_that_the_server_cuts_for_its_backlog_is_retried_with_less(
    tmp_path: Path, memory: MemoryContext
) -> None:
    server = NatsServer(tmp_path / "nats", max_payload=1024**2)
    server.config.write_text(server.config.read_text() + "max_pending: 2MB\n")
    body = b'{"n": 1, "x": "' + b"a" * 900_000 + b'"}'
    with server:
        client = await nats.connect(server.url)
        for name in "ABCDEF":
            await client.jetstream().add_stream(name=name, subjects=[name])
            for _ in range(8):
                await client.jetstream().publish(name, body, timeout=10)
        await client.close()
        async with running(server, memory, batch_bytes=64 * 1024**2) as run:
            await until(lambda: len(run.events) >= 48, "all messages", 60)
            was_cut = any("connection to NATS was lost" in reason for reason in run.reasons)
            assert not was_cut or any("batch_bytes" in reason for reason in run.reasons)
            # Read again after a cut, a message has the same id, and the bus stores it once.
            assert len({event.id for event in run.events}) == 48
            # What was read to its end needs no attention any more.
            await until(lambda: run.status == "running", "recovery")


async def test_connection_that_breaks_is_not_attributed_to_a_small_backlog(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await publish_numbers(jetstream, "s", range(100))
    with FaultyLink(nats_server.port) as link:
        servers = [f"nats://127.0.0.1:{link.port}"]
        async with running(nats_server, memory, servers=servers, batch=10) as run:
            await until(lambda: run.waiting > 0 or len(run.events) == 100, "a backlog")
            run.open.clear()
            link.set("reset")
            link.set("pass")
            run.open.set()
            await until(lambda: len(run.events) == 100, "all messages")
            await until(lambda: run.status == "running", "recovery")
            assert any("connection to NATS was lost" in reason for reason in run.reasons)
            assert not any("batch_bytes" in reason for reason in run.reasons)


async def test_budget_is_shared_by_the_streams(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    for name in "ABCDEFGH":
        await client.jetstream().add_stream(name=name, subjects=[name])
        await publish_numbers(client.jetstream(), name, range(50))
    requests: list[bytes] = []

    async def note(message: Any) -> None:
        requests.append(message.data)

    await client.subscribe("$JS.API.CONSUMER.MSG.NEXT.>", cb=note)
    async with running(nats_server, memory, batch_bytes=800_000, rescan=0.1) as run:
        await until(lambda: len(run.events) == 400, "all messages")
        await until(lambda: any(b'"max_bytes":100000' in each for each in requests), "a share")
