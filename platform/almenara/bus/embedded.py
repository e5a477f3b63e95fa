"""The log on one machine: SQLite, one writer thread, and a tail in memory."""

import asyncio
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Self, TypeVar

import structlog

from almenara.bus import BusClosedError, BusCounters, Record, codec, retention
from almenara.bus.disk_reserve import Reserve
from almenara.bus.readers import Readers
from almenara.bus.writer import Redact, StateWrite, Submission, Writer, describe_write_error
from almenara.config import StorageSettings
from almenara.signals import Event, Signal, now

log = structlog.get_logger(__name__)

DATABASE: Final = "almenara.db"
RESERVE: Final = "almenara.reserve"
REPLAY_BATCH: Final = 1_000
TAIL_SIGNALS: Final = 2_000
TAIL_BYTES: Final = 4 * 1024**2
SIGNAL_OVERHEAD: Final = 500
"""Bytes a signal in the tail costs besides its payload, about."""

T = TypeVar("T")
Finish = Callable[[Exception | None], None]


class EmbeddedBus:
    """The bus in a folder. Use as an async context manager; it owns its writer thread."""

    def __init__(self, settings: StorageSettings, redact: Redact = lambda signal: signal) -> None:
        self.settings, self._redact = settings, redact
        self.counters = BusCounters()
        self.path = settings.dir / DATABASE
        self._reserve = Reserve(settings.dir / RESERVE, settings.disk_reserve)
        self._names = codec.Names()
        self._last_sequence = 0
        self._write_problem: str | None = None
        self._queue: queue.SimpleQueue[Submission | StateWrite | None] = queue.SimpleQueue()
        self._tail: deque[Record] = deque()
        self._tail_floor = 0
        self._tail_bytes = 0
        self._advanced = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = threading.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[int] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, args=(opened,), name="bus-writer")
        self._thread.start()
        try:
            self._last_sequence = self._tail_floor = await opened
        except BaseException:
            self._stopping.set()
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
            raise
        settings = self.settings
        self._queries = Readers(
            self.path, settings.max_concurrent_queries, settings.query_timeout, "history"
        )
        # Replays have a thread of their own, so that slow queries do not hold up what is live.
        self._replays = Readers(self.path, 1, settings.query_timeout, "replay")
        return self

    async def __aexit__(self, *error: object) -> None:
        self._closed = True
        self._stopping.set()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._advanced.set()
        self._room.set()
        await asyncio.to_thread(self._queries.close)
        await asyncio.to_thread(self._replays.close)

    @property
    def last_sequence(self) -> int:
        return self._last_sequence

    @property
    def write_problem(self) -> str | None:
        return self._write_problem

    async def publish(self, batch: Sequence[Signal], origin: str) -> None:
        if not batch:
            return
        while self.counters.waiting >= self.settings.max_queued_signals and not self._closed:
            self._room.clear()
            await self._room.wait()
        self.counters.waiting += len(batch)
        await self._submit(lambda finish: Submission(batch, origin, finish))

    async def save(self, plugin: str, key: str, value: bytes) -> None:
        """Store a plugin's value durably, after every batch published before."""
        await self._submit(lambda finish: StateWrite(plugin, key, value, finish))

    async def _submit(self, make: Callable[[Finish], Submission | StateWrite]) -> None:
        if self._closed:
            raise BusClosedError("the bus is closed")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish(refused: Exception | None) -> None:
            if done.done():
                return
            if refused is None:
                done.set_result(None)
            else:
                done.set_exception(refused)

        self._queue.put(make(finish))
        await done

    async def load(self, plugin: str, key: str) -> bytes | None:
        """The value that a plugin stored, or None."""

        def query(connection: sqlite3.Connection) -> bytes | None:
            found = connection.execute(
                "SELECT value FROM plugin_state WHERE plugin = ? AND key = ?", (plugin, key)
            ).fetchone()
            return found[0] if found else None

        return await self._replays.run(query)

    async def known_resources(self, source: str, kind: str = "") -> list[tuple[str, str, str]]:
        """The resources that a source has published and not deleted; of one kind, or of all."""

        def query(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
            return connection.execute(
                "SELECT kind, namespace, name FROM known_resources"
                " WHERE source = ? AND ? IN ('', kind)",
                (source, kind),
            ).fetchall()

        return await self._replays.run(query)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query of history with a reading connection, off the event loop."""
        return await self._queries.run(query)

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
                batch = await self._replays.run(
                    lambda connection, cursor=cursor: codec.read_after(  # type: ignore[misc]
                        connection, cursor, REPLAY_BATCH, self._names
                    )
                )
            if batch:
                cursor = batch[-1].sequence
                yield batch
            else:
                # Retention removed everything between the cursor and `end`.
                cursor = end

    def _from_tail(self, cursor: int) -> list[Record] | None:
        if cursor < self._tail_floor:
            return None
        wanted: list[Record] = []
        for record in reversed(self._tail):
            if record.sequence <= cursor:
                break
            wanted.append(record)
        wanted.reverse()
        return wanted

    def _announce(
        self, group: Sequence[Submission | StateWrite], records: Sequence[Record], seconds: float
    ) -> None:
        counters = self.counters
        counters.commits += 1
        counters.commit_seconds += seconds
        counters.last_commit_seconds = seconds
        counters.ingested += len(records)
        if records:
            self._tail.extend(records)
            self._tail_bytes += sum(_cost(record) for record in records)
            while len(self._tail) > TAIL_SIGNALS or self._tail_bytes > TAIL_BYTES:
                oldest = self._tail.popleft()
                self._tail_floor = oldest.sequence
                self._tail_bytes -= _cost(oldest)
            self._last_sequence = records[-1].sequence
            self._wake_subscribers()
        for item in group:
            if isinstance(item, Submission):
                counters.deduplicated += item.duplicates
                counters.waiting -= len(item.signals)
            item.finish(item.refused)
        self._room.set()

    def _wake_subscribers(self) -> None:
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()

    def _report_write_problem(self, reason: str | None) -> None:
        if reason is not None and self._write_problem is None:
            log.error("the bus cannot write", reason=reason)
        elif reason is None and self._write_problem is not None:
            log.info("the bus writes again")
        self._write_problem = reason

    def _work(self, opened: "asyncio.Future[int]") -> None:
        call = self._loop.call_soon_threadsafe
        try:
            writer = self._open()
        except Exception as error:
            call(_fail, opened, error)
            return
        call(_succeed, opened, writer.last_sequence)
        next_retention = time.monotonic() + self.settings.retention_interval
        pending = 0
        try:
            while True:
                group, last = self._next_group(0.0 if pending else next_retention)
                if group:
                    self._write(writer, group)
                if last:
                    return
                if pending or time.monotonic() >= next_retention:
                    pending = self._retain(writer)
                    next_retention = time.monotonic() + self.settings.retention_interval
        finally:
            writer.close()

    def _open(self) -> Writer:
        self.settings.dir.mkdir(parents=True, exist_ok=True)
        try:
            writer = Writer(self.path, self.settings, self._redact)
        except sqlite3.OperationalError:
            # A full disk can keep SQLite from opening its log.
            self._reserve.give_up()
            writer = Writer(self.path, self.settings, self._redact)
        self._reserve.take()
        return writer

    def _next_group(self, until: float) -> tuple[list[Submission | StateWrite], bool]:
        """What waits, up to a full batch, after at least one item or the moment `until` came."""
        group: list[Submission | StateWrite] = []
        signals = 0
        timeout = max(until - time.monotonic(), 0.0)
        while signals < self.settings.max_batch_signals:
            try:
                item = self._queue.get(timeout=timeout) if timeout else self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return group, True
            group.append(item)
            signals += len(item.signals) if isinstance(item, Submission) else 0
            timeout = 0.0
        return group, False

    def _write(self, writer: Writer, group: Sequence[Submission | StateWrite]) -> None:
        call = self._loop.call_soon_threadsafe
        failed = False
        while True:
            start = time.perf_counter()
            try:
                records = writer.write(group)
            except sqlite3.Error as error:
                failed = True
                call(self._report_write_problem, describe_write_error(error, self.settings.dir))
            else:
                call(self._announce, group, records, time.perf_counter() - start)
                if failed:
                    self._reserve.take()
                    call(self._report_write_problem, None)
                return
            if not self._wait_for_space(writer):
                closed = BusClosedError("the bus was closed while it could not write")
                for item in group:
                    call(item.finish, closed)
                return

    def _wait_for_space(self, writer: Writer) -> bool:
        """Wait until another attempt makes sense; False if the bus is closed before."""
        self._reserve.give_up()
        while not self._stopping.wait(self.settings.write_retry_interval):
            self._retain(writer)
            if self._reserve.free() >= self._reserve.needs:
                return True
        return False

    def _retain(self, writer: Writer) -> int:
        """One step of retention; how many signals went. Trouble with the disk is left to writing,
        which has somebody to tell."""
        try:
            removed = retention.remove_step(writer.connection, self.settings, now())
            retention.release_pages(writer.connection)
            if self._write_problem is not None:
                writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            log.warning("retention could not remove signals", reason=str(error))
            return 0
        if removed:
            self._loop.call_soon_threadsafe(self._count_removed, removed)
        return removed

    def _count_removed(self, removed: int) -> None:
        self.counters.removed += removed


def _cost(record: Record) -> int:
    signal = record.signal
    if isinstance(signal, Event):
        return SIGNAL_OVERHEAD + len(bytes(signal.data)) + len(signal.raw or b"")
    return SIGNAL_OVERHEAD


def _succeed(opened: "asyncio.Future[int]", sequence: int) -> None:
    if not opened.done():
        opened.set_result(sequence)


def _fail(opened: "asyncio.Future[int]", error: Exception) -> None:
    if not opened.done():
        opened.set_exception(error)
