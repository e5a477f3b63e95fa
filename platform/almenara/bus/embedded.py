"""The log on one machine: SQLite, one writer thread, and a tail in memory."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final, Self, TypeVar

import structlog

from almenara.bus import BusClosedError, BusCounters, Record, SnapshotStatus, StateChange
from almenara.bus.codec import Redact, RowDecoder
from almenara.bus.readers import Readers
from almenara.bus.replay import read_after
from almenara.bus.storage_errors import DamagedDatabaseError
from almenara.bus.tail import Tail
from almenara.bus.validation import check_batch, check_state
from almenara.bus.work import Finish, LogEntry, StateWrite, Submission, Work
from almenara.bus.writer_thread import WriterThread
from almenara.clock import Clock
from almenara.config import StorageSettings
from almenara.errors import LimitExceeded, Unavailable, describe_error
from almenara.signals import Signal

log = structlog.get_logger(__name__)

REPLAY_BATCH: Final = 1_000

T = TypeVar("T")


class EmbeddedBus:
    """The bus in a folder. Use as an async context manager; it owns its threads."""

    def __init__(
        self, settings: StorageSettings, redact: Redact | None = None, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.counters = BusCounters()
        self._decoder = RowDecoder()
        self._writer = WriterThread(settings, self, redact, clock)
        self.path = self._writer.path
        self._last_sequence = 0
        self._tail = Tail(0)
        self._readers: tuple[Readers, ...] = ()
        self._write_problem: str | None = None
        self._failure: str | None = None
        self._storage_warnings: list[str] = []
        self._advanced = asyncio.Event()
        self._has_space = asyncio.Event()
        self._closed = False
        self.select_stored: Callable[[Sequence[Signal], str], Sequence[Signal]] | None = None
        """Returns what is stored of a batch of an origin; None for all of it."""
        self.snapshot: SnapshotStatus | None = None

    async def __aenter__(self) -> Self:
        self._move_to(await self._writer.start())
        self._queries = Readers(
            self.path,
            self.settings.max_concurrent_queries,
            self.settings.query_timeout,
            "history",
            max_waiting=self.settings.max_waiting_queries,
            in_transaction=True,
        )
        # Replays have a thread of their own, so that slow queries do not delay live delivery.
        self._replays = Readers(
            self.path, 1, self.settings.query_timeout, "replay", in_transaction=True
        )
        self._readers = (self._queries, self._replays)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._closed = True
        await self._writer.drain()
        self._advanced.set()
        self._has_space.set()
        # The readers first: only the last connection that closes can empty the write-ahead log, and
        # the database file must be complete without it.
        for readers in self._readers:
            await asyncio.to_thread(readers.close)
        await self._writer.close()

    @property
    def decoder(self) -> RowDecoder:
        return self._decoder

    @property
    def last_sequence(self) -> int:
        return self._last_sequence

    @property
    def write_problem(self) -> str | None:
        return self._write_problem

    @property
    def failure(self) -> str | None:
        if self._failure is None and not self._closed and not self._writer.is_alive:
            return "The thread that writes the database has ended. Restart Almenara."
        return self._failure

    @property
    def lag(self) -> float:
        return 0.0

    def distance(self, after: int, through: int) -> int:
        return through - after

    async def reach(self, sequence: int) -> None:
        """Return at once: no other process has seen more of the log."""

    async def advance(self) -> None:
        """Return once the log has grown."""
        await self._advanced.wait()

    @property
    def not_ready(self) -> str | None:
        """Why requests should not be served yet: never, since the log is here."""
        return None

    @property
    def warnings(self) -> list[str]:
        if not (skipped := self._decoder.skipped):
            return self._storage_warnings
        return [
            *self._storage_warnings,
            f"{skipped:,} stored signals could not be read and were left out. Run `almenara storage"
            " check` to find and remove them.",
        ]

    @property
    def replica_problems(self) -> None:
        return None

    # -- writing

    async def publish(
        self, batch: Sequence[Signal], origin: str, changes: Sequence[StateChange] = ()
    ) -> None:
        check_batch(batch)
        if self.select_stored is not None:
            stored = self.select_stored(batch, origin)
            self.counters.count_left_out(origin, len(batch) - len(stored))
            batch = stored
        if not batch and not changes:
            return
        await self.wait_for_space()
        signals = tuple(batch)
        written = tuple(changes)
        await self._submit(lambda finish: Submission(signals, origin, finish, changes=written))

    async def wait_for_space(self) -> None:
        """Return once another batch may wait for the writer."""
        while self.counters.waiting >= self.settings.max_queued_signals and not self._closed:
            self._has_space.clear()
            await self._has_space.wait()

    def apply(self, entry: LogEntry) -> None:
        """Queue an entry of a shared log; its `finish` is called with the outcome."""
        self.counters.waiting += _count_signals(entry)
        self._writer.submit(entry)

    async def save(self, plugin: str, key: str, value: bytes) -> None:
        """Store a plugin's value durably, after every batch published before.

        Raises `InvalidSignalError` for anything but bytes.
        """
        check_state(key, value)
        await self._submit(lambda finish: StateWrite(plugin, key, value, finish))

    async def _submit(self, make: Callable[[Finish], Work]) -> None:
        if self._closed:
            raise BusClosedError("the bus is closed")
        if (failure := self.failure) is not None:
            raise BusClosedError(failure)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        item = make(partial(_settle, done))
        self.counters.waiting += _count_signals(item)
        self._writer.submit(item)
        await done

    # -- reading

    async def load(self, plugin: str, key: str) -> bytes | None:
        """Return the value that a plugin stored, or None."""

        def query(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(
                "SELECT value FROM plugin_state WHERE plugin = ? AND key = ?", (plugin, key)
            ).fetchone()
            return row[0] if row else None

        return await self._replays.run(query)

    async def load_all(self, owner: str) -> dict[str, bytes]:
        def query(connection: sqlite3.Connection) -> dict[str, bytes]:
            return dict(
                connection.execute("SELECT key, value FROM plugin_state WHERE plugin = ?", (owner,))
            )

        return await self._replays.run(query)

    async def known_resources(self, source: str, kind: str = "") -> list[tuple[str, str, str]]:
        """Return the resources that a source has published and not deleted; of one kind or all."""

        def query(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
            return connection.execute(
                "SELECT kind, namespace, name FROM known_resources"
                " WHERE source = ? AND ? IN ('', kind)",
                (source, kind),
            ).fetchall()

        return await self._replays.run(query)

    async def read(self, query: Callable[[sqlite3.Connection], T], caller: str = "") -> T:
        """Run a query of history with a reading connection, off the event loop."""
        return await self._queries.run(query, caller)

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
            batch = self._tail.after(cursor)
            if batch is not None:
                cursor = end
            else:
                try:
                    batch, reached = await self._replay(cursor)
                except BusClosedError:
                    raise
                except (Unavailable, LimitExceeded) as error:
                    # A disk that does not answer must not end what follows the bus.
                    log.warning("the log cannot be read", reason=describe_error(error))
                    await asyncio.sleep(self.settings.write_retry_interval)
                    continue
                # Where nothing follows, retention has removed everything up to `end`.
                cursor = reached if reached > cursor else end
            if batch:
                yield batch

    async def _replay(self, cursor: int) -> tuple[list[Record], int]:
        """Read the records after a sequence. Damaged pages of the file are stepped over."""
        try:
            return await self._replays.run(
                lambda connection: read_after(connection, cursor, REPLAY_BATCH, self._decoder)
            )
        except DamagedDatabaseError:
            return await self._replays.run(
                lambda connection: self._replay_around(connection, cursor)
            )

    def _replay_around(
        self, connection: sqlite3.Connection, cursor: int
    ) -> tuple[list[Record], int]:
        end = min(cursor + REPLAY_BATCH, self._last_sequence)
        records: list[Record] = []
        for sequence in range(cursor + 1, end + 1):
            try:
                rows, _ = read_after(connection, sequence - 1, 1, self._decoder)
                records += [row for row in rows if row.sequence == sequence]
            except sqlite3.DatabaseError as error:
                self._decoder.skip(sequence, error)
        return records, end

    # -- reports of the writer thread

    def on_open(self, last_sequence: int) -> None:
        self._move_to(last_sequence)
        for readers in self._readers:
            readers.reconnect()

    def _move_to(self, last_sequence: int) -> None:
        """Go on after signals that are in the database and did not pass through the tail."""
        if last_sequence > self._last_sequence:
            self._last_sequence = last_sequence
            self._tail = Tail(last_sequence)
            self._wake_subscribers()

    def on_commit(self, group: Sequence[Work], records: Sequence[Record], seconds: float) -> None:
        counters = self.counters
        if seconds:
            counters.commits += 1
            counters.commit_seconds += seconds
            counters.last_commit_seconds = seconds
        counters.ingested += len(records)
        if records:
            self._tail.extend(records)
            self._last_sequence = records[-1].sequence
            self._wake_subscribers()
        for item in group:
            counters.waiting -= _count_signals(item)
            counters.refused += item.refused is not None
            if isinstance(item, Submission):
                counters.deduplicated += item.duplicates
                counters.resources_dropped += item.dropped
                counters.count_left_out(item.origin, item.left_out)
            item.finish(item.refused)
        self._has_space.set()

    def _wake_subscribers(self) -> None:
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()

    def on_write_problem(self, reason: str | None) -> None:
        if reason is not None and self._write_problem is None:
            log.error("the bus cannot write", reason=reason)
        elif reason is None and self._write_problem is not None:
            log.info("the bus writes again")
        self._write_problem = reason

    def on_retention(self, removed: int, warnings: list[str]) -> None:
        self.counters.removed += removed
        for text in warnings:
            if text.split(". ")[0] not in {
                known.split(". ")[0] for known in self._storage_warnings
            }:
                log.warning("storage needs attention", reason=text)
        self._storage_warnings = warnings

    def on_failure(self, reason: str) -> None:
        self._failure = f"{reason}. Restart Almenara."
        self._write_problem = self._failure
        self._has_space.set()


def _settle(done: "asyncio.Future[None]", refused: Exception | None) -> None:
    if done.done():
        return
    if refused is None:
        done.set_result(None)
    else:
        done.set_exception(refused)


def _count_signals(item: Work) -> int:
    return len(item.signals) if isinstance(item, Submission) else 0
