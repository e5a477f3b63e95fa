"""The NATS source alone, against a real server, where a message could be lost silently."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import nats
import pytest

from almenara.signals import Resource, Severity
from almenara.testing.source_run import MemoryContext
from support.nats_source import (
    SourceHarness,
    is_json,
    publish_numbers,
    running,
    until,
    until_read,
)
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

LOSS = "almenara.messages.dropped"


async def test_start_new_reads_what_arrived_while_stopped(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await publish_numbers(jetstream, "s", range(3))
    async with running(nats_server, memory, start="new"):
        await until_read(jetstream, "S")
    await publish_numbers(jetstream, "s", range(3, 8))
    async with running(nats_server, memory, start="new") as run:
        await until(lambda: run.numbers == [3, 4, 5, 6, 7], "what came while away")


async def test_stream_created_while_running_is_read_from_its_start(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    async with running(nats_server, memory, start="new", rescan=1.0) as run:
        await until(
            lambda: any(isinstance(signal, Resource) for signal in run.signals),
            "the first resources",
        )
        await jetstream.add_stream(name="LATER", subjects=["later"])
        await publish_numbers(jetstream, "later", range(5))
        await until(lambda: run.numbers == [0, 1, 2, 3, 4], "the stream's first messages")


async def test_interest_stream_loses_nothing_over_restarts(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="I", subjects=["i"], retention="interest")
    sent, seen = 0, set[int]()
    enough = asyncio.Event()

    async def keep_publishing() -> None:
        nonlocal sent
        while not enough.is_set():
            await jetstream.publish("i", json.dumps({"n": sent}).encode())
            sent += 1

    async with asyncio.TaskGroup() as group:
        async with running(nats_server, memory) as first:
            await until_read(jetstream, "I")
            group.create_task(keep_publishing())
            await until(lambda: len(first.numbers) > 200, "the first messages")
        seen.update(first.numbers)
        for _ in range(5):
            async with running(nats_server, memory) as again:
                await until(lambda: len(again.numbers) > 200, "messages after a restart")
            seen.update(again.numbers)
        enough.set()
    async with running(nats_server, memory) as last:
        await until(lambda: set(range(sent)) <= seen | set(last.numbers), "every message")


async def test_nothing_is_acknowledged_before_it_is_durable(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await publish_numbers(jetstream, "s", range(1500))
    async with running(nats_server, memory) as blocked:
        blocked.open.clear()
        await until_read(jetstream, "S")
        async with asyncio.timeout(10):
            while True:
                info = await jetstream.consumer_info("S", "almenara")
                if info.num_ack_pending >= 500:
                    break
                await asyncio.sleep(0.02)
        assert info.ack_floor.stream_seq == 0
    async with running(nats_server, memory) as run:
        await until(lambda: sorted(run.numbers) == list(range(1500)), "each message once")


async def test_oversize_message_arrives_alone_without_hot_loop(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await publish_numbers(jetstream, "s", range(3))
    await jetstream.publish("s", b'{"n": 3, "x": "' + b"a" * 8 * 1024**2 + b'"}', timeout=10)
    await publish_numbers(jetstream, "s", range(4, 6))
    await client.close()
    nats_server.stop()
    text = nats_server.config.read_text()
    nats_server.config.write_text(text.replace(f"max_payload: {16 * 1024**2}", "max_payload: 1MB"))
    nats_server.start()
    requests = []

    async def note(message: Any) -> None:
        requests.append(message.subject)

    watcher = await nats.connect(nats_server.url)
    await watcher.subscribe("$JS.API.CONSUMER.MSG.NEXT.>", cb=note)
    async with running(nats_server, memory, batch_bytes=1024) as run:
        await until(lambda: len(run.events) == 6, "the messages behind the long one")
        assert run.numbers == [0, 1, 2, 4, 5]
        assert run.rejected_count == 1
        assert len(requests) < 30
    await watcher.close()


async def test_subjects_and_headers_that_are_not_utf8_do_not_end_reading(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s.>"])
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true}\r\nPUB s.\xff\xfe 8\r\n{"n": 0}\r\n')
    blocks = (
        b"NATS/1.0\r\n\xff: \xfe\r\n\r\n",
        b"NATS/1.0 \xff\xff\r\n\r\n",
        b"NATS/1.0",
        b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    )
    for number, block in enumerate(blocks, 1):
        body = b'{"n": %d}' % number
        writer.write(b"HPUB s.h %d %d\r\n%s%s\r\n" % (len(block), len(block + body), block, body))
    writer.write(b"PING\r\n")
    async with asyncio.timeout(5):
        while await reader.readline() != b"PONG\r\n":
            pass
    await publish_numbers(jetstream, "s.a", range(5, 8))
    async with running(nats_server, memory) as run:
        await until(lambda: sorted(run.numbers) == list(range(8)), "every message")
    writer.close()


async def test_unreadable_stream_is_reported_with_the_reason(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="FULL", subjects=["full"], max_consumers=1)
    await jetstream.add_consumer("FULL", durable_name="other", ack_policy="explicit")
    async with running(nats_server, memory) as run:
        await until(lambda: run.status == "degraded", "the report")
        assert "FULL" in run.reason
        assert "maximum consumers limit" in run.reason
        await jetstream.delete_consumer("FULL", "other")
        await publish_numbers(jetstream, "full", range(1))
        await until(lambda: run.status == "running" and run.numbers == [0], "its recovery")


async def test_work_queue_is_left_to_its_workers(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="WORK", subjects=["work"], retention="workqueue")
    await jetstream.add_stream(name="S", subjects=["s"])
    await publish_numbers(jetstream, "work", range(3))
    await publish_numbers(jetstream, "s", range(1))
    async with running(nats_server, memory) as run:
        await until(lambda: run.numbers == [0], "the other stream")
        assert (await jetstream.stream_info("WORK")).state.messages == 3
        assert await jetstream.consumers_info("WORK") == []


async def test_named_work_queue_is_emptied_without_loss_over_a_restart(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="WORK", subjects=["work"], retention="workqueue")
    await publish_numbers(jetstream, "work", range(3))

    async def wait_until_empty() -> None:
        async with asyncio.timeout(15):
            while (await jetstream.stream_info("WORK")).state.messages:
                await asyncio.sleep(0.05)

    async with running(nats_server, memory, streams=["WORK"]) as run:
        await until(lambda: run.numbers == [0, 1, 2], "what was there")
        await wait_until_empty()
        run.open.clear()
        await publish_numbers(jetstream, "work", range(3, 5))
        await asyncio.sleep(0.2)
        assert (await jetstream.stream_info("WORK")).state.messages == 2
    await publish_numbers(jetstream, "work", range(5, 7))
    async with running(nats_server, memory, streams=["WORK"], start="new") as again:
        await until(lambda: again.numbers == [3, 4, 5, 6], "what the bus did not have")
        await wait_until_empty()
        assert again.status == "running"
    assert not memory.bus.repeats


async def test_work_queue_in_use_is_refused_with_a_remedy(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="WORK", subjects=["work"], retention="workqueue")
    await jetstream.add_consumer("WORK", durable_name="worker", ack_policy="explicit")
    async with running(nats_server, memory, streams=["WORK"]) as run:
        await until(lambda: run.status == "degraded", "the report")
        assert "name its subjects in plugins.nats.subjects" in run.reason
    async with running(nats_server, memory, subjects=["work"]) as run:
        async with asyncio.timeout(15):
            while not run.events:
                await publish_numbers(jetstream, "work", range(1))
                await asyncio.sleep(0.05)
        queued = (await jetstream.stream_info("WORK")).state.messages
        assert queued >= len(run.events)


async def test_lag_of_a_deleted_stream_is_dropped(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await publish_numbers(jetstream, "s", range(300))
    async with running(nats_server, memory, batch=10, rescan=0.2, observe=0.1) as run:
        await until(lambda: bool(run.numbers), "the first batch")
        run.open.clear()
        await until(lambda: run.waiting > 0, "the lag")
        await jetstream.delete_stream("S")
        run.open.set()
        await until(lambda: run.waiting == 0, "its end")
        assert run.status == "running"


async def test_stream_deleted_while_stopped_is_published_as_deleted(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    key = ("nats.stream", "", "S")

    def is_published(run: SourceHarness, deleted: bool) -> bool:
        return any(
            isinstance(signal, Resource) and signal.key == key and signal.deleted is deleted
            for signal in run.signals
        )

    async with running(nats_server, memory) as run:
        await until(lambda: is_published(run, False), "the stream as a resource")
    await jetstream.delete_stream("S")
    async with running(nats_server, memory) as again:
        await until(lambda: is_published(again, True), "the stream as deleted")


async def test_wildcard_excludes_our_own_requests_and_responses(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    await client.jetstream().add_stream(name="S", subjects=["s"])
    intervals = {"inbox_prefix": "_ALM", "rescan": 0.1, "observe": 0.1}
    async with running(nats_server, memory, subjects=[">"], **intervals) as run:
        async with asyncio.timeout(15):
            while not run.events:
                await client.publish("c", b'{"n": 1}')
                await asyncio.sleep(0.05)
        # Every round sends requests, whose responses arrive on a subject of the prefix.
        rounds = len(run.signals)
        await until(lambda: len(run.signals) > rounds + 4, "further rounds")
        await client.publish("c", b'{"n": 2}')
        await until(lambda: 2 in run.numbers, "what came after them")
        assert {signal.subject for signal in run.events} == {"c"}


async def test_core_loss_is_reported_for_its_time(
    nats_server: NatsServer, client: Any, memory: MemoryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("almenara_nats.core_subjects.QUEUE_LENGTH", 10)
    monkeypatch.setattr("almenara_nats.core_subjects.DROPS_REPORTED", 1.0)
    async with running(nats_server, memory, subjects=["c"]) as run:

        async def publish_until(is_done: Callable[[], bool]) -> None:
            async with asyncio.timeout(15):
                while not is_done():
                    await client.publish("c", b'{"n": 1}')
                    await asyncio.sleep(0.05)

        await publish_until(lambda: bool(run.events))
        run.open.clear()
        for _ in range(30):
            await client.publish("c", b'{"n": 1}')
        await client.flush()
        run.open.set()
        await publish_until(lambda: run.status == "degraded")
        await publish_until(lambda: run.status == "running")


async def test_core_flood_is_bounded_and_every_loss_is_counted(
    nats_server: NatsServer, client: Any, memory: MemoryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("almenara_nats.core_subjects.QUEUE_BYTES", 200_000)
    async with running(nats_server, memory, subjects=["c"]) as run:
        async with asyncio.timeout(15):
            # A core message is seen only once the subscription stands.
            while not run.events:
                await client.publish("c", b'{"n": -1}')
                await asyncio.sleep(0.05)
        before = len(run.events)
        run.open.clear()
        sent = 800
        body = b'{"n": 1, "x": "' + b"a" * 20_000 + b'"}'
        for _ in range(sent):
            await client.publish("c", body)
        await client.flush(20)
        run.open.set()
        await until(lambda: run.status == "degraded", "the report of the loss")

        def accounted() -> int:
            lost = sum(signal.data["dropped"] for signal in run.events if signal.type == LOSS)
            return lost + sum(is_json(signal) for signal in run.events[before:])

        await until(lambda: accounted() == sent, "an account of every message, stored or lost")
        losses = [signal for signal in run.events if signal.type == LOSS]
        assert losses[0].severity is Severity.WARN
        lost = sum(signal.data["dropped"] for signal in losses)
        assert f"{lost:,} messages" in run.reason
        await client.publish("c", b'{"n": 2}')
        await until(lambda: 2 in run.numbers, "messages after the flood")
