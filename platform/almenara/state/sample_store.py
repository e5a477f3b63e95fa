"""The sample store: follows the log, stores samples for months, and reads them for charts.

Samples are flushed every few minutes. Until then they are in memory, and in the log: the position
of the store in the log is written with each flush, and a start reads on from there. So nothing is
lost when the process is killed, and a flush need not be soon.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

import structlog

from almenara.bus import LogReader, Record
from almenara.bus.codec import OBSERVATION_COLUMNS, RowDecoder
from almenara.bus.readers import QueryTooSlowError, Readers
from almenara.bus.storage_errors import DamagedDatabaseError
from almenara.clock import Clock
from almenara.config import SampleSettings
from almenara.errors import LimitExceeded, Unavailable, describe_error
from almenara.signals import Sample
from almenara.state.sample_codec import Points
from almenara.state.sample_maintenance import StoreReport
from almenara.state.sample_schema import DATABASE, SeriesName, name_series
from almenara.state.sample_writer import Buffer, Flush, FlushResult, SampleWriter, Upkeep
from almenara.state.samples import Key
from almenara.units import MILLISECOND

log = structlog.get_logger(__name__)

READ_BATCH: Final = 2_000
"""Resources and samples that are read from the log at once."""
FLUSHED_AT: Final = 100_000
"""Samples in memory that are flushed before the interval is over."""
MAX_PENDING: Final = 400_000
"""Samples in memory while nothing can be stored; beyond it, they are read again from the log."""
RETRY_INTERVAL: Final = 1.0
READERS: Final = 2
MAX_WAITING: Final = 100

T = TypeVar("T")


class Buffers:
    """Samples in memory, by series."""

    def __init__(self) -> None:
        self.series: dict[SeriesName, Buffer] = {}
        self.names: dict[tuple[str, Key], list[SeriesName]] = {}
        """The series of each metric and resource: one for each origin."""

    def of_series(self, name: SeriesName, unit: str) -> Buffer:
        """Return the buffer of a series, which is created where it does not exist."""
        buffer = self.series.get(name)
        if buffer is None:
            buffer = self.series[name] = Buffer(unit)
            self.names.setdefault((name.metric, name.key), []).append(name)
        return buffer


class SampleLog(LogReader, Protocol):
    """The log that samples are read again from."""

    @property
    def last_sequence(self) -> int:
        """The highest sequence in use."""


class SampleStore:
    """Samples in a folder. Use as an async context manager; it owns its threads.

    Nothing that happens to it raises here: `report` has the problem, and queries raise
    `Unavailable`.
    """

    def __init__(
        self,
        folder: Path,
        settings: SampleSettings,
        log: SampleLog,
        query_timeout: float = 15.0,
        clock: Clock | None = None,
    ) -> None:
        self.settings, self.query_timeout = settings, query_timeout
        self.out_of_range: dict[str, int] = {}
        """Samples that were left out because of their time, by origin."""
        self.log = log
        self._writer = SampleWriter(folder / DATABASE, settings, self._note_position, clock)
        self._readers: Readers | None = None
        self._pending, self._flushing = Buffers(), Buffers()
        """Samples since the last flush, and what that takes until it is stored."""
        self._flushing_to = 0
        self._count = 0
        """Samples in memory that are not stored."""
        self._position = 0
        self._cursor = 0
        """The sequence of the log up to which samples are stored or in memory."""
        self._passed = 0
        """The last sequence that `accept` was called with."""
        self._is_live = False
        self._is_behind = True
        """Whether `_cursor` starts again from the position."""
        self._is_due = asyncio.Event()
        self.caught_up = asyncio.Event()
        """Set once everything in the log is stored or in memory."""

    async def __aenter__(self) -> Self:
        await self._writer.start()
        self._readers = Readers(
            self._writer.path, READERS, self.query_timeout, "samples", max_waiting=MAX_WAITING
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.flush()
        finally:
            if self._readers is not None:
                await asyncio.to_thread(self._readers.close)
            await self._writer.close()

    @property
    def report(self) -> StoreReport:
        """How the store is."""
        return self._writer.report

    @property
    def pending(self) -> int:
        """Samples in memory that are not stored yet."""
        return self._count

    @property
    def warnings(self) -> list[str]:
        """What an operator should know, one text each."""
        report = self._writer.report
        warnings = [] if report.problem is None else [report.problem]
        for origin, count in self.out_of_range.items():
            warnings.append(
                f"{count:,} samples of {origin} were not stored, because their time was older than"
                " samples.retention_age or more than an hour ahead. Check the clock of what"
                f" {origin} observes."
            )
        return warnings + list(report.notes)

    # -- following the log

    def accept(self, records: Iterable[Record], through: int) -> None:
        """Add the samples among records; `through` is the sequence of the last signal so far."""
        self._passed = through
        if not self._is_live:
            return
        self._add(records)
        self._cursor = max(self._cursor, through)

    async def run(self) -> None:
        """Catch up with the log, then flush at intervals until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._is_live:
                await self._catch_up()
            timer = loop.call_later(self.settings.flush_interval, self._is_due.set)
            try:
                await self._is_due.wait()
            finally:
                timer.cancel()
            self._is_due.clear()
            if self._is_live:
                await self.flush()

    async def flush(self) -> None:
        """Store what is in memory; where that fails, it stays there until the next time."""
        if not self._flushing.series:
            self._flushing, self._pending = self._pending, Buffers()
            self._flushing_to = self._cursor
        if not self._flushing.series and self._flushing_to == self._position:
            return
        stored: asyncio.Future[FlushResult] = asyncio.get_running_loop().create_future()
        self._writer.submit(Flush(self._flushing.series, self._flushing_to, stored))
        try:
            result = await stored
        except Unavailable:
            if self._count > MAX_PENDING:
                self._fall_behind()
            return
        self._position = result.sequence
        for origin, count in result.out_of_range.items():
            self.out_of_range[origin] = self.out_of_range.get(origin, 0) + count
        self._count -= sum(len(buffer.times) for buffer in self._flushing.series.values())
        self._flushing = Buffers()

    async def maintain(self) -> None:
        """Seal and remove everything that is due, without a pause."""
        result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writer.submit(Upkeep(result))
        await result

    def _add(self, records: Iterable[Record]) -> None:
        for record in records:
            sample = record.signal
            if not isinstance(sample, Sample) or record.sequence <= self._cursor:
                continue
            buffer = self._pending.of_series(name_series(sample), sample.unit)
            buffer.times.append(sample.time // MILLISECOND)
            buffer.values.append(sample.value)
            self._count += 1
        if self._count >= FLUSHED_AT:
            self._is_due.set()

    def _fall_behind(self) -> None:
        """Forget what is in memory: it is read again from the log."""
        self._pending, self._flushing, self._count = Buffers(), Buffers(), 0
        self._is_live, self._is_behind = False, True
        self._is_due.set()

    def _note_position(self, position: int) -> None:
        """Go on from the position of a database that was opened."""
        if self._readers is not None:
            self._readers.reconnect()
        is_earlier = position < self._position
        self._position = position
        if is_earlier or not self._is_live:
            self._fall_behind()

    async def _catch_up(self) -> None:
        """Read the samples of the log that are not stored, and go on with new ones."""
        while not self._is_live:
            if self._is_behind:
                self._is_behind = False
                self._cursor = min(self._position, self.log.last_sequence)
            if self._count >= FLUSHED_AT:
                await self.flush()
            cursor, end = self._cursor, self.log.last_sequence
            try:
                records, reached = await self.log.read(_read_after(cursor))
            except (Unavailable, LimitExceeded) as error:
                log.warning("samples cannot be read from the log", reason=describe_error(error))
                await asyncio.sleep(RETRY_INTERVAL)
                continue
            if self._is_behind:
                continue
            self._add(records)
            self._cursor = max(cursor, end) if reached is None else reached
            self._is_live = reached is None and self._cursor >= self._passed
        self.caught_up.set()

    # -- reading

    def in_memory(self, name: SeriesName) -> list[Points]:
        """Return the samples of a series that may not be stored yet."""
        buffers = (self._flushing.series.get(name), self._pending.series.get(name))
        return [buffer.points() for buffer in buffers if buffer is not None]

    def in_memory_until(
        self, pairs: Iterable[tuple[str, Key]], moment: int
    ) -> dict[SeriesName, list[Points]]:
        """Return the samples that may not be stored yet of each series of metrics and resources
        that has any up to a moment in milliseconds."""
        series: dict[SeriesName, list[Points]] = {}
        for buffers in (self._flushing, self._pending):
            for pair in pairs if buffers.names else ():
                for name in buffers.names.get(pair, ()):
                    buffer = buffers.series[name]
                    if min(buffer.times) <= moment:
                        series.setdefault(name, []).append(buffer.points())
        return series

    def series_in_memory(self, equal: Sequence[tuple[int, str]]) -> dict[SeriesName, str]:
        """Return the series with samples that may not be stored yet, and their units.

        `equal` are fields of the name, by their place, and the values that they must have.
        """
        series: dict[SeriesName, str] = {}
        for buffers in (self._flushing.series, self._pending.series):
            names: Iterable[SeriesName] = buffers
            for place, value in equal:
                names = [name for name in names if name[place] == value]
            series.update((name, buffers[name].unit) for name in names)
        return series

    async def read(self, query: Callable[[sqlite3.Connection], T], caller: str = "") -> T:
        """Run a query of the database off the event loop, in one transaction.

        Callers share the readers fairly, as those of history do. Raises `Unavailable` and
        `LimitExceeded`.
        """
        if self._readers is None:
            raise Unavailable("the sample store is closed")

        def run(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            try:
                return query(connection)
            finally:
                connection.execute("ROLLBACK")

        try:
            return await self._readers.run(run, caller)
        except DamagedDatabaseError as error:
            self._writer.suspect_damage()
            raise Unavailable(
                "The sample store is damaged and is being replaced; charts start again with what"
                " the log has. Try again in a minute."
            ) from error
        except QueryTooSlowError:
            raise QueryTooSlowError(
                f"the query of samples took longer than {self.query_timeout:g} s; narrow it to"
                " fewer series or a shorter time"
            ) from None


def _read_after(
    cursor: int,
) -> Callable[[sqlite3.Connection], tuple[list[Record], int | None]]:
    """The query of the next resources and samples of the log, and of the sequence that it came to;
    None at the end of the log."""
    decoder = RowDecoder(is_quiet=True)

    def query(connection: sqlite3.Connection) -> tuple[list[Record], int | None]:
        rows = connection.execute(
            f"SELECT {OBSERVATION_COLUMNS} FROM observations WHERE sequence > ?"  # nosec B608 # constant fragments, bound values
            " ORDER BY sequence LIMIT ?",
            (cursor, READ_BATCH),
        ).fetchall()
        reached = rows[-1][0] if len(rows) == READ_BATCH else None
        return decoder.observations(rows), reached

    return query
