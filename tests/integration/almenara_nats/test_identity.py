"""Each stored message is one event, whatever ids publishers use and whatever the server forgets."""

import asyncio
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import StreamSource
from nats.js.errors import NotFoundError

from almenara.testing.source_run import MemoryContext
from support.nats_source import publish_numbers, running, until
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

ROLLED_BACK = "nats.stream.rolled_back"


def copies(run: Any) -> list[dict[str, Any]]:
    return [json.loads(bytes(event.data)) for event in run.events]


async def until_acknowledged(jetstream: Any, stream: str) -> None:
    async with asyncio.timeout(15):
        last = (await jetstream.stream_info(stream)).state.last_seq
        while True:
            with contextlib.suppress(NotFoundError):
                consumer = await jetstream.consumer_info(stream, "almenara")
                if consumer.ack_floor.stream_seq == last:
                    return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        ({}, {"Nats-Msg-Id": "m-1"}),
        ({"idempotency_key": "k-1"}, None),
        ({"specversion": "1.0", "id": "c-1", "source": "/s", "type": "t"}, None),
        ({}, {"ce-specversion": "1.0", "ce-id": "c-1", "ce-source": "/s", "ce-type": "t"}),
    ],
)
async def test_messages_with_one_id_are_events_of_their_own_and_marked(
    nats_server: NatsServer,
    client: Any,
    memory: MemoryContext,
    payload: dict[str, Any],
    headers: dict[str, str] | None,
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"], duplicate_window=0.1)
    for number in range(3):
        sent = await jetstream.publish(
            "s", json.dumps({**payload, "data": {"n": number}}).encode(), headers=headers
        )
        # Outside the stream's own window.
        while sent.duplicate:
            sent = await jetstream.publish(
                "s", json.dumps({**payload, "data": {"n": number}}).encode(), headers=headers
            )
    assert (await jetstream.stream_info("S")).state.messages == 3
    async with running(nats_server, memory) as run:
        await until(lambda: len(run.events) == 3, "the messages")
        first, *repeats = run.events
        assert len({event.id for event in run.events}) == 1
        assert "repeat_of" not in first.attributes
        place = first.deduplication_key.removeprefix("nats/")
        assert [event.attributes["repeat_of"] for event in repeats] == [place, place]
    assert len(memory.bus.signals) >= 3
    assert not memory.bus.repeats


async def test_messages_with_one_id_are_one_event_where_the_settings_say_so(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    for number in range(3):
        await jetstream.publish("s", json.dumps({"idempotency_key": "k", "n": number}).encode())
    async with running(nats_server, memory, deduplicate_by="id"):
        await until(lambda: len(memory.bus.repeats) == 2, "the repeats")


async def test_null_in_cloudevents_is_absent(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    event = {"specversion": "1.0", "source": "/s", "type": "t", "id": None, "correlationid": None}
    for number in range(3):
        await jetstream.publish("s", json.dumps({**event, "data": number}).encode())
    async with running(nats_server, memory) as run:
        await until(lambda: len(run.events) == 3, "the messages")
        assert len({each.id for each in run.events}) == 3
        assert {each.correlation for each in run.events} == {None}
        assert {each.problem for each in run.events} == {None}
        assert {each.type for each in run.events} == {"t"}


@pytest.mark.parametrize("more", [3, 12])
async def test_messages_after_a_restored_copy_are_read(
    tmp_path: Path, memory: MemoryContext, more: int
) -> None:
    """Below the position the loss is seen at once, beyond it only by the time of the message."""
    server = NatsServer(tmp_path / "nats")
    with server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="S", subjects=["s"])
        await publish_numbers(client.jetstream(), "s", range(10))
        await client.close()
    shutil.copytree(server.folder / "data", tmp_path / "copy")
    with server:
        client = await nats.connect(server.url)
        await publish_numbers(client.jetstream(), "s", range(10, 18))
        async with running(server, memory) as run:
            await until(lambda: run.numbers == list(range(18)), "all messages")
        await client.close()
    shutil.rmtree(server.folder / "data")
    shutil.copytree(tmp_path / "copy", server.folder / "data")
    with server:
        client = await nats.connect(server.url)
        await publish_numbers(client.jetstream(), "s", range(100, 100 + more))
        async with running(server, memory) as again:
            await until(lambda: again.numbers[-1:] == [99 + more], "the new messages")
            assert again.numbers == list(range(100, 100 + more))
            reports = [event for event in again.events if event.type == ROLLED_BACK]
            assert len(reports) == 1
        await client.close()
        # The new position holds.
        async with running(server, memory) as last:
            await until(lambda: last.status_of("nats.consumer", "almenara") == "ok", "a round")
            assert last.events == []


async def test_mirrored_message_is_one_event_of_its_origin(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="ORIGIN", subjects=["s"])
    await jetstream.add_stream(name="COPY", mirror=StreamSource(name="ORIGIN"))
    event = {"specversion": "1.0", "source": "/s", "type": "t", "id": "c-1", "data": 1}
    await jetstream.publish("s", json.dumps(event).encode())
    async with running(nats_server, memory, rescan=0.1, observe=0.1) as run:
        await until(lambda: run.status_of("nats.stream", "COPY") == "ok", "the mirror")
        await until(lambda: len(run.samples("rate")) > 8, "some rounds")
        assert [each.origin for each in run.events] == ["nats/ORIGIN"]
    async with running(nats_server, MemoryContext(memory.data_dir), streams=["COPY"]) as run:
        await until(lambda: [each.origin for each in run.events] == ["nats/COPY"], "the mirror")


async def test_copied_message_is_one_event_of_its_origin(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="ONE", subjects=["one.>"])
    await jetstream.add_stream(name="TWO", subjects=["two.>"])
    copied = [StreamSource(name="ONE"), StreamSource(name="TWO", filter_subject="two.a")]
    await jetstream.add_stream(name="ALL", subjects=["own"], sources=copied)
    for subject in ("one.a", "two.a", "two.b", "own"):
        await jetstream.publish(subject, b"{}")
    while (await jetstream.stream_info("ALL")).state.messages < 3:
        await asyncio.sleep(0.01)
    async with running(nats_server, memory, rescan=0.1) as run:
        await until(lambda: len(run.events) == 4, "the messages")
        await jetstream.publish("one.b", b"{}")
        await jetstream.publish("own", b"{}")
        await until(lambda: len(run.events) == 6, "what is published meanwhile")
        await until_acknowledged(jetstream, "ALL")
        origins = sorted(event.origin for event in run.events)
    assert origins == ["nats/ALL"] * 2 + ["nats/ONE"] * 2 + ["nats/TWO"] * 2
    async with running(nats_server, MemoryContext(memory.data_dir), streams=["ALL"]) as run:
        await until(lambda: len(run.events) == 5, "all messages of the stream that copies")
        assert {event.origin for event in run.events} == {"nats/ALL"}


async def test_copy_of_what_its_origin_deleted_is_read(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="ONE", subjects=["one"], max_msgs=1)
    await jetstream.add_stream(name="ALL", sources=[StreamSource(name="ONE")])
    for number in range(1, 4):
        await jetstream.publish("one", json.dumps({"n": number}).encode())
        while (await jetstream.stream_info("ALL")).state.messages < number:
            await asyncio.sleep(0.01)
    async with running(nats_server, memory, rescan=0.1) as run:
        await until(lambda: len(run.events) == 3, "the messages")
        await until_acknowledged(jetstream, "ALL")
        stored = [(event.origin, json.loads(bytes(event.data))["n"]) for event in run.events]
    assert sorted(stored) == [("nats/ALL", 1), ("nats/ALL", 2), ("nats/ONE", 3)]
    # The origin has other messages with the same sequences now.
    await jetstream.delete_stream("ONE")
    await jetstream.add_stream(name="ONE", subjects=["one"])
    await jetstream.publish("one", b'{"n": 4}')
    async with running(nats_server, MemoryContext(memory.data_dir), rescan=0.1) as run:
        await until(lambda: len(run.events) == 4, "the messages of before and the new one")
        stored = [(event.origin, json.loads(bytes(event.data))["n"]) for event in run.events]
    assert sorted(stored)[-1] == ("nats/ONE", 4)


async def test_copy_is_not_read_again_once_its_origin_has_deleted_the_message(
    nats_server: NatsServer, client: Any, memory: MemoryContext
) -> None:
    jetstream = client.jetstream()
    await jetstream.add_stream(name="ONE", subjects=["one"])
    await jetstream.add_stream(name="ALL", subjects=["own"], sources=[StreamSource(name="ONE")])
    await publish_numbers(jetstream, "one", range(3))
    async with running(nats_server, memory, rescan=0.1) as run:
        await until(lambda: len(run.events) == 3, "the messages")
        await until_acknowledged(jetstream, "ONE")
    while (await jetstream.stream_info("ALL")).state.messages < 3:
        await asyncio.sleep(0.01)
    await jetstream.delete_consumer("ALL", "almenara")
    await jetstream.purge_stream("ONE")
    # The stream that copies has not been read so far, as after a long backlog.
    position = await memory.load("position/ONE")
    assert position is not None
    later = MemoryContext(memory.data_dir)
    await later.save("position/ONE", position)
    await jetstream.publish("own", b"{}")
    async with running(nats_server, later, rescan=0.1) as run:
        await until(lambda: len(run.events) == 1, "the message of its own")
        await until_acknowledged(jetstream, "ALL")
        assert [event.origin for event in run.events] == ["nats/ALL"]
