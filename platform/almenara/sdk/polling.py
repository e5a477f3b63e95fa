"""Polling: at an interval with jitter, so that many sources do not poll at once, with backoff."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from almenara.clock import monotonic, sleep
from almenara.errors import describe_error
from almenara.hookspecs import SourceReport

JITTER: Final = 0.1


async def every(seconds: float, *, jitter: float = JITTER) -> AsyncIterator[int]:
    """Yield 0 at once, and then the next number every `seconds`.

    A wait varies by up to the share `jitter`. The time that the body takes is part of the wait;
    turns that it overran are skipped.
    """
    turn = 0
    while True:
        started = monotonic()
        yield turn
        turn += 1
        wait = seconds * (1 + random.uniform(-jitter, jitter))  # nosec B311 # spreads requests, guards nothing
        await sleep(max(started + wait - monotonic(), 0.0))


class Backoff:
    """The wait before the next retry: doubled after each failure, with jitter.

    `first` and `limit` are seconds; `jitter` is the share by which a wait varies.
    """

    def __init__(self, first: float, limit: float, *, jitter: float = 0.3) -> None:
        self.first, self.limit, self.jitter = first, limit, jitter
        self.failures = 0

    def succeeded(self) -> None:
        """Reset to the first wait."""
        self.failures = 0

    def failed(self) -> float:
        """Count a failure; return the seconds to wait."""
        # The limit applies after some doublings; thousands of them would overflow a float.
        wait = min(self.first * 2.0 ** min(self.failures, 32), self.limit)
        self.failures += 1
        return wait * (1 + random.uniform(-self.jitter, self.jitter))  # nosec B311 # spreads requests, guards nothing


async def poll(
    request: Callable[[], Awaitable[None]],
    *,
    seconds: float,
    report: SourceReport | None = None,
    transient: tuple[type[Exception], ...] = (OSError, TimeoutError),
    limit: float = 60.0,
    jitter: float = JITTER,
) -> None:
    """Call `request` every `seconds`, until cancelled.

    An error of the `transient` types degrades the source and makes the next wait longer, up to
    `limit` seconds; the first success resets both. Any other error is raised.
    """
    backoff = Backoff(seconds, max(limit, seconds))
    while True:
        started = monotonic()
        try:
            await request()
        except transient as error:
            wait = backoff.failed()
            if report is not None:
                report.degraded(
                    f"{describe_error(error)} (attempt {backoff.failures}, next in {wait:.0f} s)"
                )
        else:
            if report is not None:
                report.recovered()
            backoff.succeeded()
            wait = seconds * (1 + random.uniform(-jitter, jitter))  # nosec B311 # spreads requests, guards nothing
            wait -= monotonic() - started
        await sleep(max(wait, 0.0))
