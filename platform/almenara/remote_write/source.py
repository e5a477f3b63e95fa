"""Follows the samples of the log and sends them to one receiver; run by the supervisor.

The log is the queue: what is not sent yet waits there, so memory is bounded, and a restart
continues where the last request was accepted. The position is stored after each request, so that a
crash repeats the samples of one request at most; receivers store them once.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from almenara.bus import Record, StateChange
from almenara.bus.codec import OBSERVATION_COLUMNS, RowDecoder
from almenara.clock import now, sleep
from almenara.config import RemoteWriteSettings
from almenara.errors import LimitExceeded, Unavailable, describe_error
from almenara.hookspecs import SourceReport
from almenara.patterns import compile_pattern
from almenara.sdk import Backoff, HealthAggregator
from almenara.signals import Sample, Signal
from almenara.units import MINUTE, SECOND

if TYPE_CHECKING:
    from almenara.remote_write.client import RemoteWriteClient

PLUGIN: Final = "remote_write"
CURSOR: Final = "cursor"
READ_AT_ONCE: Final = 2_000
"""Resources and samples that are read from the log at once: the most of one request."""
POLL_INTERVAL: Final = 1.0
MOVED: Final = 10_000
"""Sequences without a sample after which the position is stored."""
MAX_SPLITS: Final = 30
"""How often the samples of a refused request are divided to find those that are wrong."""
BACKOFF_FIRST: Final = 1.0
BACKOFF_LIMIT: Final = 60.0
DROPS_VISIBLE: Final = 10 * MINUTE

T = TypeVar("T")
Commit = Callable[[Sequence[Signal], Sequence[StateChange]], Awaitable[None]]


class RemoteWriteBus(Protocol):
    """What is needed from the bus."""

    @property
    def last_sequence(self) -> int: ...

    def distance(self, after: int, through: int) -> int: ...

    async def load_all(self, owner: str) -> dict[str, bytes]: ...

    async def read(self, query: Callable[[sqlite3.Connection], T], caller: str = "") -> T: ...


class Batch(msgspec.Struct):
    """What a query has read of the log."""

    records: list[Record]
    reached: int | None
    """The sequence that it came to; None at the end of the log."""
    lost: float
    """Seconds of which samples were deleted before they were read."""


class RemoteWriteSource:
    """Sends samples to one receiver. Create it on the event loop of the bus."""

    can_have_process = False
    """It reads the bus, which another process cannot."""

    def __init__(
        self, settings: RemoteWriteSettings, bus: RemoteWriteBus, retention_age: float
    ) -> None:
        self.settings, self.bus = settings, bus
        self.retention_age = retention_age
        """Seconds that samples are in the log."""
        self.name = settings.name
        self.owner = f"{PLUGIN}/{settings.name}"
        self._home = asyncio.get_running_loop()
        # Known before sources start, so that a new receiver misses nothing of them.
        self._first = bus.last_sequence

    async def run(self, publish: Commit, report: SourceReport) -> None:
        """Send until cancelled."""
        # What it needs is loaded only where a receiver is configured.
        from almenara.remote_write.client import RemoteWriteClient

        stored = await self.call(self.bus.load_all, self.owner)
        cursor = int(stored.get(CURSOR, self._first))
        async with RemoteWriteClient(self.settings) as client:
            run = Run(self, client, cursor, publish, report)
            await run.commit()
            while True:
                await run.send_next()

    async def call(self, call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Await a call on the event loop of the bus."""

        async def run() -> T:
            return await call(*arguments)

        if asyncio.get_running_loop() is self._home:
            return await run()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._home))


