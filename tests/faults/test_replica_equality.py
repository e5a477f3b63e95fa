"""Two replicas after load: equal in every query, and in sealed blocks byte for byte.

`ALMENARA_EQUALITY_SECONDS` is the length of the load, `ALMENARA_EQUALITY_RATE` how many signals per
second each replica publishes at most, and `ALMENARA_EQUALITY_QUERIES` the number of generated
queries. Events repeat earlier ones, come late, and in a load of minutes are deleted by age.
"""

import asyncio
import os
import random
import sqlite3
from collections.abc import Awaitable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from almenara.bus.compare import compare_databases
from almenara.bus.shared import SharedBus
from almenara.history import Filter, History
from almenara.signals import Resource, Sample, Severity, Signal, now
from almenara.units import MINUTE, SECOND
from support.bus import make_event
from support.nats_source import until
from support.replicas import replica, shared_log
from support.seeds import choose_seed
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

SECONDS = float(os.environ.get("ALMENARA_EQUALITY_SECONDS", "6"))
RATE = float(os.environ.get("ALMENARA_EQUALITY_RATE", "1000"))
QUERIES = int(os.environ.get("ALMENARA_EQUALITY_QUERIES", "100"))
BATCH = 50
LEAST = 3_000
"""Signals that each replica publishes at least, so that there is a block on a slow machine too."""
PATIENCE = 120.0
STORAGE: dict[str, Any] = {
    "hot_events": 1_000, "deduplication_window": 3_000, "retention_interval": 1.0,
    "retention_age": max(150.0, SECONDS / 2),
}  # fmt: skip
BLOCKS = (
    "SELECT last_sequence, first_sequence, events, first_time, last_time, severity, summary"
    " FROM blocks WHERE first_sequence >= ? ORDER BY 1",
    "SELECT block, content FROM block_contents WHERE block >= ? ORDER BY 1",
    "SELECT block, severity, content FROM severe_events WHERE block >= ? ORDER BY 1",
    "SELECT block, counts FROM block_word_counts WHERE block >= ? ORDER BY 1",
    "SELECT block, number FROM block_names WHERE block >= ? ORDER BY 1, 2",
)
"""What a block consists of."""


class Load:
    """Publishes through one replica until the end."""

    def __init__(self, name: str, bus: SharedBus, chance: random.Random) -> None:
        self.name, self.bus, self.chance = name, bus, chance
        self.published: list[Signal] = []

    async def run(self, end: float) -> None:
        clock, count = asyncio.get_running_loop().time, 0
        while clock() < end or count < LEAST:
            batch = [self.choose() for _ in range(self.chance.randrange(1, BATCH))]
            await self.bus.publish(batch, f"source/{self.name}")
            count += len(batch)
            self.published = (self.published + batch)[-5_000:]
            await asyncio.sleep(self.chance.uniform(0, BATCH / RATE))

    def choose(self) -> Signal:
        chance, kind = self.chance, self.chance.random()
        if kind < 0.1 and self.published:
            # A duplicate, of which some are older than what is recognized.
            return chance.choice(self.published)
        number = chance.randrange(1_000_000_000)
        if kind < 0.2:
            return Resource(
                kind="pod", namespace=f"n{number % 3}", name=f"p{number % 40}", time=now(),
                status=chance.choice(["ok", "failing"]), deleted=chance.random() < 0.2,
            )  # fmt: skip
        if kind < 0.3:
            return Sample(
                kind="pod", namespace="n0", name=f"p{number % 40}", metric="cpu", time=now(),
                value=chance.random(),
            )  # fmt: skip
        late = chance.randrange(MINUTE) if kind < 0.4 else 0
        return make_event(
            number, id=f"{self.name}-{number}", type=f"t{number % 7}", time=now() - late,
            subject=f"s.{number % 11}.{number % 5}", correlation=f"c{number % 50}",
            severity=chance.choice(list(Severity)),
            data={"word": f"w{number % 23}", "n": number, "text": "x" * (number % 200)},
        )  # fmt: skip


