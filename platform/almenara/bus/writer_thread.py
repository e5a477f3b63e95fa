"""The thread that owns the writing connection: commits what is queued, and applies retention.

Nothing that a batch holds and nothing that the disk does ends it. An error of one batch is refused
to its publisher; an error of the disk is retried, with a new connection, until it passes.
Should the thread end nevertheless, `failure` is set and the liveness probe fails.
"""

import asyncio
import contextlib
import itertools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from almenara.bus import BusClosedError, Record, retention
from almenara.bus.codec import Redact
from almenara.bus.counts import count_older
from almenara.bus.disk_reserve import DiskReserve
from almenara.bus.folder import FolderLock, prepare_folder
from almenara.bus.maintenance import Maintenance
from almenara.bus.retention_rules import RetentionRules
from almenara.bus.schema import connect
from almenara.bus.sealing import clear_rows
from almenara.bus.storage_errors import (
    OF_ONE_BATCH,
    StorageError,
    describe_open_error,
    describe_write_error,
    is_full,
    may_need_space,
    may_pass,
)
from almenara.bus.validation import InvalidSignalError
from almenara.bus.work import Submission, Work
from almenara.bus.writer import Writer
from almenara.clock import Clock
from almenara.config import StorageSettings
from almenara.errors import AlmenaraError, describe_error

log = structlog.get_logger(__name__)

DATABASE: Final = "almenara.db"
RESERVE: Final = "almenara.reserve"


class Listener(Protocol):
    """What the thread reports to, on the event loop."""

    def on_open(self, last_sequence: int) -> None:
        """The database is open for writing."""

    def on_commit(self, group: Sequence[Work], records: Sequence[Record], seconds: float) -> None:
        """A group is durable; its items must be finished."""

    def on_write_problem(self, reason: str | None) -> None:
        """Writing fails, or works again."""

    def on_retention(self, removed: int, warnings: list[str]) -> None:
        """A step of retention was done."""

    def on_failure(self, reason: str) -> None:
        """The thread has ended; nothing will be written any more."""


