"""Asking again and again: with jitter, so that many do not ask at once, and backing off."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from almenara.clock import monotonic, sleep
from almenara.errors import describe_error
from almenara.hookspecs import SourceReport

JITTER: Final = 0.1


async def every(seconds: float, *, jitter: float = JITTER) -> AsyncIterator[int]:
    """Yield 0 at once and then the next number every so many seconds.

    A wait varies by up to the share `jitter`. What the body takes counts as part of the wait, and
    turns that it overran are left out, not made up for.
    """
    turn = 0
    while True:
        began = monotonic()
        yield turn
        turn += 1
        wait = seconds * (1 + random.uniform(-jitter, jitter))  # nosec B311 # spreads requests, guards nothing
        await sleep(max(began + wait - monotonic(), 0.0))


class Backoff:
    """How long to wait before the next try: doubled after each failure, and never the same twice.

    `first` and `limit` are seconds; `jitter` is the share by which a wait varies.
    """

    def __init__(self, first: float, limit: float, *, jitter: float = 0.3) -> None:
        self.first, self.limit, self.jitter = first, limit, jitter
        self.failures = 0

    def succeeded(self) -> None:
        """Start over."""
        self.failures = 0

    def failed(self) -> float:
        """Note a failure; the seconds to wait."""
        # Beyond some doublings the limit holds, and a float has no room for thousands of them.
        wait = min(self.first * 2.0 ** min(self.failures, 32), self.limit)
        self.failures += 1
        return wait * (1 + random.uniform(-self.jitter, self.jitter))  # nosec B311 # spreads requests, guards nothing


async def poll(
    ask: Callable[[], Awaitable[None]],
    *,
    seconds: float,
    report: SourceReport | None = None,
    transient: tuple[type[Exception], ...] = (OSError, TimeoutError),
    limit: float = 60.0,
    jitter: float = JITTER,
) -> None:
    """Call `ask` every so many seconds, until cancelled.

    An error of the `transient` types degrades the source and makes the next wait longer, up to
    `limit` seconds; the first success brings both back. Any other error is raised.
    """
    backoff = Backoff(seconds, max(limit, seconds))
    while True:
        began = monotonic()
        try:
            await ask()
        except transient as error:
            wait = backoff.failed()
            if report is not None:
                report.degraded(
                    f"{describe_error(error)}; tried {backoff.failures} times, next in {wait:.0f} s"
                )
        else:
            if report is not None:
                report.recovered()
            backoff.succeeded()
            wait = seconds * (1 + random.uniform(-jitter, jitter))  # nosec B311 # spreads requests, guards nothing
            wait -= monotonic() - began
        await sleep(max(wait, 0.0))
