"""The thread that writes the sample store: flushes, sealing, retention.

It is never in a hurry. After a few milliseconds of work it pauses, so that the event loop has the
interpreter, and a database that cannot be written delays no one: samples wait in memory, and what
does not fit is read again from the log. A damaged database is set aside, and a new one starts with
what the log still has.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from almenara.bus.log_clock import Anchor, LogClock
from almenara.bus.storage_errors import is_damage
from almenara.clock import Clock, SystemClock
from almenara.config import SampleSettings
from almenara.errors import Unavailable, describe_error
from almenara.state.sample_chunks import WindowPieces, split_windows, store_pieces
from almenara.state.sample_codec import Points
from almenara.state.sample_maintenance import DamagedStoreError, Maintenance, StoreReport
from almenara.state.sample_schema import (
    WINDOW,
    SampleStoreTooNewError,
    SeriesName,
    open_database,
    set_aside,
)
from almenara.state.series_index import SeriesIndex
from almenara.units import HOUR, MILLISECOND

log = structlog.get_logger(__name__)

TURN: Final = 0.005
"""Seconds of work after which the thread pauses."""
PAUSE: Final = 0.02
FUTURE: Final = HOUR // MILLISECOND
"""Milliseconds that a sample may be ahead of the clock."""
MAINTENANCE_INTERVAL: Final = 30.0
RETRY_INTERVAL: Final = 5.0


class Buffer:
    """Samples of a series that are not stored yet; times in milliseconds."""

    __slots__ = ("times", "unit", "values")

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.times, self.values = array("q"), array("d")

    def points(self) -> Points:
        """Return the samples, in the order of their arrival."""
        return Points(self.times.tolist(), self.values.tolist())


class FlushResult(msgspec.Struct, frozen=True):
    """What became of a flush."""

    sequence: int
    """Up to which sequence of the log everything is stored."""
    out_of_range: dict[str, int]
    """Samples that were too old or too far in the future, by origin."""


class Flush(msgspec.Struct):
    """Samples to store, up to a sequence of the log."""

    series: Mapping[SeriesName, Buffer]
    sequence: int
    result: "asyncio.Future[FlushResult]"


class Upkeep(msgspec.Struct):
    """Work off what is due now."""

    result: "asyncio.Future[None]"


class SampleWriter:
    """Start it with `start`; after `close` nothing that was submitted is without a result."""

    def __init__(
        self,
        path: Path,
        settings: SampleSettings,
        on_open: Callable[[int], None],
        clock: Clock | None = None,
    ) -> None:
        self.path, self.settings = path, settings
        self.report = StoreReport()
        self._on_open = on_open
        """Called on the event loop with the position of a database that was opened."""
        self._system_clock = clock or SystemClock()
        self._queue: queue.SimpleQueue[Flush | Upkeep | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._connection: sqlite3.Connection | None = None
        self._maintenance: Maintenance | None = None
        self._damaged_file: Path | None = None
        self._turn = time.monotonic()
        self._next_maintenance = 0.0
        self._is_suspect = False

    async def start(self) -> None:
        """Start the thread and wait until it has tried to open the database."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="sample-writer")
        self._thread.start()
        await opened

    def submit(self, item: Flush | Upkeep) -> None:
        """Queue a piece of work; its result is that of the work, or `Unavailable`."""
        self._queue.put(item)

    def suspect_damage(self) -> None:
        """Check the database soon: a reader has found damage."""
        self._is_suspect = True
        self._next_maintenance = 0.0

    async def close(self) -> None:
        """Write what is queued and close the database."""
        self._closing.set()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- in the thread

    def _run(self, opened: "asyncio.Future[None]") -> None:
        try:
            self._try_to_open()
            self._call(_succeed, opened, None)
            while True:
                item = self._next_item()
                if item is None and self._closing.is_set():
                    return
                if isinstance(item, Flush):
                    self._flush(item)
                    continue
                self._maintain()
                if item is not None:
                    while self._next_maintenance - time.monotonic() <= PAUSE:
                        self._maintain()
                    self._call(_succeed, item.result, None)
        except BaseException as error:
            log.critical("samples are no longer stored; restart Almenara", exc_info=error)
            self.report = StoreReport(
                problem=f"Samples are no longer stored: {describe_error(error)}. Restart Almenara."
            )
        finally:
            self._call(_succeed, opened, None)
            self._close_database()
            while True:
                with contextlib.suppress(queue.Empty):
                    if (item := self._queue.get_nowait()) is not None:
                        self._call(_fail, item.result, Unavailable("the sample store is closed"))
                    continue
                break

    def _next_item(self) -> Flush | Upkeep | None:
        wait = self._next_maintenance - time.monotonic()
        try:
            return self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _breathe(self) -> None:
        """Pause where the thread has worked for a while."""
        if time.monotonic() - self._turn > TURN:
            self._closing.wait(PAUSE)
            self._turn = time.monotonic()

    # -- the database

    def _try_to_open(self) -> bool:
        if self._connection is not None:
            return True
        try:
            self._open()
        except (sqlite3.Error, OSError, SampleStoreTooNewError) as error:
            if _is_damage(error):
                return self._start_over(error)
            self._report_problem(error)
            return False
        return True

    def _open(self) -> None:
        connection = open_database(self.path)
        try:
            self._index = SeriesIndex(connection, self.settings.max_series)
            sequence, self._last_flush, anchor = connection.execute(
                "SELECT last_sequence, last_flush, anchor FROM position"
            ).fetchone()
            decoded = None if anchor is None else msgspec.json.decode(anchor, type=Anchor)
        except msgspec.MsgspecError:
            decoded = None
        except BaseException:
            connection.close()
            raise
        self._clock = LogClock(decoded, self._system_clock)
        self._connection = connection
        self._maintenance = Maintenance(
            connection, self.settings, self._index, self._clock, self._system_clock
        )
        self.report = msgspec.structs.replace(self.report, problem=None)
        self._call(self._on_open, sequence)

    def _close_database(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _start_over(self, error: Exception) -> bool:
        """Set the damaged database aside and open a new one."""
        self._close_database()
        try:
            self._damaged_file = set_aside(self.path, self._system_clock.now())
            log.error(
                "the sample store is damaged and was set aside; charts start with what the log has",
                damage=describe_error(error),
                file=str(self._damaged_file),
            )
            self._open()
        except (sqlite3.Error, OSError) as further:
            self._report_problem(further)
            return False
        return True

    def _report_problem(self, error: Exception) -> None:
        text = (
            str(error)
            if isinstance(error, SampleStoreTooNewError)
            else f"Samples cannot be stored in {self.path}: {describe_error(error)}. Charts show"
            " what is in memory, and events are not affected. Check the disk and the permissions of"
            " the folder; writing is tried again."
        )
        if self.report.problem != text:
            log.error("samples cannot be stored", reason=text)
        self.report = msgspec.structs.replace(self.report, problem=text)

    def _roll_back(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _handle(self, error: Exception) -> None:
        """Set a damaged database aside; report anything else, and reopen the database."""
        self._roll_back()
        if _is_damage(error):
            self._start_over(error)
            return
        self._report_problem(error)
        self._close_database()

    # -- flushes

    def _flush(self, flush: Flush) -> None:
        if not self._try_to_open():
            problem = self.report.problem or "samples cannot be stored"
            self._call(_fail, flush.result, Unavailable(problem))
            return
        try:
            result = self._write(flush)
        except (sqlite3.Error, OSError) as error:
            self._handle(error)
            self._call(_fail, flush.result, Unavailable(describe_error(error)))
        else:
            self.report = msgspec.structs.replace(self.report, problem=None)
            self._call(_succeed, flush.result, result)

    def _write(self, flush: Flush) -> FlushResult:
        connection = self._connected()
        moment = self._clock.advance() // MILLISECOND
        latest = max(moment, self._system_clock.now() // MILLISECOND) + FUTURE
        earliest = moment - int(self.settings.retention_age * 1000) + WINDOW
        pieces: defaultdict[int, WindowPieces] = defaultdict(WindowPieces)
        out_of_range: Counter[str] = Counter()
        connection.execute("BEGIN IMMEDIATE")
        for name, buffer in flush.series.items():
            points = buffer.points()
            if min(points.times) < earliest or max(points.times) > latest:
                points = _limit_times(points, earliest, latest)
                out_of_range[name.origin] += len(buffer.times) - len(points.times)
                if not points.times:
                    continue
            first, last = min(points.times), max(points.times)
            number = self._index.number(name, buffer.unit, first, last)
            if number is not None:
                for window, part in split_windows(points).items():
                    pieces[window].add(number, part)
            self._breathe()
        last_flush = store_pieces(connection, pieces, self._last_flush)
        connection.execute(
            "UPDATE position SET last_sequence = ?, last_flush = ?, last_series = ?, anchor = ?",
            (
                flush.sequence,
                last_flush,
                self._index.last,
                msgspec.json.encode(self._clock.anchor()).decode(),
            ),
        )
        connection.execute("COMMIT")
        self._last_flush = last_flush
        return FlushResult(flush.sequence, dict(out_of_range))

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.OperationalError("the sample store is closed")
        return self._connection

    # -- maintenance

    def _maintain(self) -> None:
        """Do one step of what is due, and set when the next is due."""
        self._next_maintenance = time.monotonic() + RETRY_INTERVAL
        if not self._try_to_open() or self._maintenance is None:
            return
        is_suspect, self._is_suspect = self._is_suspect, False
        try:
            if is_suspect:
                self._maintenance.check()
            if self._maintenance.step(self._breathe):
                self._next_maintenance = time.monotonic() + PAUSE
                return
            self._report_usage(self._maintenance.measure())
        except (sqlite3.Error, OSError) as error:
            self._handle(error)
        else:
            self._next_maintenance = time.monotonic() + MAINTENANCE_INTERVAL

    def _report_usage(self, report: StoreReport) -> None:
        if self._damaged_file is not None:
            note = (
                f"The sample store was damaged and was set aside as {self._damaged_file}. Charts"
                " start with what the log still had; events are not affected. Check the disk, and"
                " remove the file."
            )
            report.notes = (note, *report.notes)
        for note in set(report.notes) - set(self.report.notes):
            log.warning("the sample store needs attention", reason=note)
        self.report = report

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        # After the loop has been closed, no one is left to report to.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


def _is_damage(error: Exception) -> bool:
    return isinstance(error, DamagedStoreError) or is_damage(error)


def _limit_times(points: Points, earliest: int, latest: int) -> Points:
    inside = [
        (time, value)
        for time, value in zip(points.times, points.values, strict=True)
        if earliest <= time <= latest
    ]
    return Points([time for time, _ in inside], [value for _, value in inside])


def _succeed(future: "asyncio.Future[Any]", result: object) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
