"""Readers of history: shared fairly, bounded, and interrupted when no one waits any more."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from almenara.bus import BusClosedError
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.readers import QueryTooSlowError, Readers, TooManyQueriesError
from almenara.config import StorageSettings
from almenara.errors import LimitExceeded
from support.bus import make_event

pytestmark = pytest.mark.anyio

ENDLESS = (
    "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number)"
    " SELECT count(*) FROM number"
)


@pytest.fixture
async def database(tmp_path: Path) -> Path:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        await bus.publish([make_event(1)], "x")
        return bus.path


@pytest.fixture
async def readers(database: Path) -> "AsyncReaders":
    return AsyncReaders(database)


class AsyncReaders:
    """Makes readers and closes them at the end of a `with`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, count: int = 3, timeout: float = 15, max_waiting: int = 100) -> "Opened":
        return Opened(Readers(self.path, count, timeout, "test", max_waiting))


class Opened:
    def __init__(self, readers: Readers) -> None:
        self.readers = readers

    async def __aenter__(self) -> Readers:
        return self.readers

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.readers.close)


def hold(gate: threading.Event) -> Callable[[sqlite3.Connection], None]:
    """A query that runs until a gate is opened, or until it is interrupted."""

    def query(connection: sqlite3.Connection) -> None:
        while not gate.is_set():
            connection.execute(
                "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number"
                " WHERE n < 50000) SELECT count(*) FROM number"
            ).fetchone()

    return query


def quick(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT events FROM position").fetchone()[0])


async def test_run_answers_others_while_one_caller_has_many_slow_queries(
    readers: AsyncReaders,
) -> None:
    gate = threading.Event()
    async with readers() as opened:
        slow = [asyncio.create_task(opened.run(hold(gate), "greedy")) for _ in range(60)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            for caller in ("other", "third", ""):
                assert await opened.run(quick, caller) == 1
        assert not any(each.done() for each in slow)
        gate.set()
        async with asyncio.timeout(20):
            await asyncio.gather(*slow)


async def test_run_gives_each_caller_one_turn_before_any_has_the_next(
    readers: AsyncReaders,
) -> None:
    gate, order = threading.Event(), list[str]()

    def note(caller: str) -> Callable[[sqlite3.Connection], None]:
        return lambda connection: order.append(caller)

    async with readers(count=1) as opened:
        tasks = [asyncio.create_task(opened.run(hold(gate), "first"))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(opened.run(note(each), each)) for each in "aaaabbc"]
        await asyncio.sleep(0.05)
        gate.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)
    assert "".join(order) == "abcabaa"


async def test_run_refuses_more_waiting_queries_of_one_caller_than_allowed(
    readers: AsyncReaders,
) -> None:
    gate = threading.Event()
    async with readers(max_waiting=5) as opened:
        # Two of three threads are for one caller at most, so five more wait.
        tasks = [asyncio.create_task(opened.run(hold(gate), "greedy")) for _ in range(2)]
        await asyncio.sleep(0.1)
        tasks += [asyncio.create_task(opened.run(quick, "greedy")) for _ in range(5)]
        await asyncio.sleep(0.05)
        with pytest.raises(TooManyQueriesError, match="5 queries of yours are waiting"):
            await opened.run(quick, "greedy")
        assert issubclass(TooManyQueriesError, LimitExceeded)
        assert await opened.run(quick, "other") == 1
        gate.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)


async def test_run_counts_the_deadline_from_the_arrival(readers: AsyncReaders) -> None:
    gate = threading.Event()
    async with readers(count=1, timeout=1) as opened:
        start = time.monotonic()
        tasks = [asyncio.create_task(opened.run(hold(gate), "x")) for _ in range(8)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, QueryTooSlowError) for each in results)
        assert time.monotonic() - start < 6, "eight deadlines one after the other take 8 s"


async def test_run_interrupts_the_query_of_a_cancelled_caller(readers: AsyncReaders) -> None:
    async with readers(count=1, timeout=60) as opened:
        endless = [
            asyncio.create_task(
                opened.run(lambda each: each.execute(ENDLESS).fetchone(), "cancelled")
            )
            for _ in range(20)
        ]
        await asyncio.sleep(0.1)
        for task in endless:
            task.cancel()
        async with asyncio.timeout(5):
            assert await opened.run(quick, "other") == 1


async def test_close_answers_what_is_still_waiting(database: Path) -> None:
    gate = threading.Event()
    opened = Readers(database, 2, 15, "test")
    tasks = [asyncio.create_task(opened.run(hold(gate), "x")) for _ in range(6)]
    await asyncio.sleep(0.1)
    threading.Timer(0.2, gate.set).start()
    await asyncio.to_thread(opened.close)
    async with asyncio.timeout(5):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(each is None or isinstance(each, BusClosedError) for each in results)
    with pytest.raises(BusClosedError):
        await opened.run(quick)
