"""Signals on their way to the bus, in order, with backpressure."""

import asyncio
from collections.abc import Sequence
from typing import Final

from almenara.hookspecs import Publish
from almenara.signals import Signal

CAPACITY: Final = 10_000
"""Signals that wait for the bus before the watches are read no further."""
BATCH: Final = 2_000


class Outbox:
    """Publishes signals in order; adding more than the bus takes waits.

    Samples are published while nothing else waits: thousands of them arrive at once, and viewers
    wait for changes.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._waiting: list[Signal] = []
        self._samples: asyncio.Queue[Sequence[Signal]] = asyncio.Queue(maxsize=1)
        self._has_signals, self._has_room = asyncio.Event(), asyncio.Event()
        self._has_room.set()

    async def add(self, signals: Sequence[Signal]) -> None:
        """Add signals; returns when there is room for more."""
        if signals:
            self.put(signals)
            await self._has_room.wait()

    def put(self, signals: Sequence[Signal]) -> None:
        """Add signals without waiting, where there are few and seldom any."""
        if not signals:
            return
        self._waiting += signals
        self._has_signals.set()
        if len(self._waiting) > CAPACITY:
            self._has_room.clear()

    async def add_samples(self, samples: Sequence[Signal]) -> None:
        """Add samples; returns when those before them are about to be published."""
        if samples:
            await self._samples.put(samples)
            self._has_signals.set()

    async def run(self) -> None:
        """Publish, until cancelled."""
        while True:
            await self._has_signals.wait()
            if self._waiting:
                batch: Sequence[Signal] = self._waiting[:BATCH]
                self._waiting = self._waiting[BATCH:]
                if len(self._waiting) <= CAPACITY:
                    self._has_room.set()
            else:
                batch = self._samples.get_nowait()
            if not self._waiting and self._samples.empty():
                self._has_signals.clear()
            await self._publish(batch)