class WriterThread:
    """Start it with `start`; after `close` nothing queued is left without an answer."""

    def __init__(
        self,
        settings: StorageSettings,
        listener: Listener,
        redact: Redact | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings, self._listener = settings, listener
        self._redact, self._clock = redact, clock
        self.path = settings.dir / DATABASE
        self._reserve = DiskReserve(settings.dir / RESERVE, settings.disk_reserve)
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._drained, self._may_close = threading.Event(), threading.Event()
        self._lock: FolderLock | None = None
        self._writer: Writer | None = None
        self._in_hand: Sequence[Work] = []
        """What is being written, and must be answered whatever happens."""
        self._has_problem = False
        self._has_uncounted = True
        self._maintenance = Maintenance(settings.hot_events)
        self._rules = RetentionRules(settings.retention_rules)
        self._fixed_bytes = 0

    async def start(self) -> int:
        """Open the database and return its last sequence.

        On a disk that is full or fails it returns what can be read, and opens it later. Raises
        `StorageError`, `FolderInUseError`, `SchemaTooNewError`, `DamagedDatabaseError`.
        """
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[int] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="bus-writer")
        self._thread.start()
        try:
            return await opened
        except BaseException:
            await self.close()
            raise

    async def drain(self) -> None:
        """Write what is queued, or refuse it where writing fails."""
        self._stopping.set()
        self._queue.put(None)
        await asyncio.to_thread(self._drained.wait)

    async def close(self) -> None:
        """Drain the queue, close the database and release the folder."""
        self._may_close.set()
        await self.drain()
        await asyncio.to_thread(self._thread.join)

    def submit(self, item: Work) -> None:
        """Queue an item; its `finish` is called with the outcome."""
        self._queue.put(item)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    # -- in the thread

    def _run(self, opened: "asyncio.Future[int]") -> None:
        reason = ""
        try:
            if self._start(opened):
                self._work_until_stopped()
        except BaseException as error:
            reason = f"The thread that writes the database has ended: {describe_error(error)}"
            log.critical("the bus has stopped; restart Almenara", exc_info=error)
        finally:
            if reason:
                self._call(self._listener.on_failure, reason)
            closed = BusClosedError(reason or "the bus is closed")
            self._finish([*self._in_hand, *_drain(self._queue)], closed)
            self._drained.set()
            # The readers close their connections before the last one is closed here.
            if not reason:
                self._may_close.wait()
            _close_database(self._writer)
            if self._lock is not None:
                self._lock.release()

    def _start(self, opened: "asyncio.Future[int]") -> bool:
        """Open the database, or what can be read of it; False where it cannot be used at all."""
        folder = self.settings.dir
        try:
            writer = self._open_writer()
        except AlmenaraError as error:
            self._call(_fail, opened, error)
            return False
        except (OSError, sqlite3.Error) as error:
            if not may_pass(error, folder):
                self._call(_fail, opened, StorageError(describe_open_error(error, folder)))
                return False
            self._report_problem(error)
            self._call(_succeed, opened, _read_last_sequence(self.path))
            return True
        except Exception as error:
            self._call(_fail, opened, error)
            return False
        self._call(_succeed, opened, writer.last_sequence)
        return True

    def _open_writer(self) -> Writer:
        if self._lock is None:
            prepare_folder(self.settings.dir)
            self._lock = FolderLock.acquire(self.settings.dir)
        if self._writer is None:
            try:
                self._writer = Writer(self.path, self.settings, self._redact, self._clock)
            except (OSError, sqlite3.Error) as error:
                if not may_need_space(error):
                    raise
                self._reserve.release()
                self._writer = Writer(self.path, self.settings, self._redact, self._clock)
            self._reserve.allocate()
            self._call(self._listener.on_open, self._writer.last_sequence)
        return self._writer

    def _work_until_stopped(self) -> None:
        next_retention = time.monotonic() + self.settings.retention_interval
        pending = False
        while True:
            is_busy = pending or self._has_uncounted
            until = 0.0 if is_busy else min(next_retention, self._maintenance.due_at)
            if self._writer is None:
                until = min(until, time.monotonic() + self.settings.write_retry_interval)
            group, is_last = self._next_group(until)
            if group:
                self._in_hand = group
                self._write(group)
                self._in_hand = []
                self._maintenance.note_group()
            elif self._writer is None:
                self._try_to_open()
            if is_last:
                return
            if self._has_uncounted:
                self._has_uncounted = _count_older(self._writer)
            elif self._writer is None or self._has_problem:
                self._maintenance.stop()
            else:
                self._maintenance.run(self._writer.connection)
            if pending or time.monotonic() >= next_retention:
                if not pending:
                    self._fixed_bytes = _measure_fixed_bytes(self._writer)
                    self._has_uncounted = True
                    self._maintenance.wake_sealing()
                pending = self._retain()
                next_retention = time.monotonic() + self.settings.retention_interval

    def _next_group(self, until: float) -> tuple[list[Work], bool]:
        """Return what is queued, up to a full batch, once there is something or `until` has come;
        and whether it is the last."""
        group: list[Work] = []
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

    def _write(self, group: Sequence[Work]) -> None:
        """Write a group, for as long as it takes. The items of a group whose writing fails for
        another reason than the disk are written one by one, and the wrong one is refused."""
        for attempt in itertools.count():
            start = time.perf_counter()
            try:
                writer = self._open_writer()
                records = writer.write(group)
            except OF_ONE_BATCH as error:
                self._write_one_by_one(group, error)
                return
            except sqlite3.IntegrityError as error:
                # Positions are read again when the database is opened; if that does not help, the
                # batch itself is wrong.
                if attempt:
                    self._write_one_by_one(group, error)
                    return
                self._close_writer()
                continue
            except (sqlite3.Error, OSError) as error:
                if "user-defined function" in str(error):
                    # Not the disk: a value of the batch has made a function of ours fail.
                    self._write_one_by_one(group, error)
                    return
                self._report_problem(error)
                if not is_full(error):
                    # The connection may hold a file that is not there any more.
                    self._close_writer()
            except AlmenaraError as error:
                self._report_problem(error)
            except Exception as error:
                self._write_one_by_one(group, error)
                return
            else:
                seconds = time.perf_counter() - start
                self._call(self._listener.on_commit, group, records, seconds)
                self._report_success()
                return
            if not self._wait_to_retry():
                self._finish(group, BusClosedError("the bus was closed while it could not write"))
                return

    def _write_one_by_one(self, group: Sequence[Work], error: Exception) -> None:
        if len(group) > 1:
            for item in group:
                self._write([item])
            return
        log.error("a batch cannot be stored and is refused", exc_info=error)
        refused = InvalidSignalError(f"the batch cannot be stored: {describe_error(error)}")
        self._finish(group, refused)

    def _finish(self, group: Sequence[Work], refused: Exception) -> None:
        for item in group:
            item.refused = refused
        self._call(self._listener.on_commit, group, (), 0.0)

    def _wait_to_retry(self) -> bool:
        """Wait until another attempt makes sense; False if the bus is closed before that."""
        self._reserve.release()
        while not self._stopping.wait(self.settings.write_retry_interval):
            self._retain()
            if self._reserve.free_bytes() >= self._reserve.bytes_needed():
                return True
        return False

    def _try_to_open(self) -> None:
        try:
            self._open_writer()
        except (sqlite3.Error, OSError, AlmenaraError) as error:
            self._report_problem(error)
        else:
            self._report_success()

    def _report_problem(self, error: Exception) -> None:
        self._has_problem = True
        text = str(error)
        if not isinstance(error, AlmenaraError):
            text = describe_write_error(error, self.settings.dir, self._reserve)
        self._call(self._listener.on_write_problem, text)

    def _report_success(self) -> None:
        if self._has_problem:
            self._has_problem = False
            self._reserve.allocate()
            self._call(self._listener.on_write_problem, None)

    def _retain(self) -> bool:
        """Do one step of retention and return whether another is due. Errors are left to writing,
        which has a way to report them."""
        writer = self._writer
        if writer is None:
            return False
        try:
            moment = writer.clock.advance()
            connection, settings = writer.connection, self.settings
            if clear_rows(connection):
                # Rows of sealed events must not be removed a second time.
                return True
            removed = self._rules.remove_step(connection, moment, settings.retention_batch)
            is_due = self._rules.is_behind
            if not is_due:
                removed = retention.remove_step(connection, settings, moment, self._fixed_bytes)
                is_due = removed > 0
            retention.release_pages(connection)
            if removed:
                writer.names.reload()
                self._maintenance.restart_sealing()
            if self._has_problem:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except Exception as error:
            log.warning("retention could not remove signals", reason=describe_error(error))
            return False
        self._call(self._listener.on_retention, removed, _list_warnings(writer))
        return is_due

    def _close_writer(self) -> None:
        self._maintenance.stop()
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(Exception):
                writer.connection.close()

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        # After the loop has been closed, no one is left to report to.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


