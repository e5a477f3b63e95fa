"""The current time, and waiting. Tests replace the clock by one that they advance."""

import asyncio
import time
from contextvars import ContextVar
from typing import Final, Protocol


class Clock(Protocol):
    """A source of time."""

    def now(self) -> int:
        """Return microseconds since the Unix epoch."""

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait that many seconds."""


class SystemClock:
    """The clock of the machine."""

    def now(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


CLOCK: Final[ContextVar[Clock]] = ContextVar("clock", default=SystemClock())  # noqa: B039
"""The clock of the running task; tests of sources set one that they advance."""


def now() -> int:
    """Return microseconds since the Unix epoch."""
    return CLOCK.get().now()


def monotonic() -> float:
    """Return seconds since some moment; never goes back."""
    return CLOCK.get().monotonic()


async def sleep(seconds: float) -> None:
    """Wait that many seconds of the task's clock."""
    await CLOCK.get().sleep(seconds)
