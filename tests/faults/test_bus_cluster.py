"""Three replicas on a cluster of three nats-servers, with kills, freezes and partitions.

`ALMENARA_CLUSTER_FAULTS` is the number of faults.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import nats
import pytest

from almenara.bus.compare import compare_databases
from almenara.bus.shared import SharedBus
from almenara.history import Filter, History
from support.bus import make_event
from support.faulty_link import FaultyLink
from support.nats_cluster import nats_cluster
from support.nats_source import until
from support.replicas import create_stream, replica
from support.seeds import choose_seed
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

FAULTS = int(os.environ.get("ALMENARA_CLUSTER_FAULTS", "4"))
BATCH = 20
PATIENCE = 90.0
TYPES = ("started", "finished", "failed")


class Publisher:
    """Publishes batches through one replica, one after the other."""

    def __init__(self, name: str, bus: SharedBus) -> None:
        self.name, self.bus = name, bus
        self.acknowledged: list[str] = []
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            ids = [f"{self.name}-{number + each}" for each in range(BATCH)]
            number += BATCH
            events = [
                make_event(each, id=identity, type=TYPES[each % 3], subject=f"s{each % 7}")
                for each, identity in enumerate(ids)
            ]
            await self.bus.publish(events, f"source/{self.name}")
            self.acknowledged += ids
            await asyncio.sleep(0.02)


async def find_leader(servers: list[NatsServer]) -> NatsServer:
    """The server that leads the stream of the bus."""
    client = await nats.connect([server.url for server in servers], reconnect_time_wait=0.2)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    info = await client.jetstream(timeout=2).stream_info("ALMENARA_BUS")
                except Exception:
                    await asyncio.sleep(0.2)
                    continue
                if info.cluster is not None and info.cluster.leader:
                    return servers[int(info.cluster.leader[1:])]
                await asyncio.sleep(0.2)
    finally:
        await client.close()


def faults(
    servers: list[NatsServer], link: FaultyLink, chance: random.Random
) -> dict[str, Callable[[], Awaitable[None]]]:
    async def kill(server: NatsServer) -> None:
        server.kill()
        await asyncio.sleep(chance.uniform(0, 2))
        await asyncio.to_thread(server.start)

    async def freeze() -> None:
        server = chance.choice(servers)
        server.freeze()
        await asyncio.sleep(chance.uniform(1, 6))
        server.thaw()

    async def kill_leader() -> None:
        await kill(await find_leader(servers))

    async def partition() -> None:
        await asyncio.to_thread(link.set, chance.choice(["silent", "refuse"]))
        await asyncio.sleep(chance.uniform(1, 6))
        await asyncio.to_thread(link.set, "pass")

    async def kill_any() -> None:
        await kill(chance.choice(servers))

    return {
        "kill the leader": kill_leader, "kill a server": kill_any, "freeze a server": freeze,
        "partition a replica": partition,
    }  # fmt: skip


async def test_replicas_store_the_same_over_faults_of_the_cluster(tmp_path: Path) -> None:
    seed = choose_seed()
    chance = random.Random(seed)
    folders = [tmp_path / name for name in ("a", "b", "c")]
    with ExitStack() as stack:
        servers = stack.enter_context(nats_cluster(tmp_path))
        link = stack.enter_context(FaultyLink(servers[0].port))
        await create_stream(servers, PATIENCE)
        urls = [server.url for server in servers]
        # The first replica knows one server only, behind the link.
        addresses = [[f"nats://127.0.0.1:{link.port}"], urls, urls[::-1]]
        publishers: list[Publisher] = []
        async with AsyncExitStack() as running, asyncio.TaskGroup() as group:
            for folder, own in zip(folders, addresses, strict=True):
                bus = await running.enter_async_context(replica(own, folder))
                publisher = Publisher(folder.name, bus)
                publishers.append(publisher)
                group.create_task(publisher.run())
            kinds = faults(servers, link, chance)
            for _ in range(FAULTS):
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                name = chance.choice(list(kinds))
                print(name)
                await kinds[name]()
            for publisher in publishers:
                before = len(publisher.acknowledged)
                await until(
                    lambda publisher=publisher, before=before: len(publisher.acknowledged) > before,
                    f"publishing through {publisher.name}",
                    PATIENCE,
                )
                publisher.stopping.set()
        acknowledged = {each for publisher in publishers for each in publisher.acknowledged}
        answers = []
        for folder in folders:
            # Whatever was published last reaches every replica.
            async with replica(urls, folder) as bus:
                records = [record async for batch in read_all(bus) for record in batch]
                assert sorted(record.signal.id for record in records) == sorted(acknowledged)
                answers.append(await query_history(bus, random.Random(seed)))
        assert answers[0] == answers[1] == answers[2]
    assert compare_databases(folders[0], folders[1]) == []
    assert compare_databases(folders[0], folders[2]) == []


async def read_all(bus: SharedBus):
    async for batch in bus.subscribe(0):
        yield batch
        if batch[-1].sequence == bus.last_sequence:
            return


async def query_history(bus: SharedBus, chance: random.Random) -> list[object]:
    """The answers to queries that are generated from a seed."""
    history, answers = History(bus), []
    last = bus.last_sequence
    for _ in range(50):
        chosen = Filter(
            origin=chance.choice([None, "source/a", "source/b", "source/>"]),
            type=chance.choice([None, *TYPES]),
            text=chance.choice([None, "s3", "n"]),
        )
        bound = {chance.choice(["after", "before"]): chance.randrange(last)}
        answers.append(await history.events(chosen, limit=chance.randrange(1, 200), **bound))
        answers.append(await history.count(chosen))
    return answers
