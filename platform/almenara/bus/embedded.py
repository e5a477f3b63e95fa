"""The log on one machine: SQLite, one writer thread, and a tail in memory."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import structlog

from almenara.bus import BusClosed, BusCounters, Record, rows
from almenara.bus.reserve import Reserve
from almenara.bus.retention import Retention
from almenara.bus.schema import connect, migrate
from almenara.settings import StorageSettings
from almenara.signals import Event, Resource, Sample, Signal, now

log = structlog.get_logger()

DATABASE: Final = "almenara.db"
REPLAY_BATCH: Final = 1_000
TAIL_SIGNALS: Final = 2_000
TAIL_BYTES: Final = 4 * 1024**2
NAMES_REMEMBERED: Final = 10_000
KEYS_PER_QUERY: Final = 500
CLOCK_INTERVAL: Final = 1_000_000
"""Microseconds between two rows that tell retention when a sequence was given."""


class Submission(msgspec.Struct):
    """A batch that waits for the writer."""

    signals: Sequence[Signal]
    origin: str
    done: asyncio.Future[None]
    records: list[Record] = []
    duplicates: int = 0
    refused: Exception | None = None


class StateWrite(msgspec.Struct):
    """A plugin's value that waits for the writer."""

    plugin: str
    key: str
    value: bytes
    done: asyncio.Future[None]


class EmbeddedBus:
    """The bus in a folder. Use as an async context manager; it owns its writer thread."""

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings
        self.counters = BusCounters()
        self.path = settings.dir / DATABASE
        self._last_sequence = 0
        self._full: str | None = None
        self._names: dict[str, int] = {}
        self._last_clock = 0
        self._seen_generation = 0
        self._seen_count = 0
        self._queue: queue.SimpleQueue[Submission | StateWrite | None] = queue.SimpleQueue()
        self._tail: deque[list[Record]] = deque()
        self._tail_floor = 0
        self._tail_signals = 0
        self._tail_bytes = 0
        self._advanced = asyncio.Event()
        self._room = asyncio.Event()
        self._stop = threading.Event()
        self._closed = False
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="replay")

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._write, args=(opened,), name="bus-writer")
        self._thread.start()
        try:
            await opened
        except BaseException:
            await asyncio.to_thread(self._thread.join)
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        self._closed = True
        self._stop.set()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._readers.shutdown()
        self._advanced.set()
        self._room.set()

    @property
    def last_sequence(self) -> int:
        return self._last_sequence

    @property
    def full(self) -> str | None:
        return self._full

    async def publish(self, batch: Sequence[Signal], origin: str) -> None:
        if not batch:
            return
        while self.counters.waiting >= self.settings.queue_signals and not self._closed:
            self._room.clear()
            await self._room.wait()
        submission = Submission(batch, origin, asyncio.get_running_loop().create_future())
        self._submit(submission)
        self.counters.waiting += len(batch)
        await submission.done

    async def save(self, plugin: str, key: str, value: bytes) -> None:
        """Store a plugin's value durably, after every batch published before."""
        write = StateWrite(plugin, key, value, asyncio.get_running_loop().create_future())
        self._submit(write)
        await write.done

    async def load(self, plugin: str, key: str) -> bytes | None:
        """The value that a plugin stored, or None."""
        found = await self.read(
            lambda connection: connection.execute(
                "SELECT value FROM plugin_state WHERE plugin = ? AND key = ?", (plugin, key)
            ).fetchone()
        )
        return found[0] if found else None

    async def subscribe(self, after: int) -> AsyncIterator[list[Record]]:
        cursor = after
        while True:
            advanced = self._advanced
            end = self._last_sequence
            if cursor >= end:
                if self._closed:
                    return
                await advanced.wait()
                continue
            batch = self._from_tail(cursor)
            if batch is None:
                batch = await self.read(
                    lambda connection, cursor=cursor: rows.read_after(  # type: ignore[misc]
                        connection, cursor, REPLAY_BATCH
                    )
                )
            if batch:
                cursor = batch[-1].sequence
                yield batch
            else:
                # Retention removed everything between the cursor and `end`.
                cursor = end

    async def read[T](self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run `query` with a reading connection, off the event loop."""
        raise NotImplementedError