async def test_replicas_are_equal_in_queries_and_blocks(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    seed = choose_seed()
    await shared_log(nats_server).prepare()
    folders = [tmp_path / name for name in ("a", "b")]
    started = now()
    async with AsyncExitStack() as stack:
        buses = [
            await stack.enter_async_context(replica(nats_server, folder, **STORAGE))
            for folder in folders
        ]
        end = asyncio.get_running_loop().time() + SECONDS
        async with asyncio.TaskGroup() as group:
            for number, (folder, bus) in enumerate(zip(folders, buses, strict=True)):
                load = Load(folder.name, bus, random.Random(seed + number))
                group.create_task(load.run(end))
        last = max(bus.last_sequence for bus in buses)
        for bus in buses:
            await until(lambda bus=bus: bus.last_sequence == last, "the log", PATIENCE)
    # Nothing is deleted any more, so that the queries of both select the same events.
    storage = {**STORAGE, "retention_age": 10**8}
    async with AsyncExitStack() as stack:
        buses = [
            await stack.enter_async_context(replica(nats_server, folder, **storage))
            for folder in folders
        ]
        await until(
            lambda: all(count_unsealed(folder) < 3_000 for folder in folders), "blocks", PATIENCE
        )
        oldest = max([await find_oldest(bus) for bus in buses])
        chance = random.Random(seed)
        # Times of what was deleted are before those of what follows, except for late events.
        since = started if oldest[0] == 0 else oldest[1] + SECOND
        for number in range(QUERIES):
            query = Query(chance, oldest[0], since, last)
            answers = [await query.run(History(bus)) for bus in buses]
            assert answers[0] == answers[1], (number, query.text)
    assert compare_databases(*folders) == []
    blocks = [read_blocks(folder, oldest[0]) for folder in folders]
    assert blocks[0] == blocks[1]
    assert blocks[0][BLOCKS[1]]
    print(
        f"{SECONDS:g} s of load, {QUERIES} queries and {len(blocks[0][BLOCKS[1]])} blocks equal;"
        f" events from sequence {oldest[0]} to {last}"
    )


def count_unsealed(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "almenara.db")) as connection:
        (unsealed,) = connection.execute("SELECT events - sealed_events FROM position").fetchone()
        return int(unsealed)


async def find_oldest(bus: SharedBus) -> tuple[int, int]:
    """The sequence of the oldest event of a replica, and a time that no event before it has; zeros
    where nothing was deleted."""
    records = await History(bus).events(Filter(), after=0, limit=1)
    first = records[-1].sequence
    # Sequences are positions in the log: the first message has the lowest one.
    if first >> 12 <= 2:
        return 0, 0
    newest = await History(bus).events(Filter(), after=first, limit=50)
    return first, max(record.signal.time for record in newest)


class Query:
    """A query, generated from a seed."""

    def __init__(self, chance: random.Random, oldest: int, since: int, last: int) -> None:
        self.chosen = Filter(
            origin=chance.choice([None, "source/a", "source/b", "source/>"]),
            type=chance.choice([None, None, *(f"t{number}" for number in range(7))]),
            subject=chance.choice([None, None, "s.*.3", "s.7.>", "s.1.1"]),
            severity=chance.choice([None, None, Severity.WARN, Severity.ERROR]),
            text=chance.choice([None, None, "w3", "w1*", "xx*", '"s 4"']),
            correlation=chance.choice([None, None, None, f"c{chance.randrange(50)}"]),
            since=chance.choice([None, since + chance.randrange(int(SECONDS) * SECOND + 1)]),
        )
        self.kind = chance.choice(["page", "count", "buckets"])
        self.after = oldest + chance.randrange(max(last - oldest, 1))
        self.is_ascending, self.limit = chance.random() < 0.5, chance.randrange(1, 300)
        self.since, self.width = since, chance.choice([SECOND, 10 * SECOND, MINUTE])
        self.oldest, self.until = oldest, now() // MINUTE * MINUTE + MINUTE

    @property
    def text(self) -> str:
        return f"{self.kind} {self.chosen} after {self.after} {self.is_ascending} {self.limit}"

    def run(self, history: History) -> Awaitable[Any]:
        if self.kind == "page":
            bounds = {"after": self.after} if self.is_ascending else {
                "after": max(self.oldest - 1, 0), "before": self.after
            }  # fmt: skip
            return history.events(self.chosen, limit=self.limit, **bounds)
        if self.kind == "count":
            since = self.chosen.since or self.since
            chosen = msgspec.structs.replace(self.chosen, since=since)
            return history.count(chosen)
        return history.buckets(self.chosen, since=self.since, until=self.until, width=self.width)


def read_blocks(folder: Path, oldest: int) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(folder / "almenara.db")) as connection:
        return {each: connection.execute(each, (oldest,)).fetchall() for each in BLOCKS}
