"""Nothing is shown as healthy that no server answers about."""

from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import ConsumerConfig, DiscardPolicy

from almenara.signals import Severity
from almenara.testing.source_run import MemoryContext
from support.application import Almenara
from support.nats_source import publish_numbers, running, until
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio

FAST = {"rescan": 0.1, "observe": 0.1}
STREAM, CONSUMER = "nats.stream", "nats.consumer"


async def test_streams_and_consumers_are_unknown_while_nats_is_stopped(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    await client.jetstream().add_stream(name="S", subjects=["s"])
    await client.close()
    async with running(nats_server, memory, **FAST) as run:
        await until(lambda: run.status_of(CONSUMER, "almenara") == "ok", "the consumer")
        await until(lambda: bool(run.samples("rate")), "its rate")
        nats_server.stop()
        await until(lambda: run.status_of(STREAM, "S") == "unknown", "the stream", 10)
        await until(lambda: run.status_of(CONSUMER, "almenara") == "unknown", "the consumer", 10)
        stream = run.resource(STREAM, "S")
        assert stream is not None
        assert stream.severity is Severity.WARN
        assert stream.state["subjects"] == ["s"]
        assert stream.state["stale_since"] > 0
        assert "NATS" in stream.state["reason"]
        samples = len(run.samples("rate"))
        nats_server.start()
        await until(lambda: run.status_of(STREAM, "S") == "ok", "the stream again")
        assert "stale_since" not in run.resource(STREAM, "S").state  # type: ignore[union-attr]
        await until(lambda: len(run.samples("rate")) > samples, "its rate again")


async def test_streams_are_unknown_after_a_freeze(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    await client.jetstream().add_stream(name="S", subjects=["s"])
    async with running(nats_server, memory, **FAST) as run:
        await until(lambda: run.status_of(STREAM, "S") == "ok", "the stream")
        nats_server.freeze()
        try:
            await until(lambda: run.status_of(STREAM, "S") == "unknown", "unknown", 30)
        finally:
            nats_server.thaw()


async def test_streams_of_an_earlier_run_are_unknown_until_nats_answers(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    await client.jetstream().add_stream(name="S", subjects=["s"])
    async with running(nats_server, memory, **FAST) as run:
        await until(lambda: run.status_of(STREAM, "S") == "ok", "the stream")
    await client.close()
    nats_server.stop()
    async with running(nats_server, memory, **FAST) as again:
        await until(lambda: again.status_of(STREAM, "S") == "unknown", "the stream", 10)


async def test_panel_shows_no_rate_of_a_stream_that_is_unknown(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    client = await nats.connect(nats_server.url)
    await client.jetstream().add_stream(name="S", subjects=["s"])
    await publish_numbers(client.jetstream(), "s", range(3))
    await client.close()
    fast = {"PLUGINS__NATS__OBSERVE": "0.2", "PLUGINS__NATS__RESCAN": "0.2"}
    with Almenara(tmp_path / "a", nats_server.url, **fast) as almenara:
        wait_until(lambda: "/s</a>" in almenara.text("/"), "a rate")
        nats_server.stop()
        wait_until(lambda: "unknown" in almenara.text("/"), "the stream as unknown", 10)
        page = almenara.text("/")
        assert "/s</a>" not in page
        assert "since <time" in page
        (stream,) = almenara.get("/api/resources?kind=nats.stream")
        assert (stream["status"], stream["severity"]) == ("unknown", "WARN")


async def test_full_stream_is_an_error(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"], max_msgs=3, discard=DiscardPolicy.NEW)
    async with running(nats_server, memory, **FAST) as run:
        await publish_numbers(jetstream, "s", range(2))
        await until(lambda: run.status_of(STREAM, "S") == "ok", "the stream")
        await publish_numbers(jetstream, "s", range(1))
        await until(lambda: run.status_of(STREAM, "S") == "full", "the full stream")


async def test_consumer_with_one_long_message_is_not_stalled(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await publish_numbers(jetstream, "s", range(60))
    workers = await jetstream.pull_subscribe("s", durable="workers", stream="S")
    (_long,) = await workers.fetch(1)
    async with running(nats_server, memory, **FAST, stalled_after=1.0) as run:
        for round_number in range(1, 26):
            for message in await workers.fetch(1):
                await message.ack_sync()
            # One message per round: with two or more rounds a second, longer than `stalled_after`.
            await until(lambda rounds=round_number: len(run.samples("rate")) >= rounds, "a round")
            assert run.status_of(CONSUMER, "workers") in ("", "ok")
        await until(lambda: run.status_of(CONSUMER, "workers") == "stalled", "without progress")


async def test_paused_consumer_is_paused_and_not_stalled(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await publish_numbers(jetstream, "s", range(3))
    config = ConsumerConfig(durable_name="workers", pause_until="2099-01-01T00:00:00Z")
    await jetstream.add_consumer("S", config)
    async with running(nats_server, memory, **FAST, stalled_after=0.3) as run:
        await until(lambda: run.status_of(CONSUMER, "workers") == "paused", "the pause")
        await until(lambda: len(run.samples("rate")) > 8, "some rounds")
        assert run.status_of(CONSUMER, "workers") == "paused"
