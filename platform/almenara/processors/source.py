"""A processor as a source: the supervisor runs it, and it follows the log from its own position."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

import structlog

from almenara.bus import MARKER, Record, StateChange
from almenara.clock import monotonic, now
from almenara.hookspecs import Processor, SourceReport
from almenara.processors.fold import Fold
from almenara.processors.state import CURSOR
from almenara.signals import Signal
from almenara.units import MINUTE, SECOND

log = structlog.get_logger(__name__)

SLICE: Final = 500
"""Records processed between two turns of the event loop."""
COMMIT_SIGNALS: Final = 1_000
"""Derived signals after which a part of a batch is committed."""
COMMIT_INTERVAL: Final = 1.0
"""Seconds after which changes that derived nothing are committed."""
TICK_INTERVAL: Final = 0.25
"""Minimum seconds between two ticks."""
GRACE: Final = 10.0
"""Seconds after a start in which no tick is published, so that sources can first publish what has
changed while the platform did not run."""
FAILURES_VISIBLE: Final = 10 * MINUTE
IDLE: Final = 3600.0

Commit = Callable[[Sequence[Signal], Sequence[StateChange]], Awaitable[None]]
"""Publishes derived signals, with changes of the state in the same transaction."""


class ProcessorBus(Protocol):
    """What a processor needs from the bus."""

    @property
    def last_sequence(self) -> int: ...

    def subscribe(self, after: int) -> AsyncIterator[list[Record]]: ...

    async def load_all(self, owner: str) -> dict[str, bytes]: ...

    def distance(self, after: int, through: int) -> int: ...


class ProcessorSource:
    """Runs one processor; a source for the supervisor. Create it on the event loop of the bus."""

    can_have_process = False
    """It reads the bus, which another process cannot."""

    def __init__(
        self, processor: Processor, plugin: str, bus: ProcessorBus, *, grace: float = GRACE
    ) -> None:
        self.processor, self.bus = processor, bus
        self.name = getattr(processor, "name", "") or plugin
        self.rate_limit = getattr(processor, "rate_limit", None)
        self.owner = f"processor/{self.name}"
        self._grace = grace
        self._home = asyncio.get_running_loop()
        # Known before sources start, so that a new processor misses nothing of them.
        self._first = 0 if getattr(processor, "from_start", False) else bus.last_sequence

    async def run(self, publish: Commit, report: SourceReport) -> None:
        """Follow the log until cancelled."""
        # An earlier run of this process may have queued a commit, which the state read below must
        # have.
        await publish((), [MARKER])
        stored = await self._call(self.bus.load_all, self.owner)
        if CURSOR not in stored:
            stored[CURSOR] = str(self._first).encode()
            await publish((), [(self.owner, CURSOR, stored[CURSOR])])
        cursor = int(stored[CURSOR])
        run = Run(self, Fold(self.processor, self.name, stored), cursor, publish, report)
        report.recovered()
        batches = self.bus.subscribe(cursor)
        try:
            await run.follow(lambda: self._call(anext, batches, None), self._grace)
        finally:
            # A reading that was cancelled closes the generator, perhaps a moment later.
            with contextlib.suppress(RuntimeError):
                await self._call(batches.aclose)  # type: ignore[attr-defined]

    async def _call(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Await a call on the event loop of the bus."""

        async def run() -> Any:
            return await call(*arguments)

        if asyncio.get_running_loop() is self._home:
            return await run()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._home))


