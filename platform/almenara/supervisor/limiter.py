"""The limiter between a source and the bus: how much of it passes, and how fast."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from almenara.bus import StateChange
from almenara.bus.validation import check_batch, check_origins
from almenara.leases import Publisher
from almenara.signals import Signal
from almenara.supervisor.state import SourceError, SourceState

SLICE: Final = 1_000
"""Signals handed to the bus at once, so that batches of other sources get in between."""
CONCURRENT_SLICES: Final = 10
CORE: Final = "alerts"
"""The plugin that stands for the core's own sources."""


class FloodError(SourceError):
    """A source keeps publishing without waiting for its earlier batches."""


class PublishLimiter:
    """Slows down a source that publishes above its rate; nothing of it is dropped.

    A batch above the rate waits for its turn, which slows down the upstream as well. The number of
    waiting signals is bounded: a source that does not wait for `publish` to return ends with
    `FloodError`.
    """

    def __init__(
        self, bus: Publisher, state: SourceState, *, rate: float, burst: int, waiting_limit: int
    ) -> None:
        self.bus, self.state = bus, state
        self.rate, self.burst, self.waiting_limit = rate, burst, waiting_limit
        self.waiting = 0
        # A token bucket: `rate` tokens a second, `burst` at most, one for each signal.
        self._tokens = float(burst)
        self._refilled = time.monotonic()
        self._slices = asyncio.Semaphore(CONCURRENT_SLICES)

    async def publish(self, batch: Sequence[Signal], changes: Sequence[StateChange] = ()) -> None:
        """Return once the batch is durable. Raises `FloodError`, and what the bus raises.

        With changes of a state, the batch is written in one transaction with them.
        """
        check_batch(batch)
        if self.state.plugin != CORE:
            check_origins(batch)
        size = len(batch)
        if self.waiting and self.waiting + size > self.waiting_limit:
            raise FloodError(
                f"it published {size:,} more signals while {self.waiting:,} were waiting;"
                f" a source must wait for publish() to return, and it may publish"
                f" {self.rate:,.0f} signals per second"
            )
        self.waiting += size
        try:
            await self._wait_for_tokens(size)
            is_sliced = size > SLICE and not changes
            for start in range(0, size, SLICE) if is_sliced else (0,):
                async with self._slices:
                    part = batch[start : start + SLICE] if is_sliced else batch
                    await self.bus.publish(part, self.state.name, changes)
        finally:
            self.waiting -= size

    async def _wait_for_tokens(self, size: int) -> None:
        moment = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (moment - self._refilled) * self.rate)
        self._refilled = moment
        self._tokens -= size
        if self._tokens < 0:
            self.state.throttled += size
            await asyncio.sleep(-self._tokens / self.rate)