class Run:
    """One run, from a position in the log on."""

    def __init__(
        self,
        source: RemoteWriteSource,
        client: "RemoteWriteClient",
        cursor: int,
        publish: Commit,
        report: SourceReport,
    ) -> None:
        self.source, self.client, self.cursor = source, client, cursor
        self._publish, self.report = publish, report
        self._health = HealthAggregator(report)
        self._backoff = Backoff(BACKOFF_FIRST, BACKOFF_LIMIT, jitter=0.2)
        self._is_selected = select_metrics(source.settings.metrics)
        self._committed = cursor
        self._dropped, self._dropped_at = 0, 0
        self._lost_at = 0
        self._health.clear("receiver")

    async def commit(self) -> None:
        """Store the position."""
        await self._publish((), [(self.source.owner, CURSOR, str(self.cursor).encode())])
        self._committed = self.cursor

    async def send_next(self) -> None:
        """Send the next samples of the log, or wait until there may be some."""
        end = self.source.bus.last_sequence
        self._forget_drops()
        if end <= self.cursor or (batch := await self._read()) is None:
            await sleep(POLL_INTERVAL)
            return
        samples = [
            record.signal
            for record in batch.records
            if isinstance(record.signal, Sample) and self._is_selected(record.signal.metric)
        ]
        if samples:
            await self._send(samples)
        self.cursor = max(end, self.cursor) if batch.reached is None else batch.reached
        if samples or self.cursor - self._committed >= MOVED:
            await self.commit()
        self._report_lag()
        if batch.reached is None:
            await sleep(POLL_INTERVAL)

    async def _read(self) -> Batch | None:
        source = self.source
        query = read_after(self.cursor, int(source.retention_age * SECOND))
        try:
            batch: Batch = await source.call(source.bus.read, query)
        except (Unavailable, LimitExceeded) as error:
            self._health.note("log", f"the log cannot be read: {describe_error(error)}")
            return None
        self._health.clear("log")
        if batch.lost:
            self._lost_at = now()
            self._health.note(
                "lost",
                f"samples of {batch.lost:,.0f} s were deleted from the log"
                " (storage.sample_retention_age) before the receiver accepted them",
            )
        return batch

    async def _send(self, samples: Sequence[Sample]) -> None:
        """Send samples; of refused ones drop as few as `MAX_SPLITS` lets it find."""
        parts, splits = [samples], 0
        while parts:
            part = parts.pop(0)
            reason = await self._deliver(part)
            if not reason:
                continue
            if len(part) > 1 and splits < MAX_SPLITS:
                splits += 1
                middle = len(part) // 2
                parts[:0] = [part[:middle], part[middle:]]
            else:
                self._note_drop(len(part), reason)

    async def _deliver(self, samples: Sequence[Sample]) -> str:
        """Return once samples are stored, or the reason why the receiver refuses them."""
        from almenara.remote_write.client import ReceiverUnavailableError, SamplesRefusedError

        while True:
            try:
                await self.client.send(samples)
            except SamplesRefusedError as error:
                return str(error)
            except ReceiverUnavailableError as error:
                wait = max(self._backoff.failed(), error.retry_after)
                self._health.note(
                    "receiver",
                    f"samples wait in the log, because the receiver does not accept any: {error}."
                    f" They are sent once it does; after {self.source.retention_age:,.0f} s"
                    " (storage.sample_retention_age) the oldest are lost. Check the receiver, and"
                    " url, bearer and ca of samples.remote_write",
                )
                self._report_lag()
                await sleep(wait)
            else:
                self._backoff.succeeded()
                self._health.clear("receiver")
                return ""

    def _report_lag(self) -> None:
        bus = self.source.bus
        self.report.lag(bus.distance(self.cursor, bus.last_sequence))

    def _note_drop(self, count: int, reason: str) -> None:
        self._dropped += count
        self._dropped_at = now()
        self.report.rejected(count)
        self._health.note(
            "refused",
            f"{self._dropped:,} samples were refused by the receiver and dropped; its last answer:"
            f" {reason}. Check its limits, and whether another sender writes the same series",
        )

    def _forget_drops(self) -> None:
        if self._dropped_at and now() - self._dropped_at > DROPS_VISIBLE:
            self._dropped, self._dropped_at = 0, 0
            self._health.clear("refused")
        if self._lost_at and now() - self._lost_at > DROPS_VISIBLE:
            self._lost_at = 0
            self._health.clear("lost")


def select_metrics(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a metric has one of some names or patterns; without any, all have."""
    if not patterns:
        return lambda metric: True
    names = {pattern for pattern in patterns if compile_pattern(pattern) is None}
    expressions = [each for pattern in patterns if (each := compile_pattern(pattern)) is not None]
    return lambda metric: metric in names or any(each.fullmatch(metric) for each in expressions)


def read_after(cursor: int, retention_age: int) -> Callable[[sqlite3.Connection], Batch]:
    """Return the query of what follows a sequence of the log.

    The age is in microseconds by the log's own clock, which deletes what is older.
    """
    decoder = RowDecoder(is_quiet=True)

    def query(connection: sqlite3.Connection) -> Batch:
        rows = connection.execute(
            f"SELECT {OBSERVATION_COLUMNS} FROM observations WHERE sequence > ?"  # nosec B608 # constant fragments, bound values
            " ORDER BY sequence LIMIT ?",
            (cursor, READ_AT_ONCE),
        ).fetchall()
        reached = rows[-1][0] if len(rows) == READ_AT_ONCE else None
        (lost,) = connection.execute(
            "SELECT max(time) - (SELECT min(time) FROM clock WHERE sequence > ?) FROM clock"
            " WHERE sequence > ? AND time <= (SELECT max(time) FROM clock) - ?",
            (cursor, cursor, retention_age),
        ).fetchone()
        return Batch(decoder.observations(rows), reached, (lost or 0) / SECOND)

    return query
