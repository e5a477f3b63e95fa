"""Two replicas of one bus: a holder that is paused, a replica that is stopped at random moments,
and a bus that loses its newest messages.

`ALMENARA_REPLICA_PAUSE` is for how many seconds the holder is paused at least, and
`ALMENARA_REPLICA_STOPS` how often a replica is stopped.
"""

import asyncio
import json
import os
import random
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
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

PAUSE = float(os.environ.get("ALMENARA_REPLICA_PAUSE", "0"))
NAMES = ("a", "b")
STOPS = int(os.environ.get("ALMENARA_REPLICA_STOPS", "4"))
STOPPED = {0, 128 + signal.SIGTERM, -signal.SIGTERM}
"""Exit codes of a replica that was stopped: once it was ready, or while it started."""
BURST = 20
PATIENCE = 120.0


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


def count_ends(application: Almenara) -> int:
    """How often a replica has stopped the NATS source because another one runs it."""
    lines = application.log.splitlines()
    return sum("a lease is lost and its work stops" in line and '"nats"' in line for line in lines)


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


async def test_paused_holder_writes_nothing_twice(
    nats_server: NatsServer, replicas: list[Almenara]
) -> None:
    names = dict(zip(NAMES, replicas, strict=True))
    await until(lambda: holder(replicas[0]) in NAMES, "a holder of the source")
    async with loaded(nats_server) as load:
        paused = names[holder(replicas[0])]
        other = next(application for application in replicas if application is not paused)
        ends, clock = count_ends(paused), asyncio.get_running_loop().time
        assert paused.process is not None
        os.kill(paused.process.pid, signal.SIGSTOP)
        paused_at = clock()
        try:
            await until(lambda: holder(other) == other.folder.name, "a takeover")
            before = load.acknowledged
            await until(lambda: other.stored() >= before, "events after the takeover")
            await asyncio.sleep(paused_at + PAUSE - clock())
        finally:
            os.kill(paused.process.pid, signal.SIGCONT)
        await until(lambda: count_ends(paused) > ends, "the end of the source")
        await until(lambda: paused.stored() >= before, "events in the history of the other")
    await check_histories(nats_server, replicas, load.acknowledged)


class Stops:
    """Stops a replica at moments drawn from a seed, and starts it again."""

    def __init__(self, server: NatsServer, replicas: list[Almenara], chance: random.Random) -> None:
        self.server, self.chance = server, chance
        self.replica, self.other = replicas
        self.situations: dict[str, Callable[[], Awaitable[None]]] = {
            "while it starts": self.stop_at_start,
            "while it takes over": self.stop_at_takeover,
            "while NATS is frozen": self.stop_without_nats,
            "after its lease was lost": self.stop_after_pause,
            "after a short pause": self.stop_after_short_pause,
            "while NATS returns": self.stop_at_return,
        }

    async def _wait(self, shortest: float, longest: float) -> None:
        await asyncio.sleep(self.chance.uniform(shortest, longest))

    async def stop(self) -> None:
        """Stop the replica; it ends in time, and by itself."""
        assert await asyncio.to_thread(self.replica.stop) in STOPPED, self.replica.log[-4000:]

    async def stop_at_start(self) -> None:
        await self.stop()
        self.replica.launch()
        await self._wait(0, 4)
        await self.stop()

    async def stop_at_takeover(self) -> None:
        await asyncio.to_thread(self.other.stop)
        await self._wait(0, 2)
        await self.stop()
        await asyncio.to_thread(self.other.start)

    async def stop_without_nats(self) -> None:
        self.server.freeze()
        try:
            await self._wait(0, 8)
            await self.stop()
        finally:
            self.server.thaw()

    async def stop_at_return(self) -> None:
        self.server.freeze()
        await self._wait(3, 8)
        self.server.thaw()
        await self._wait(0, 1)
        await self.stop()

    async def stop_after_pause(self) -> None:
        await self._pause(7, 9)

    async def stop_after_short_pause(self) -> None:
        await self._pause(0, 4)

    async def _pause(self, shortest: float, longest: float) -> None:
        process = self.replica.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            await self._wait(shortest, longest)
        finally:
            process.send_signal(signal.SIGCONT)
        await self._wait(0, 1)
        await self.stop()


async def test_replica_stops_at_any_moment(
    nats_server: NatsServer, replicas: list[Almenara]
) -> None:
    chance = random.Random(choose_seed())
    stops = Stops(nats_server, replicas, chance)
    situations: list[str] = []
    while len(situations) < STOPS:
        situations += chance.sample([*stops.situations], len(stops.situations))
    async with loaded(nats_server) as load:
        for situation in situations[:STOPS]:
            print(situation, flush=True)
            await stops.situations[situation]()
            await asyncio.to_thread(stops.replica.start)
    assert "do not stop" not in stops.replica.log
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
