"""Leases of two replicas on a real nats-server: who runs what, and when it moves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from almenara.bus.shared import SharedBus
from almenara.leases import Publisher
from almenara.leases.shared import SharedLeases
from support.bus import make_event
from support.nats_source import until
from support.replicas import replica, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

SOURCES = ("one", "two", "three", "four", "five", "six")
PATIENCE = 60.0


class Runner:
    """Runs sources that publish once, and stay."""

    def __init__(self, name: str, bus: SharedBus) -> None:
        self.leases = SharedLeases(bus, name)
        self.running: set[str] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.leases.run_keeper())
            for source in SOURCES:
                group.create_task(self.run_source(source))

    async def run_source(self, source: str) -> None:
        async def work(publisher: Publisher) -> None:
            self.running.add(source)
            try:
                await publisher.publish([make_event(1, id=f"{self.leases.replica}")], source)
                await asyncio.Event().wait()
            finally:
                self.running.discard(source)

        await self.leases.run(source, work, lambda: None)


@asynccontextmanager
async def running(server: NatsServer, folder: Path) -> AsyncIterator[Runner]:
    async with replica(server, folder) as bus:
        runner = Runner(folder.name, bus)
        task = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_sources_are_spread_and_move_once_a_replica_ends(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    everything = set(SOURCES)
    async with running(nats_server, tmp_path / "a") as first:
        await until(lambda: first.running == everything, "all sources on one", PATIENCE)
        async with running(nats_server, tmp_path / "b") as second:
            await until(
                lambda: bool(second.running) and first.running | second.running == everything,
                "sources on both", PATIENCE,
            )  # fmt: skip
            source = min(second.running)
            await until(lambda: first.leases.holder(source) == "b", "the holder", PATIENCE)
        await until(lambda: first.running == everything, "all sources on one again", PATIENCE)


async def test_leases_are_acquired_again_after_an_interruption(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    async with running(nats_server, tmp_path / "a") as runner:
        await until(lambda: runner.running == set(SOURCES), "all sources", PATIENCE)
        nats_server.freeze()
        await until(lambda: not runner.running, "the end of the leases", PATIENCE)
        nats_server.thaw()
        await until(lambda: runner.running == set(SOURCES), "all sources again", PATIENCE)
