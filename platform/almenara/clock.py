"""What time it is, and waiting: one clock that tests can hold in their hand."""

import asyncio
import time
from contextvars import ContextVar
from typing import Final, Protocol


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> int:
        """Microseconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The time of the machine."""

    def now(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


CLOCK: Final[ContextVar[Clock]] = ContextVar("clock", default=SystemClock())  # noqa: B039
"""The clock of the running task; tests of sources put one here that they advance themselves."""


def now() -> int:
    """Microseconds since the Unix epoch."""
    return CLOCK.get().now()


def monotonic() -> float:
    """Seconds since some moment; never goes back."""
    return CLOCK.get().monotonic()


async def sleep(seconds: float) -> None:
    """Wait that many seconds of the clock."""
    await CLOCK.get().sleep(seconds)
