"""Replicas of one bus under faults: what was acknowledged is in the history of each, once.

`ALMENARA_REPLICA_FAULTS` is the number of random faults.
"""

import asyncio
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig

from support.application import Almenara
from support.replicas import COMPARED, read_tables, replica, replicated_almenara
from support.seeds import choose_seed
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio

FAULTS = int(os.environ.get("ALMENARA_REPLICA_FAULTS", "4"))
FAULT_KINDS = ("kill", "lose disk", "freeze", "restart", "kill nats", "freeze nats")
NAMES = ("a", "b")
BURST = 20
PATIENCE = 120.0
LEASE_TTL = 6.0


@pytest.fixture
def replicas(tmp_path: Path, nats_server: NatsServer) -> Iterator[list[Almenara]]:
    """Two running replicas that read the stream LOAD."""
    applications = [replicated_almenara(nats_server, tmp_path / name, name) for name in NAMES]
    assert applications[0].command("streams", "apply").returncode == 0
    asyncio.run(create_load(nats_server))
    with ExitStack() as stack:
        for application in applications:
            stack.enter_context(application)
        yield applications


async def create_load(server: NatsServer) -> None:
    client = await nats.connect(server.url)
    await client.jetstream().add_stream(StreamConfig(name="LOAD", subjects=["load.>"]))
    await client.close()


class Load:
    """Publishes messages, each until the server acknowledged it; later ones repeat none."""

    def __init__(self, server: NatsServer) -> None:
        self.server, self.acknowledged = server, 0
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        client = await nats.connect(
            self.server.url,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            error_cb=self.ignore,
        )
        while not self.stopping.is_set():
            for number in range(self.acknowledged, self.acknowledged + BURST):
                await self.publish(client, number)
            self.acknowledged += BURST
            await asyncio.sleep(0.05)
        await client.close()

    async def publish(self, client: nats.NATS, number: int) -> None:
        body = json.dumps({"event_type": "LOAD", "n": number}).encode()
        headers = {"Nats-Msg-Id": str(number)}
        while True:
            try:
                await client.jetstream().publish("load.x", body, timeout=2, headers=headers)
            except Exception:
                await asyncio.sleep(0.1)
            else:
                return

    async def ignore(self, error: Exception) -> None:
        """Lost connections are the subject of the test."""


@asynccontextmanager
async def loaded(server: NatsServer):
    """Publish in the background; the load stops at the end of the block."""
    load = Load(server)
    running = asyncio.create_task(load.run())
    try:
        yield load
        load.stopping.set()
        await running
    finally:
        running.cancel()


def holder(application: Almenara) -> str:
    """The replica that runs the NATS source, as far as another one knows; empty for none."""
    try:
        sources = application.get("/api/sources")
    except OSError:
        return ""
    return next(str(source["replica"]) for source in sources if source["name"] == "nats")


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what, PATIENCE)


async def check_histories(server: NatsServer, replicas: list[Almenara], acknowledged: int) -> None:
    """Every replica has each message once, and stores the same as the others."""
    for application in replicas:
        await until(
            lambda application=application: application.stored() >= acknowledged,
            f"{acknowledged} events in {application.folder.name}",
        )
    for application in replicas:
        await asyncio.to_thread(application.stop)
    # What the last one has published while it stopped reaches the others here.
    for application in replicas:
        async with replica(server, application.folder / "var"):
            pass
    tables = [read_tables(application.folder / "var") for application in replicas]
    for table in tables:
        numbers = [
            json.loads(data)["n"]
            for _, _, subject, _, _, data in table[COMPARED[0]]
            if subject == "load.x"
        ]
        assert sorted(numbers) == list(range(acknowledged))
    for statement in COMPARED:
        assert tables[0][statement] == tables[1][statement], statement


async def test_nothing_is_lost_or_stored_twice(
    nats_server: NatsServer, replicas: list[Almenara]
) -> None:
    chance = random.Random(choose_seed())
    async with loaded(nats_server) as load:
        for _ in range(FAULTS):
            await asyncio.sleep(chance.uniform(0.5, 2.0))
            victim = chance.choice(replicas)
            fault = chance.choice(FAULT_KINDS)
            print(fault, victim.folder.name)
            if fault == "kill nats":
                nats_server.kill()
                await asyncio.to_thread(nats_server.start)
            elif fault == "freeze nats":
                nats_server.freeze()
                await asyncio.sleep(chance.uniform(1, 8))
                nats_server.thaw()
            elif fault == "freeze":
                assert victim.process is not None
                os.kill(victim.process.pid, signal.SIGSTOP)
                await asyncio.sleep(chance.uniform(1, 8))
                os.kill(victim.process.pid, signal.SIGCONT)
            elif fault in ("kill", "lose disk"):
                assert victim.process is not None
                victim.process.kill()
                victim.process.wait()
                if fault == "lose disk":
                    shutil.rmtree(victim.folder / "var", ignore_errors=True)
                await asyncio.to_thread(victim.launch)
            else:
                await asyncio.to_thread(victim.stop)
                await asyncio.to_thread(victim.launch)
            before = load.acknowledged
            await until(lambda before=before: load.acknowledged > before, "NATS")
    await check_histories(nats_server, replicas, load.acknowledged)


async def test_paused_holder_writes_nothing_twice(
    nats_server: NatsServer, replicas: list[Almenara]
) -> None:
    names = dict(zip(NAMES, replicas, strict=True))
    await until(lambda: holder(replicas[0]) in NAMES, "a holder of the source")
    async with loaded(nats_server) as load:
        paused = names[holder(replicas[0])]
        other = next(application for application in replicas if application is not paused)
        assert paused.process is not None
        os.kill(paused.process.pid, signal.SIGSTOP)
        try:
            await until(lambda: holder(other) == other.folder.name, "a takeover")
            before = load.acknowledged
            await until(lambda: other.stored() >= before, "events after the takeover")
        finally:
            os.kill(paused.process.pid, signal.SIGCONT)
        await until(lambda: paused.stored() >= before, "events in the history of the other")
    await check_histories(nats_server, replicas, load.acknowledged)


async def test_lost_tail_of_the_bus_is_read_again(
    nats_server: NatsServer, replicas: list[Almenara], tmp_path: Path
) -> None:
    stream = nats_server.folder / "data" / "jetstream" / "$G" / "streams" / "ALMENARA_BUS"
    async with loaded(nats_server) as load:
        await until(lambda: replicas[0].stored() > 200, "events")
    first = load.acknowledged
    for application in replicas:
        await until(lambda application=application: application.stored() >= first, "events")
        await asyncio.to_thread(application.stop)
    nats_server.stop()
    shutil.copytree(stream, tmp_path / "earlier")
    nats_server.start()
    for application in replicas:
        await asyncio.to_thread(application.start)
    client = await nats.connect(nats_server.url)
    for number in range(first, first + 100):
        await load.publish(client, number)
    await client.close()
    for application in replicas:
        await until(lambda application=application: application.stored() >= first + 100, "events")
        await asyncio.to_thread(application.stop)
    # As after a power failure: what was acknowledged last is not there any more.
    nats_server.stop()
    shutil.rmtree(stream)
    shutil.copytree(tmp_path / "earlier", stream)
    nats_server.start()
    for application in replicas:
        await asyncio.to_thread(application.start)
    await check_histories(nats_server, replicas, first + 100)
