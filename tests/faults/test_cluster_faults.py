"""Three replicas behind a balancer, on three nats-servers, under load and random faults.

`ALMENARA_REPLICA_FAULTS` is the number of faults, `ALMENARA_REPLICA_RATE` the events per second,
and `ALMENARA_REPLICA_SILENCE` the most seconds that a source may be silent, for a machine that has
nothing else to do.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import nats
import pytest
from nats.js.api import StreamConfig
from playwright.async_api import Browser, Page, async_playwright

from almenara.bus.compare import compare_databases
from almenara.bus.shared import SharedBus
from almenara.signals import Event
from support.event_pages import VISIBLE, EventPage
from support.http_site import answering, serving
from support.replica_cluster import PATIENCE, Replica, ReplicaCluster, ignore, replica_cluster
from support.replicas import read_log, replica as local_replica
from support.seeds import choose_seed
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio

FAULTS = int(os.environ.get("ALMENARA_REPLICA_FAULTS", "4"))
RATE = float(os.environ.get("ALMENARA_REPLICA_RATE", "300"))
LONGEST_SILENCE = float(os.environ.get("ALMENARA_REPLICA_SILENCE", "inf"))
PAGES = 30
TICK = 0.1
RARE = 2.0
"""Events per second of the type RARE: few, so that a page misses none in an outage."""
LONGEST = 8.0
"""Seconds of the longest freeze or partition."""
SOURCES = ("nats", "http")
PRINTED = 10
"""Silences that are printed."""
RARE_ONLY = "?type=RARE"
QUERIES = ("", RARE_ONLY)
BROWSER_ROWS = "rows => rows.map(row => Number(row.dataset.sequence))"

Fault = Callable[[], Awaitable[None]]


class Load:
    """Messages of a stream and pushed events; each is sent until it is acknowledged."""

    def __init__(self, cluster: ReplicaCluster) -> None:
        self.cluster = cluster
        self.published = 0
        """Messages of the stream, numbered from 0, that are acknowledged."""
        self.pushed: set[str] = set()
        self.is_stopping = False
        self.tasks: list[asyncio.Task[None]] = []

    async def stop(self) -> None:
        """Return once everything that was sent is acknowledged."""
        self.is_stopping = True
        await asyncio.wait(self.tasks)

    async def publish(self) -> None:
        client = await nats.connect(
            self.cluster.urls, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=ignore
        )
        jetstream = client.jetstream(timeout=2)
        loop = asyncio.get_running_loop()
        while not self.is_stopping:
            due = loop.time() + TICK
            numbers = range(self.published, self.published + round(RATE * TICK))
            await asyncio.gather(*(self._publish(jetstream, number) for number in numbers))
            self.published = numbers.stop
            await asyncio.sleep(due - loop.time())
        await client.close()

    async def _publish(self, jetstream: Any, number: int) -> None:
        is_rare = number % round(RATE / RARE) == 0
        body = json.dumps({"event_type": "RARE" if is_rare else "LOAD", "n": number}).encode()
        headers = {"Nats-Msg-Id": str(number)}
        while True:
            try:
                await jetstream.publish("load.x", body, headers=headers)
            except Exception:
                await asyncio.sleep(TICK)
            else:
                return

    async def push(self, sender: int) -> None:
        """Push batches through the balancer."""
        headers = {
            "authorization": f"Bearer {self.cluster.token}",
            "content-type": "application/cloudevents-batch+json",
        }
        url = f"http://127.0.0.1:{self.cluster.port}/intake/cloudevents"
        number = 0
        # A new connection for each batch, so that it can go to any replica.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(headers=headers, timeout=LONGEST, limits=limits) as client:
            while not self.is_stopping:
                ids = [f"{sender}-{number}-{place}" for place in range(10)]
                event = {"specversion": "1.0", "source": "load", "type": "PUSHED"}
                body = json.dumps([{**event, "id": each} for each in ids])
                while not await self._push(client, url, body):
                    await asyncio.sleep(TICK)
                self.pushed.update(ids)
                number += 1
                await asyncio.sleep(TICK)

    async def _push(self, client: httpx.AsyncClient, url: str, body: str) -> bool:
        """Return whether a batch was acknowledged."""
        try:
            answer = await client.post(url, content=body)
        except httpx.TransportError:
            return False
        assert answer.status_code in (200, 503), answer.text
        return answer.status_code == 200


@asynccontextmanager
async def loaded(cluster: ReplicaCluster) -> AsyncIterator[Load]:
    """Publish and push beside the block, until `stop` at the latest."""
    client = await nats.connect(cluster.urls)
    config = StreamConfig(name="LOAD", subjects=["load.>"], num_replicas=3, duplicate_window=3600)
    await client.jetstream(timeout=10).add_stream(config)
    await client.close()
    cluster.streams.append("LOAD")
    cluster.consumers.append(("LOAD", "almenara"))
    load = Load(cluster)
    async with asyncio.TaskGroup() as group:
        calls = (load.publish(), load.push(0), load.push(1))
        load.tasks = [group.create_task(call) for call in calls]
        try:
            yield load
        finally:
            for task in load.tasks:
                task.cancel()


class Faults:
    """The faults of a run, drawn from a seed."""

    def __init__(self, cluster: ReplicaCluster, chance: random.Random) -> None:
        self.cluster, self.chance = cluster, chance
        self.caused: list[tuple[float, str]] = []
        """When each fault began, in seconds, and its kind."""
        self.kinds: dict[str, Fault] = {
            "kill a replica": self.kill_replica,
            "kill the replica that runs the source": self.kill_holder,
            "freeze a replica": self.freeze_replica,
            "freeze the replica that runs the source": self.freeze_holder,
            "delete the disk of a replica": self.lose_disk,
            "restart all replicas in turn": self.restart_in_turn,
            "set the clock of a replica wrong": self.set_clock_wrong,
            "cut a replica from the servers": self.cut_from_servers,
            "cut a replica from the balancer": self.cut_from_balancer,
            "kill a server": self.kill_server,
            "kill the server that leads the bus": self.kill_leader,
            "freeze a server": self.freeze_server,
            "freeze the server that leads the bus": self.freeze_leader,
        }

    async def cause(self) -> None:
        """Cause a fault."""
        kind = self.chance.choice(list(self.kinds))
        print(kind, flush=True)
        self.caused.append((time.time(), kind))
        await self.kinds[kind]()

    def _replica(self) -> Replica:
        return self.chance.choice(self.cluster.replicas)

    def _server(self) -> NatsServer:
        return self.chance.choice(self.cluster.servers)

    async def _wait(self) -> None:
        await asyncio.sleep(self.chance.uniform(1, LONGEST))

    async def _kill_replica(self, replica: Replica) -> None:
        await asyncio.to_thread(replica.application.kill)
        replica.application.launch()

    async def kill_replica(self) -> None:
        await self._kill_replica(self._replica())

    async def kill_holder(self) -> None:
        await self._kill_replica(await self.cluster.holder())

    async def _freeze_replica(self, replica: Replica) -> None:
        process = replica.application.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            await self._wait()
        finally:
            process.send_signal(signal.SIGCONT)

    async def freeze_replica(self) -> None:
        await self._freeze_replica(self._replica())

    async def freeze_holder(self) -> None:
        await self._freeze_replica(await self.cluster.holder())

    async def lose_disk(self) -> None:
        replica = self._replica()
        await asyncio.to_thread(replica.application.kill)
        await asyncio.to_thread(replica.lose_disk)
        replica.application.launch()

    async def restart_in_turn(self) -> None:
        for replica in self.cluster.replicas:
            assert await asyncio.to_thread(replica.application.stop) == 0
            replica.application.launch()
            await asyncio.to_thread(wait_until, replica.application.ready, replica.name, PATIENCE)

    async def set_clock_wrong(self) -> None:
        replica = self._replica()
        replica.clock.set(self.chance.choice([-60.0, 60.0]))
        await self._wait()
        if self.chance.random() < 0.5:
            replica.clock.set(0.0)

    async def cut_from_servers(self) -> None:
        replica = self._replica()
        await asyncio.to_thread(replica.cut_from_servers, self.chance.choice(["silent", "refuse"]))
        await self._wait()
        await asyncio.to_thread(replica.cut_from_servers, "pass")

    async def cut_from_balancer(self) -> None:
        link = self._replica().from_balancer
        await asyncio.to_thread(link.set, self.chance.choice(["silent", "refuse"]))
        await self._wait()
        await asyncio.to_thread(link.set, "pass")

    async def _kill_server(self, server: NatsServer) -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(self.chance.uniform(0, 3))
        await asyncio.to_thread(server.start)

    async def kill_server(self) -> None:
        await self._kill_server(self._server())

    async def kill_leader(self) -> None:
        await self._kill_server(await self.cluster.find_leader())

    async def _freeze_server(self, server: NatsServer) -> None:
        server.freeze()
        try:
            await self._wait()
        finally:
            server.thaw()

    async def freeze_server(self) -> None:
        await self._freeze_server(self._server())

    async def freeze_leader(self) -> None:
        await self._freeze_server(await self.cluster.find_leader())


@asynccontextmanager
async def viewed(cluster: ReplicaCluster) -> AsyncIterator[tuple[list[EventPage], list[Page]]]:
    """Open pages through the balancer, of all events and of rare ones; the last in a Chromium."""
    pages = [
        EventPage(cluster.port, **({} if number % 3 == 0 else {"type": "RARE"}))
        for number in range(PAGES)
    ]
    running = [asyncio.create_task(page.run()) for page in pages]
    path = os.environ.get("ALMENARA_CHROMIUM") or shutil.which("chromium")
    try:
        async with async_playwright() as playwright:
            browser: Browser = await playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox"]
            )
            real = []
            for query in QUERIES:
                page = await browser.new_page()
                await page.goto(f"http://127.0.0.1:{cluster.port}/events{query}")
                real.append(page)
            yield pages, real
            await browser.close()
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def check_pages(
    cluster: ReplicaCluster, pages: list[EventPage], browser_pages: list[Page]
) -> None:
    """The rows of every page are the newest of history, and pages have missed no rare event."""
    async with asyncio.timeout(PATIENCE):
        while different := await find_different(cluster, pages, browser_pages):
            print("different:", *different, flush=True)
            await asyncio.sleep(1)
    for page in pages:
        assert not page.repeated


async def find_different(
    cluster: ReplicaCluster, pages: list[EventPage], browser_pages: list[Page]
) -> list[str]:
    """The pages that do not have what history has."""
    # Whichever replica a page is on, all of them have the same.
    application = cluster.replicas[0].application
    history: dict[str, list[int]] = {}
    for query in QUERIES:
        events = await asyncio.to_thread(application.events, query)
        history[query] = [event["sequence"] for event in events]
    different = []
    for number, page in enumerate(pages):
        expected = history[RARE_ONLY if page.filters else ""]
        first = page.sequences[0] if page.sequences else 0
        if page.rows != expected[::-1][:VISIBLE] or (
            page.filters and page.sequences != [each for each in expected if each >= first]
        ):
            different.append(f"page {number}")
    for page, query in zip(browser_pages, QUERIES, strict=True):
        rows = await page.eval_on_selector_all("#event-rows .event", BROWSER_ROWS)
        if rows != history[query][::-1][:VISIBLE]:
            different.append(f"Chromium {query}")
    return different


async def check_histories(cluster: ReplicaCluster, load: Load) -> None:
    """Every replica has what was acknowledged once, and stores the same as the others."""
    folders = [replica.storage for replica in cluster.replicas]
    for folder in folders:
        # What the last one has published while it stopped reaches the others here.
        async with local_replica(cluster.urls, folder) as bus:
            numbers: list[int] = []
            ids: list[str] = []
            async for event in read_events(bus):
                if event.type == "PUSHED":
                    ids.append(event.id)
                elif event.type in ("LOAD", "RARE"):
                    numbers.append(json.loads(bytes(event.data))["n"])
            assert sorted(numbers) == list(range(load.published))
            assert sorted(ids) == sorted(load.pushed)
    for folder in folders[1:]:
        assert compare_databases(folders[0], folder) == []


async def read_events(bus: SharedBus) -> AsyncIterator[Event]:
    async for batch in bus.subscribe(0):
        for record in batch:
            if isinstance(record.signal, Event):
                yield record.signal
        if batch[-1].sequence == bus.last_sequence:
            return


class Silence(NamedTuple):
    """A time without a batch of a source, by when the bus stored them."""

    seconds: float
    source: str
    fault: str
    """The fault that began last before the silence ended."""


async def find_silences(
    cluster: ReplicaCluster, caused: Sequence[tuple[float, str]]
) -> list[Silence]:
    """The longest silence of each source and fault, the longest first; `caused` has the faults and
    when they began, in seconds."""
    stored: dict[str, list[int]] = {source: [] for source in SOURCES}
    tokens = dict.fromkeys(SOURCES, 0)
    for moment, batch in await read_log(*cluster.servers):
        # What is published under an older lease is ignored by all replicas.
        if batch.origin in stored and batch.signals and batch.token >= tokens[batch.origin]:
            tokens[batch.origin] = batch.token
            stored[batch.origin].append(moment)
    longest: dict[tuple[str, int], Silence] = {}
    for source, moments in stored.items():
        for earlier, later in pairwise(moments):
            number = bisect_left(caused, later / 1e6, key=itemgetter(0))
            kind = caused[number - 1][1] if number else "start"
            silence = Silence((later - earlier) / 1e6, source, kind)
            key = (source, number)
            longest[key] = max(longest.get(key, silence), silence)
    return sorted(longest.values(), reverse=True)


async def test_faults_lose_nothing_and_pages_follow(tmp_path: Path) -> None:
    chance = random.Random(choose_seed())
    async with serving(answering()) as site:
        http = {"checks": [{"name": "site", "url": site, "every": 1}]}
        config = {"plugins": {"http": http}, "storage": {"hot_events": 5_000}}
        async with replica_cluster(tmp_path, **config) as cluster:
            async with loaded(cluster) as load, viewed(cluster) as (pages, browser_pages):
                faults = Faults(cluster, chance)
                for _ in range(FAULTS):
                    await asyncio.sleep(chance.uniform(0.5, 2))
                    await faults.cause()
                    await cluster.wait_until_whole(SOURCES)
                await load.stop()
                total = load.published + len(load.pushed)
                for replica in cluster.replicas:
                    await asyncio.to_thread(
                        wait_until,
                        lambda replica=replica: replica.application.stored() >= total,
                        f"{total} events in {replica.name}", PATIENCE,
                    )  # fmt: skip
                await check_pages(cluster, pages, browser_pages)
            for replica in cluster.replicas:
                await asyncio.to_thread(replica.application.stop)
            silences = await find_silences(cluster, faults.caused)
            await check_histories(cluster, load)
    print(
        f"{FAULTS} faults, {load.published} messages and {len(load.pushed)} pushed events, 0 lost,"
        f" 0 doubled, {PAGES + len(browser_pages)} pages equal; longest silences:"
    )
    for silence in silences[:PRINTED]:
        print(f"{silence.seconds:.1f} s {silence.source}: {silence.fault}")
    assert silences[0].seconds <= LONGEST_SILENCE
