"""The current time, and waiting. Tests replace the clock by one that they advance."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
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


class PastClock(SystemClock):
    """The clock of what is rendered as of a moment: its time stands still."""

    def __init__(self, moment: int) -> None:
        self._moment = moment

    def now(self) -> int:
        return self._moment


CLOCK: Final[ContextVar[Clock]] = ContextVar("clock", default=SystemClock())  # noqa: B039
"""The clock of the running task; tests of sources set one that they advance."""


@contextlib.contextmanager
def clock_at(moment: int | None) -> Iterator[None]:
    """Have `now` return a moment of the past in this task; None changes nothing."""
    if moment is None:
        yield
        return
    token = CLOCK.set(PastClock(moment))
    try:
        yield
    finally:
        CLOCK.reset(token)


def now() -> int:
    """Return microseconds since the Unix epoch."""
    return CLOCK.get().now()


def monotonic() -> float:
    """Return seconds since some moment; never goes back."""
    return CLOCK.get().monotonic()


async def sleep(seconds: float) -> None:
    """Wait that many seconds of the task's clock."""
    await CLOCK.get().sleep(seconds)