class Run:
    """One run of a processor, from its position in the log on.

    While a commit is being written, the next signals are processed already; the commit after it has
    all that was derived meanwhile. There is one commit at a time, so commits are in the order of
    the log, and each has the state as of its position.
    """

    def __init__(
        self, source: ProcessorSource, fold: Fold, cursor: int, commit: Commit, report: SourceReport
    ) -> None:
        self.source, self.fold, self.cursor = source, fold, cursor
        self._commit_signals, self.report = commit, report
        self._derived: list[Signal] = []
        self._committing: asyncio.Future[None] | None = None
        self._committed, self._committed_at = cursor, monotonic()
        self._ticked_at = 0.0
        self._awaits_tick = False
        self._skipped, self._failed_at = 0, 0

    async def follow(
        self, read: Callable[[], Coroutine[Any, Any, list[Record] | None]], grace: float
    ) -> None:
        """Process the batches that `read` returns, and let time pass, until cancelled."""
        self._ticked_at = monotonic() + grace - TICK_INTERVAL
        reading = asyncio.ensure_future(read())
        try:
            while True:
                await asyncio.wait(
                    [task for task in (reading, self._committing) if task is not None],
                    timeout=self._seconds_until_due(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                self._note_commit()
                if reading.done():
                    if (batch := reading.result()) is None:
                        # The bus is closed, and the supervisor stops what reads it.
                        await asyncio.Event().wait()
                    else:
                        await self._process(batch)
                    reading = asyncio.ensure_future(read())
                self._commit_if_due()
                self._recover_if_due()
        finally:
            await _cancel([task for task in (reading, self._committing) if task is not None])

    async def _process(self, batch: Sequence[Record]) -> None:
        for start in range(0, len(batch), SLICE):
            for record in batch[start : start + SLICE]:
                if self._awaits_tick and self.fold.is_tick(record.signal):
                    self._awaits_tick = False
                self._derived += self.fold.accept(record)
                self.cursor = record.sequence
                if len(self._derived) >= COMMIT_SIGNALS:
                    await self._wait_for_commit()
                    self._commit()
            if len(batch) > SLICE:
                await asyncio.sleep(0)
        if failures := self.fold.take_failures():
            self._report_failures(failures)
        bus = self.source.bus
        self.report.lag(bus.distance(self.cursor, bus.last_sequence))

    # Commits

    def _commit(self, *more: Signal) -> None:
        """Start to commit what was derived, and `more`."""
        changes = [(self.source.owner, key, value) for key, value in self.fold.state.take_changes()]
        changes.append((self.source.owner, CURSOR, str(self.cursor).encode()))
        derived, self._derived = [*self._derived, *more], []
        self._committed, self._committed_at = self.cursor, monotonic()
        self._committing = asyncio.ensure_future(self._commit_signals(derived, changes))

    async def _wait_for_commit(self) -> None:
        if self._committing is not None:
            await asyncio.wait([self._committing])
            self._note_commit()

    def _note_commit(self) -> None:
        """Raise what a commit that has ended has raised."""
        if self._committing is not None and self._committing.done():
            committing, self._committing = self._committing, None
            committing.result()

    @property
    def _commit_due_in(self) -> float:
        if self._committing is not None:
            return IDLE
        if self._derived:
            return 0.0
        if (
            not self.fold.state.has_changes
            and self.source.bus.distance(self._committed, self.cursor) < SLICE
        ):
            # Records that it does not read are cheap to read again.
            return IDLE
        return max(self._committed_at + COMMIT_INTERVAL - monotonic(), 0.0)

    @property
    def _tick_due_in(self) -> float:
        timer = self.fold.state.next_timer
        if timer is None or self._awaits_tick or self._committing is not None:
            return IDLE
        until_timer = (timer[0] - now()) / SECOND
        return max(until_timer, self._ticked_at + TICK_INTERVAL - monotonic(), 0.0)

    def _commit_if_due(self) -> None:
        if self._tick_due_in == 0.0:
            self._awaits_tick = True
            self._ticked_at = monotonic()
            self._commit(self.fold.make_tick())
        elif self._commit_due_in == 0.0:
            self._commit()

    def _seconds_until_due(self) -> float:
        return min(self._commit_due_in, self._tick_due_in, IDLE)

    # Failures

    def _report_failures(self, failures: Sequence[str]) -> None:
        self._skipped += len(failures)
        self._failed_at = now()
        self.report.rejected(len(failures))
        self.report.degraded(
            f"{self._skipped:,} signals could not be processed and were skipped; the last is"
            f" {failures[-1]}"
        )

    def _recover_if_due(self) -> None:
        if self._failed_at and now() - self._failed_at > FAILURES_VISIBLE:
            self._skipped, self._failed_at = 0, 0
            self.report.recovered()


async def _cancel(tasks: Sequence["asyncio.Future[Any]"]) -> None:
    """Cancel tasks and wait until they have ended, whatever they raise."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            # Marks the exception as retrieved.
            task.exception()
