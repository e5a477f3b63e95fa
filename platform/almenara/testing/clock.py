"""A clock that stands still until a test advances it."""

import asyncio
import heapq
import itertools
import time
from typing import Final

PATIENCE: Final = 5.0
SETTLED: Final = 3
"""Equal counts of waits in a row after which everything is considered to wait."""
STEP: Final = 0.002


class ManualClock:
    """The time of everything that waits with `almenara.sdk`: `every`, `poll`, `watch`, `sleep`."""

    def __init__(self, start: int = 1_767_225_600_000_000) -> None:
        self._start, self._passed = start, 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = itertools.count()

    def now(self) -> int:
        """Microseconds since the epoch."""
        return self._start + round(self._passed * 1_000_000)

    def monotonic(self) -> float:
        """Seconds since the clock was created."""
        return self._passed

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by `seconds`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(
            self._sleepers, (self._passed + max(seconds, 0.0), next(self._number), future)
        )
        await future

    def shift(self, seconds: float) -> None:
        """Let time pass where no task waits for it."""
        self._passed += seconds

    @property
    def sleeping(self) -> int:
        """The number of waits on this clock."""
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[2].done()]
        heapq.heapify(self._sleepers)
        return len(self._sleepers)

    async def settle(self) -> None:
        """Return once every task waits. Raises `AssertionError` where none waits on this clock."""
        end, before, same = time.monotonic() + PATIENCE, 0, 0
        while same < SETTLED:
            if time.monotonic() > end:
                raise AssertionError(
                    f"nothing has waited on the clock for {PATIENCE:g} s; wait with every, poll or"
                    " sleep of almenara.sdk, so that a test can control the time"
                )
            await asyncio.sleep(STEP)
            sleeping = self.sleeping
            same = same + 1 if sleeping and sleeping == before else 0
            before = sleeping

    async def advance(self, seconds: float) -> None:
        """Let time pass: wake each wait at its moment, and let its task run on to the next."""
        end = self._passed + seconds
        await self.settle()
        while self.sleeping and self._sleepers[0][0] <= end:
            when, _, future = heapq.heappop(self._sleepers)
            self._passed = max(self._passed, when)
            future.set_result(None)
            await self.settle()
        self._passed = end
