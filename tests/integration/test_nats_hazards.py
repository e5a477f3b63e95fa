"""The NATS source alone, against a real server, where a message could be lost or kept quiet."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import nats
import pytest
from nats.js.errors import NotFoundError

from almenara.signals import Event, Resource, Severity, Signal
from almenara.testing.source_run import MemoryContext
from almenara_nats.settings import NatsSettings
from almenara_nats.source import NatsSource
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

LOSS = "almenara.messages.dropped"


class Running:
    """A running source: what it published, what it reported."""

    def __init__(self, memory: MemoryContext) -> None:
        self.memory = memory
        self.signals: list[Signal] = []
        self.open = asyncio.Event()
        self.open.set()
        self.status, self.reason, self.lagging, self.marked = "starting", "", 0, 0

    async def publish(self, batch: Sequence[Signal]) -> None:
        await self.open.wait()
        self.memory.bus.accept(batch, "nats")
        self.signals += batch

    def degraded(self, reason: str) -> None:
        self.status, self.reason = "degraded", reason

    def recovered(self) -> None:
        self.status, self.reason = "running", ""

    def lag(self, messages: int) -> None:
        self.lagging = messages

    def rejected(self, count: int = 1) -> None:
        self.marked += count

    @property
    def events(self) -> list[Event]:
        return [it for it in self.signals if isinstance(it, Event)]

    @property
    def numbers(self) -> list[int]:
        """The `n` of every message that is JSON, in the order they were published."""
        return [json.loads(bytes(it.data))["n"] for it in self.events if is_json(it)]


def is_json(event: Event) -> bool:
    return isinstance(event.data, msgspec.Raw)


@asynccontextmanager
async def running(
    server: NatsServer, memory: MemoryContext, **settings: Any
) -> AsyncIterator[Running]:
    it = Running(memory)
    source = NatsSource(NatsSettings(servers=[server.url], **settings), memory)
    task = asyncio.create_task(source.run(it.publish, it))
    try:
        yield it
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], what: str, patience: float = 15.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about within {patience:g} s"
        await asyncio.sleep(0.02)


async def until_followed(jetstream: Any, stream: str) -> None:
    async with asyncio.timeout(15):
        while True:
            with suppress(NotFoundError):
                await jetstream.consumer_info(stream, "almenara")
                return
            await asyncio.sleep(0.02)


async def put(jetstream: Any, subject: str, numbers: range) -> None:
    for number in numbers:
        await jetstream.publish(subject, json.dumps({"n": number}).encode())


@pytest.fixture
def memory(tmp_path: Path) -> MemoryContext:
    return MemoryContext(tmp_path)


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Any]:
    connection = await nats.connect(nats_server.url)
    yield connection
    await connection.close()


async def test_what_came_while_away_is_read_although_it_starts_with_new_messages(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await put(jetstream, "s", range(3))
    async with running(nats_server, memory, start="new"):
        await until_followed(jetstream, "S")
    await put(jetstream, "s", range(3, 8))
    async with running(nats_server, memory, start="new") as it:
        await until(lambda: it.numbers == [3, 4, 5, 6, 7], "what came while away")


async def test_a_stream_made_before_our_eyes_is_read_from_its_first_message(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    async with running(nats_server, memory, start="new", rescan=1.0) as it:
        await until(lambda: any(isinstance(one, Resource) for one in it.signals), "the first look")
        await jetstream.add_stream(name="LATER", subjects=["later"])
        await put(jetstream, "later", range(5))
        await until(lambda: it.numbers == [0, 1, 2, 3, 4], "the stream's first messages")


async def test_a_stream_that_keeps_what_interests_somebody_loses_nothing_over_restarts(
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
            await until_followed(jetstream, "I")
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
    await put(jetstream, "s", range(1500))
    async with running(nats_server, memory) as blocked:
        blocked.open.clear()
        await until_followed(jetstream, "S")
        async with asyncio.timeout(10):
            while True:
                info = await jetstream.consumer_info("S", "almenara")
                if info.num_ack_pending >= 500:
                    break
                await asyncio.sleep(0.02)
        assert info.ack_floor.stream_seq == 0
    async with running(nats_server, memory) as it:
        await until(lambda: sorted(it.numbers) == list(range(1500)), "each message once")


async def test_a_message_longer_than_a_request_comes_alone_and_makes_no_hot_loop(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await put(jetstream, "s", range(3))
    await jetstream.publish("s", b'{"n": 3, "x": "' + b"a" * 8 * 1024**2 + b'"}', timeout=10)
    await put(jetstream, "s", range(4, 6))
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
    async with running(nats_server, memory, batch_bytes=1024) as it:
        await until(lambda: len(it.events) == 6, "the messages behind the long one")
        assert it.numbers == [0, 1, 2, 4, 5]
        assert it.marked == 1
        assert len(requests) < 30
    await watcher.close()


async def test_subjects_and_headers_that_are_no_text_do_not_end_the_reading(
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
    await put(jetstream, "s.a", range(5, 8))
    async with running(nats_server, memory) as it:
        await until(lambda: sorted(it.numbers) == list(range(8)), "every message")
    writer.close()


async def test_a_stream_that_cannot_be_read_is_told_with_the_reason(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="FULL", subjects=["full"], max_consumers=1)
    await jetstream.add_consumer("FULL", durable_name="other", ack_policy="explicit")
    async with running(nats_server, memory) as it:
        await until(lambda: it.status == "degraded", "the report")
        assert "FULL" in it.reason
        assert "maximum consumers limit" in it.reason
        await jetstream.delete_consumer("FULL", "other")
        await put(jetstream, "full", range(1))
        await until(lambda: it.status == "running" and it.numbers == [0], "its recovery")


async def test_a_work_queue_is_left_to_its_workers(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="WORK", subjects=["work"], retention="workqueue")
    await jetstream.add_stream(name="S", subjects=["s"])
    await put(jetstream, "work", range(3))
    await put(jetstream, "s", range(1))
    async with running(nats_server, memory) as it:
        await until(lambda: it.numbers == [0], "the other stream")
        assert (await jetstream.stream_info("WORK")).state.messages == 3
        assert await jetstream.consumers_info("WORK") == []


async def test_a_work_queue_that_is_named_is_emptied_and_nothing_of_it_is_lost_over_a_restart(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="WORK", subjects=["work"], retention="workqueue")
    await put(jetstream, "work", range(3))

    async def emptied() -> None:
        async with asyncio.timeout(15):
            while (await jetstream.stream_info("WORK")).state.messages:
                await asyncio.sleep(0.05)

    async with running(nats_server, memory, streams=["WORK"]) as it:
        await until(lambda: it.numbers == [0, 1, 2], "what was there")
        await emptied()
        it.open.clear()
        await put(jetstream, "work", range(3, 5))
        await asyncio.sleep(0.2)
        assert (await jetstream.stream_info("WORK")).state.messages == 2
    await put(jetstream, "work", range(5, 7))
    async with running(nats_server, memory, streams=["WORK"], start="new") as again:
        await until(lambda: again.numbers == [3, 4, 5, 6], "what the bus had not")
        await emptied()
        assert again.status == "running"
    assert not memory.bus.repeats


async def test_a_work_queue_of_other_workers_is_refused_with_what_to_do_instead(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="WORK", subjects=["work"], retention="workqueue")
    await jetstream.add_consumer("WORK", durable_name="worker", ack_policy="explicit")
    async with running(nats_server, memory, streams=["WORK"]) as it:
        await until(lambda: it.status == "degraded", "the report")
        assert "name its subjects in plugins.nats.subjects" in it.reason
    async with running(nats_server, memory, subjects=["work"]) as it:
        async with asyncio.timeout(15):
            while not it.events:
                await put(jetstream, "work", range(1))
                await asyncio.sleep(0.05)
        queued = (await jetstream.stream_info("WORK")).state.messages
        assert queued >= len(it.events)


async def test_the_lag_of_a_stream_goes_with_the_stream(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    await put(jetstream, "s", range(300))
    async with running(nats_server, memory, batch=10, rescan=0.2, observe=0.1) as it:
        await until(lambda: bool(it.numbers), "the first batch")
        it.open.clear()
        await until(lambda: it.lagging > 0, "the lag")
        await jetstream.delete_stream("S")
        it.open.set()
        await until(lambda: it.lagging == 0, "its end")
        assert it.status == "running"


async def test_a_stream_deleted_while_we_were_away_is_told_as_gone(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    key = ("nats.stream", "", "S")

    def told(it: Running, deleted: bool) -> bool:
        return any(
            isinstance(one, Resource) and one.key == key and one.deleted is deleted
            for one in it.signals
        )

    async with running(nats_server, memory) as it:
        await until(lambda: told(it, False), "the stream as a resource")
    await jetstream.delete_stream("S")
    async with running(nats_server, memory) as again:
        await until(lambda: told(again, True), "the stream as gone")


async def test_the_widest_wildcard_brings_none_of_our_own_talk_with_the_server(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    await client.jetstream().add_stream(name="S", subjects=["s"])
    ours = {"inbox_prefix": "_ALM", "rescan": 0.1, "observe": 0.1}
    async with running(nats_server, memory, subjects=[">"], **ours) as it:
        async with asyncio.timeout(15):
            while not it.events:
                await client.publish("c", b'{"n": 1}')
                await asyncio.sleep(0.05)
        # Every look asks for something, and the answer comes on a subject of the prefix.
        looks = len(it.signals)
        await until(lambda: len(it.signals) > looks + 4, "further looks")
        await client.publish("c", b'{"n": 2}')
        await until(lambda: 2 in it.numbers, "what came after them")
        assert {one.subject for one in it.events} == {"c"}


async def test_a_loss_on_core_subjects_is_shown_for_its_time_however_much_comes_after_it(
    nats_server: NatsServer, client: Any, memory: MemoryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("almenara_nats.source.CORE_WAITING", 10)
    monkeypatch.setattr("almenara_nats.source.DROPS_SHOWN", 1.0)
    async with running(nats_server, memory, subjects=["c"]) as it:

        async def come(over: Callable[[], bool]) -> None:
            async with asyncio.timeout(15):
                while not over():
                    await client.publish("c", b'{"n": 1}')
                    await asyncio.sleep(0.05)

        await come(lambda: bool(it.events))
        it.open.clear()
        for _ in range(30):
            await client.publish("c", b'{"n": 1}')
        await client.flush()
        it.open.set()
        await come(lambda: it.status == "degraded")
        await come(lambda: it.status == "running")


async def test_a_flood_on_core_subjects_is_bounded_and_each_loss_is_counted(
    nats_server: NatsServer, client: Any, memory: MemoryContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("almenara_nats.source.CORE_BYTES", 200_000)
    async with running(nats_server, memory, subjects=["c"]) as it:
        async with asyncio.timeout(15):
            # A core message is seen only once the subscription stands.
            while not it.events:
                await client.publish("c", b'{"n": -1}')
                await asyncio.sleep(0.05)
        before = len(it.events)
        it.open.clear()
        sent = 800
        body = b'{"n": 1, "x": "' + b"a" * 20_000 + b'"}'
        for _ in range(sent):
            await client.publish("c", body)
        await client.flush(20)
        it.open.set()
        await until(lambda: it.status == "degraded", "the report of the loss")

        def accounted() -> int:
            lost = sum(one.data["dropped"] for one in it.events if one.type == LOSS)
            return lost + sum(is_json(one) for one in it.events[before:])

        await until(lambda: accounted() == sent, "word of every message, kept or lost")
        losses = [one for one in it.events if one.type == LOSS]
        assert losses[0].severity is Severity.WARN
        lost = sum(one.data["dropped"] for one in losses)
        assert f"{lost:,} messages" in it.reason
        await client.publish("c", b'{"n": 2}')
        await until(lambda: 2 in it.numbers, "messages after the flood")
