"""Nothing lost, nothing twice: processes are killed at random moments, under load."""

import asyncio
import json
import random
import uuid
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig

from support.application import Almenara
from support.seeds import choose_seed
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio

RATE = 2_000
BURST = 100
KILLS_OF_ALMENARA = 20
KILLS_OF_NATS = 5
PATIENCE = 240.0
"""Seconds; a start takes a second, and much longer where other tests run beside."""


class Publisher:
    """Publishes at a rate and repeats each event until the server acknowledged it, so that the
    stream may store an event twice: its id is what makes it one."""

    def __init__(self, server: NatsServer) -> None:
        self.server = server
        self.acknowledged: set[str] = set()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self.client = await nats.connect(
                self.server.url,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
                error_cb=self.ignore,
            )
            clock = asyncio.get_running_loop().time
            due = clock()
            while not self.stopping.is_set():
                for _ in range(BURST):
                    group.create_task(self.publish(str(uuid.uuid4())))
                due = max(due + BURST / RATE, clock() - 0.5)
                await asyncio.sleep(max(due - clock(), 0.005))
        await self.client.close()

    async def ignore(self, error: Exception) -> None:
        """Lost connections are the subject of the test."""

    async def publish(self, identity: str) -> None:
        body = {"event_type": "LOAD", "idempotency_key": identity, "story_id": "US-1"}
        while True:
            try:
                await self.client.jetstream().publish(
                    "load.x", json.dumps(body).encode(), timeout=2
                )
            except Exception:
                await asyncio.sleep(0.2)
            else:
                self.acknowledged.add(identity)
                return


async def run_kills(
    almenara: Almenara, server: NatsServer, of_almenara: int, of_nats: int
) -> set[str]:
    """Kill both at random moments while events are published; the ids that were acknowledged."""
    chance = random.Random(choose_seed())
    client = await nats.connect(server.url)
    await client.jetstream().add_stream(StreamConfig(name="LOAD", subjects=["load.>"]))
    await client.close()
    publisher = Publisher(server)
    publishing = asyncio.create_task(publisher.run())
    victims = ["almenara"] * of_almenara + ["nats"] * of_nats
    chance.shuffle(victims)
    for victim in victims:
        await asyncio.sleep(chance.uniform(0.2, 1.5))
        assert not publishing.done()
        if victim == "nats":
            server.kill()
            await asyncio.sleep(chance.uniform(0, 0.5))
            await asyncio.to_thread(server.start)
        else:
            almenara.kill()
            await asyncio.sleep(chance.uniform(0, 0.2))
            almenara.launch()
            # Some are killed again before they are ready.
            if chance.random() < 0.7:
                await asyncio.to_thread(wait_until, almenara.ready, "almenara", PATIENCE)
    await asyncio.to_thread(wait_until, almenara.ready, "almenara", PATIENCE)
    publisher.stopping.set()
    async with asyncio.timeout(60):
        await publishing
    assert len(publisher.acknowledged) > RATE * len(victims) // 5
    return publisher.acknowledged


async def test_kills_lose_and_double_no_event(tmp_path: Path, nats_server: NatsServer) -> None:
    by_id = {"PLUGINS__NATS__DEDUPLICATE_BY": "id"}
    with Almenara(tmp_path / "almenara", nats_server.url, **by_id) as almenara:
        expected = await run_kills(almenara, nats_server, KILLS_OF_ALMENARA, KILLS_OF_NATS)
        assert len(expected) > RATE * 5
        await asyncio.to_thread(almenara.wait_for_events, len(expected), PATIENCE)
        ids = [event["id"] for event in await asyncio.to_thread(almenara.events, "?type=LOAD")]
        assert len(ids) == len(set(ids))
        assert set(ids) == expected
        assert almenara.stored() == len(expected)


async def test_kills_lose_and_double_no_message_of_the_stream(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    """By default each message of the stream is one event, so the stream is the truth: it stores an
    event twice where the publisher had to repeat it."""
    with Almenara(tmp_path / "almenara", nats_server.url) as almenara:
        acknowledged = await run_kills(almenara, nats_server, 8, 3)
        client = await nats.connect(nats_server.url)
        stored = (await client.jetstream().stream_info("LOAD")).state.messages
        await client.close()
        await asyncio.to_thread(almenara.wait_for_events, stored, PATIENCE)
        events = await asyncio.to_thread(almenara.events, "?type=LOAD")
        assert len(events) == almenara.stored() == stored
        assert {event["id"] for event in events} == acknowledged
        repeats = sum("repeat_of" in event["attributes"] for event in events)
        print("stored", stored, "acknowledged", len(acknowledged), "marked as repeats", repeats)
        assert repeats <= stored - len(acknowledged)
