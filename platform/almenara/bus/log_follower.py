"""Follows a shared log: every message becomes an entry that the local index applies."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

import structlog

from almenara.bus import codec
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.log_message import LogBatch, PartAssembler, decode_batch
from almenara.bus.wire import from_wire
from almenara.bus.work import MAX_PLACES, LogEntry, LogPosition
from almenara.errors import AlmenaraError, Unavailable, describe_error
from almenara.shared_log import LogBounds, LogMessage, LogSession
from almenara.signals import Signal

log = structlog.get_logger(__name__)

LAG_INTERVAL: Final = 0.5
"""Seconds between two looks at the end of the log."""
LARGE: Final = 16_384
"""Bytes of a batch that is decoded in a thread, so that the event loop goes on."""


class LogDivergedError(AlmenaraError):
    """The local index is not of this log; the text has the reason."""


class LogFollower:
    """Applies the messages of one session after another to the index."""

    def __init__(
        self,
        index: EmbeddedBus,
        position: LogPosition | None,
        on_applied: Callable[[bytes, Exception | None], None],
        report: Callable[[str | None], None],
    ) -> None:
        """`report` is called with why the log cannot be used, and with None once it can."""
        self.index = index
        self._on_applied, self._report = on_applied, report
        self.queued = position
        """The last message that the index has, or has in its queue."""
        self.applied = 0 if position is None else position.position
        """Position of the last message that the index has."""
        self.caught_up = asyncio.Event()
        """Set while the index has everything that the log had when the session was opened."""
        self.was_caught_up = False
        """Whether it was set before: the index is not new."""
        self.is_reading = False
        """Whether the log delivers: servers without a leader still answer where the log ends."""
        self.bounds: LogBounds | None = None
        """Which messages the log has, as last observed."""
        self._identity = ""
        self._target = 0
        self._next = 1
        """The first message that is still needed: no later one may be applied before it."""
        self._assembler = PartAssembler()
        self._unreached: deque[tuple[float, int]] = deque()
        """When the end of the log was seen at which position, as far as it is not applied."""

    @property
    def lag(self) -> float:
        """Seconds by which the index is behind the log."""
        while self._unreached and self._unreached[0][1] <= self.applied:
            self._unreached.popleft()
        return monotonic() - self._unreached[0][0] if self._unreached else 0.0

    async def run(self, session: LogSession) -> None:
        """Apply the messages of a session until it ends.

        Raises `LogDivergedError`, and what the session raises.
        """
        bounds = self.bounds = await session.bounds()
        start = self._find_start(bounds)
        # What is incomplete is read again, as the session before has ended at any moment.
        self._assembler = PartAssembler()
        self._identity, self._target = bounds.identity, bounds.last
        self._unreached.clear()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._measure_lag(session))
                group.create_task(self._apply_messages(session, start))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self.is_reading = False
            self.caught_up.clear()

    async def _apply_messages(self, session: LogSession, start: int) -> None:
        async for messages in session.read(start):
            if not self.is_reading:
                self.is_reading = True
                self._note_applied(self.applied)
            for message in messages:
                await self._accept(message)

    def _find_start(self, bounds: LogBounds) -> int:
        """Return where to read; raises `LogDivergedError` where that cannot lead to this index."""
        queued = self.queued
        self._next = 1 if queued is None else queued.position + 1
        if queued is None:
            if bounds.first > 1:
                raise LogDivergedError(
                    f"the shared log starts at message {bounds.first:,}, and this replica has"
                    " nothing of what was before"
                )
            return 1
        if queued.identity != bounds.identity:
            raise LogDivergedError("the shared log was deleted and created again")
        if queued.position > bounds.last:
            raise LogDivergedError(
                f"the shared log ends at message {bounds.last:,}, and this replica has applied"
                f" message {queued.position:,}: the log has lost its newest messages"
            )
        if bounds.first > self._next:
            raise LogDivergedError(
                f"the shared log starts at message {bounds.first:,}, and this replica has applied"
                f" messages up to {queued.position:,} only: those between are deleted"
            )
        # The last message is read again: another one in its place shows that the log has lost it.
        # A batch whose first part is deleted was given up by its publisher long before.
        return max(min(queued.resume_at, queued.position), bounds.first)

    async def _accept(self, message: LogMessage) -> None:
        if message.position > self._next:
            # Limits delete what a reader that is slower has not read, without a word to it.
            raise LogDivergedError(
                f"the shared log continues with message {message.position:,}, and this replica has"
                f" not read message {self._next:,} yet: those between are deleted"
            )
        self._next = max(self._next, message.position + 1)
        queued = self.queued
        if queued is not None and message.position <= queued.position:
            if message.position == queued.position and message.stored_at != queued.stored_at:
                raise LogDivergedError(
                    f"the shared log has another message {message.position:,} than the one that"
                    " this replica has applied: it has lost its newest messages"
                )
            self._assemble(message, is_repeated=True)
            return
        completed = self._assemble(message)
        batch_id, batch = b"", LogBatch("", 0)
        signals: list[Signal] = []
        if completed is not None:
            batch_id, content = completed
            decode = decode_entry if len(content) < LARGE else decode_entry_in_thread
            try:
                batch, signals = await decode(content)
            except ValueError as error:
                report_invalid(message, error)
        at = LogPosition(
            identity=self._identity,
            position=message.position,
            stored_at=message.stored_at,
            resume_at=self._assembler.resume_at(message.position),
        )
        entry = LogEntry(
            signals,
            batch.origin,
            lambda refused: self._finish(batch_id, message.position, refused),
            changes=batch.changes,
            at=at,
            token=batch.token,
        )
        await self.index.wait_for_space()
        self.queued = at
        self.index.apply(entry)

    def _assemble(
        self, message: LogMessage, *, is_repeated: bool = False
    ) -> tuple[bytes, bytes] | None:
        try:
            return self._assembler.add(message, is_repeated=is_repeated)
        except ValueError as error:
            report_invalid(message, error)
            return None

    def _finish(self, batch_id: bytes, position: int, refused: Exception | None) -> None:
        self._on_applied(batch_id, refused)
        self._note_applied(position)

    def _note_applied(self, position: int) -> None:
        self.applied = position
        is_complete = self.is_reading and position >= self._target
        if is_complete and not self.caught_up.is_set():
            self.caught_up.set()
            self.was_caught_up = True
            self._report(None)

    async def _measure_lag(self, session: LogSession) -> None:
        is_failing = False
        while True:
            try:
                self.bounds = await session.bounds()
            except (Unavailable, TimeoutError, OSError) as error:
                # Its servers may be without a leader; the reader knows when the session is over.
                is_failing = True
                self._report(describe_error(error))
            else:
                if is_failing and self.caught_up.is_set():
                    is_failing = False
                    self._report(None)
                if (last := self.bounds.last) > self.applied:
                    self._unreached.append((monotonic(), last))
            await asyncio.sleep(LAG_INTERVAL)


async def decode_entry(content: bytes) -> tuple[LogBatch, list[Signal]]:
    """Return a batch and its signals. Raises `ValueError`."""
    return _decode(content)


async def decode_entry_in_thread(content: bytes) -> tuple[LogBatch, list[Signal]]:
    """As `decode_entry`, off the event loop."""
    return await asyncio.to_thread(_decode, content)


def _decode(content: bytes) -> tuple[LogBatch, list[Signal]]:
    batch = decode_batch(content)
    if len(batch.signals) > MAX_PLACES:
        raise ValueError(f"it has {len(batch.signals):,} signals; at most {MAX_PLACES:,} may be")
    # Checked once more, since another program may have appended it.
    return batch, [codec.normalize(from_wire(signal), batch.origin) for signal in batch.signals]


def report_invalid(message: LogMessage, error: ValueError) -> None:
    """Log that a message is left out, by every replica alike."""
    log.error(
        "a message of the shared log is not a batch and is left out",
        position=message.position,
        reason=describe_error(error),
    )