def _close_database(writer: Writer | None) -> None:
    if writer is None:
        return
    try:
        writer.close()
    except Exception as error:
        log.warning("the database could not be closed", reason=describe_error(error))


def _drain(items: "queue.SimpleQueue[Work | None]") -> list[Work]:
    """Take everything out of a queue; what ends the thread is left out."""
    drained: list[Work] = []
    with contextlib.suppress(queue.Empty):
        while True:
            if (item := items.get_nowait()) is not None:
                drained.append(item)
    return drained


def _count_older(writer: Writer | None) -> bool:
    """Count a step of the events of a former version, and return whether more may be left; tried
    again later where it fails."""
    if writer is None:
        return False
    try:
        return count_older(writer.connection) > 0
    except Exception as error:
        log.warning("older events could not be counted", reason=describe_error(error))
        return False


def _measure_fixed_bytes(writer: Writer | None) -> int:
    if writer is None:
        return 0
    try:
        return retention.fixed_bytes(writer.connection)
    except sqlite3.Error:
        return 0


def _list_warnings(writer: Writer) -> list[str]:
    warnings: list[str] = []
    if (problem := writer.clock.problem) is not None:
        warnings.append(problem)
    names = writer.names
    if names.is_full:
        warnings.append(
            f"There are {names.count:,} distinct names (types, sources, origins, namespaces), the"
            " limit storage.max_names. Events with further names are stored, and searching by"
            " those names is slow. Find the source that puts an id into each type or source."
        )
    elif names.count >= 0.8 * names.limit:
        warnings.append(
            f"There are {names.count:,} distinct names (types, sources, origins, namespaces); the"
            f" limit storage.max_names is {names.limit:,}. Find the source that puts an id into"
            " each type or source."
        )
    for source, dropped in writer.known_resources.dropped.items():
        warnings.append(
            f"The source {source} has {writer.known_resources.counts.get(source, 0):,} resources,"
            f" the limit storage.max_resources. {dropped:,} new ones were left out. Limit what the"
            " source observes, or raise the limit together with the memory limit."
        )
    return warnings


def _read_last_sequence(path: Path) -> int:
    """The last sequence of a database that cannot be written, from what can be read of it."""
    for immutable in (False, True):
        try:
            with contextlib.closing(connect(path, writable=False, immutable=immutable)) as reading:
                (sequence,) = reading.execute("SELECT last_sequence FROM position").fetchone()
                return int(sequence)
        except sqlite3.Error:
            continue
    return 0


def _succeed(opened: "asyncio.Future[int]", sequence: int) -> None:
    if not opened.done():
        opened.set_result(sequence)


def _fail(opened: "asyncio.Future[int]", error: Exception) -> None:
    if not opened.done():
        opened.set_exception(error)
