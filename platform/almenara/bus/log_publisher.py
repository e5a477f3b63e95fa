"""Publishes batches to the shared log, and waits until the index of this replica has them."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Final

from almenara.bus import BusClosedError, BusCounters, StateChange
from almenara.bus.codec import Redact
from almenara.bus.ingest import IngestRules, normalize_batch
from almenara.bus.log_link import LogLink
from almenara.bus.log_message import LogBatch, encode_batch
from almenara.bus.wire import to_wire
from almenara.bus.work import MAX_PLACES
from almenara.config import StorageSettings
from almenara.errors import Unavailable, describe_error
from almenara.signals import Signal

IN_THREAD: Final = 20
"""Signals of a batch that is encoded in a thread, so that the event loop goes on."""


class LogPublisher:
    """Appends batches. `link` is set once it exists; `close` ends what waits."""

    link: LogLink

    def __init__(self, settings: StorageSettings, redact: Redact | None) -> None:
        self.settings, self._redact = settings, redact
        self._rules = IngestRules(settings.ingest_rules)
        self._pending: dict[bytes, asyncio.Future[None]] = {}
        """By the id of a batch: set once the index has it."""
        self._waiting = 0
        """Signals that are published and not yet applied."""
        self._has_space = asyncio.Event()
        self._closed = False

    def close(self) -> None:
        """Refuse what waits, and what follows."""
        self._closed = True
        self._has_space.set()
        for done in self._pending.values():
            if not done.done():
                done.set_exception(BusClosedError("the bus is closed"))

    def note_applied(self, batch_id: bytes, refused: Exception | None) -> None:
        """Note that the index has a batch, or why it does not store it."""
        done = self._pending.get(batch_id)
        if done is None or done.done():
            return
        if refused is None:
            done.set_result(None)
        else:
            done.set_exception(refused)

    async def publish(
        self,
        signals: Sequence[Signal],
        origin: str,
        changes: Sequence[StateChange],
        token: int,
        counters: BusCounters,
    ) -> None:
        """Return once the batch is in the log and in the index."""
        for start in range(0, max(len(signals), 1), MAX_PLACES):
            is_last = start + MAX_PLACES >= len(signals)
            part = tuple(signals[start : start + MAX_PLACES])
            await self._wait_for_space()
            self._waiting += len(part)
            try:
                await self._publish(part, origin, changes if is_last else (), token, counters)
            finally:
                self._waiting -= len(part)
                self._has_space.set()

    async def _wait_for_space(self) -> None:
        while self._waiting >= self.settings.max_queued_signals and not self._closed:
            self._has_space.clear()
            await self._has_space.wait()

    async def _publish(
        self,
        signals: Sequence[Signal],
        origin: str,
        changes: Sequence[StateChange],
        token: int,
        counters: BusCounters,
    ) -> None:
        if self._closed:
            raise BusClosedError("the bus is closed")
        if len(signals) < IN_THREAD:
            batch, left_out = self._prepare(signals, origin, changes, token)
        else:
            batch, left_out = await asyncio.to_thread(
                self._prepare, signals, origin, changes, token
            )
        counters.count_left_out(origin, left_out)
        if not batch.signals and not batch.changes:
            return
        batch_id = uuid.uuid4().bytes
        done = self._pending[batch_id] = asyncio.get_running_loop().create_future()
        try:
            await self._append(batch, batch_id, done)
        finally:
            del self._pending[batch_id]
            if not done.cancel() and not done.cancelled():
                # Read here, as the publisher may have been cancelled meanwhile.
                done.exception()

    def _prepare(
        self, signals: Sequence[Signal], origin: str, changes: Sequence[StateChange], token: int
    ) -> tuple[LogBatch, int]:
        normalized, left_out = normalize_batch(signals, origin, self._redact, self._rules)
        wired = [to_wire(signal) for signal in normalized]
        return LogBatch(origin, token, wired, list(changes)), left_out

    async def _append(self, batch: LogBatch, batch_id: bytes, done: "asyncio.Future[None]") -> None:
        """Append a batch, again and again, until the index has it.

        It is stored once: within a session because of its id, and after an interruption because
        the index first applies everything that the log has.
        """
        while (session := await self.link.wait_for_session(done)) is not None:
            parts = await self._encode(batch, batch_id, session.max_bytes)
            try:
                for number, part in enumerate(parts):
                    await session.append(part, f"{batch_id.hex()}-{number}")
            except (Unavailable, TimeoutError, OSError) as error:
                self.link.report(describe_error(error))
                await asyncio.wait([done], timeout=self.settings.write_retry_interval)
            else:
                self.link.report(None)
                await self.link.wait_for_end(session, done)
        done.result()

    async def _encode(self, batch: LogBatch, batch_id: bytes, max_bytes: int) -> list[bytes]:
        if len(batch.signals) < IN_THREAD:
            return encode_batch(batch, batch_id, max_bytes)
        return await asyncio.to_thread(encode_batch, batch, batch_id, max_bytes)
