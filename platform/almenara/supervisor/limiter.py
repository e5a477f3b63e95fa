"""The gate between a source and the bus: how much of it passes, and how fast."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from almenara.bus import Bus
from almenara.signals import Signal
from almenara.supervisor.state import SourceError, SourceState

SLICE: Final = 1_000
"""Signals handed to the bus at once, so that the batches of others come in between."""
SLICES_AT_ONCE: Final = 10


class FloodError(SourceError):
    """A source goes on publishing without waiting for what it published before."""


class Gate:
    """Holds a source back that publishes more than its rate; nothing of it is dropped.

    A batch above the rate waits its turn, which also holds its upstream back. What waits is
    bounded: a source that does not wait for `publish` to return ends with `FloodError`.
    """

    def __init__(
        self, bus: Bus, state: SourceState, *, rate: float, burst: int, waiting_limit: int
    ) -> None:
        self.bus, self.state = bus, state
        self.rate, self.burst, self.waiting_limit = rate, burst, waiting_limit
        self.waiting = 0
        self._credit = float(burst)
        self._refilled = time.monotonic()
        self._slices = asyncio.Semaphore(SLICES_AT_ONCE)

    async def publish(self, batch: Sequence[Signal]) -> None:
        """Return once the batch is durable. Raises `FloodError`, and what the bus raises."""
        size = len(batch)
        if self.waiting and self.waiting + size > self.waiting_limit:
            raise FloodError(
                f"it published {size:,} signals more while {self.waiting:,} were waiting already;"
                f" a source must wait for publish() to return, and it may publish"
                f" {self.rate:,.0f} signals a second"
            )
        self.waiting += size
        try:
            await self._take_turn(size)
            for start in range(0, size, SLICE) if size > SLICE else (0,):
                async with self._slices:
                    part = batch if size <= SLICE else batch[start : start + SLICE]
                    await self.bus.publish(part, self.state.name)
        finally:
            self.waiting -= size

    async def _take_turn(self, size: int) -> None:
        moment = time.monotonic()
        self._credit = min(self.burst, self._credit + (moment - self._refilled) * self.rate)
        self._refilled = moment
        self._credit -= size
        if self._credit < 0:
            self.state.held_back += size
            await asyncio.sleep(-self._credit / self.rate)
