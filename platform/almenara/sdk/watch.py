"""List and watch: follow a system from a position, through every way in which a watch ends."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from almenara.clock import monotonic, sleep
from almenara.errors import describe_error
from almenara.hookspecs import SourceReport
from almenara.sdk.polling import Backoff

Item = TypeVar("Item")
Position = TypeVar("Position")


class ExpiredError(Exception):
    """The position is too old to watch from: everything has to be listed again."""


async def watch(
    list_all: Callable[[], Awaitable[Position]],
    changes_after: Callable[[Position], AsyncIterator[tuple[Position, Item]]],
    accept: Callable[[Item], Awaitable[None]],
    *,
    resume: Position | None = None,
    report: SourceReport | None = None,
    transient: tuple[type[Exception], ...] = (OSError, TimeoutError),
    first: float = 0.5,
    limit: float = 30.0,
) -> None:
    """Follow a system that can be listed and watched, until cancelled.

    `list_all` processes everything and returns the position to watch from. `changes_after` yields
    each change with the position after it, and `accept` processes the change. After an end or a
    `transient` error the watch continues from the last accepted position, with backoff from `first`
    to `limit` seconds while it keeps failing; after `ExpiredError` everything is listed again.
    `resume` is a position from an earlier run.
    """
    position = resume
    backoff = Backoff(first, limit)
    while True:
        started = monotonic()
        try:
            if position is None:
                position = await list_all()
            if report is not None:
                report.recovered()
            async for after, item in changes_after(position):
                await accept(item)
                position = after
                backoff.succeeded()
        except ExpiredError:
            position = None
            wait = backoff.failed() if backoff.failures else 0.0
            backoff.failures = max(backoff.failures, 1)
        except transient as error:
            wait = backoff.failed()
            if report is not None:
                report.degraded(f"{describe_error(error)}; next retry in {wait:.0f} s")
        else:
            # A server that ends every watch at once would otherwise be queried without a pause.
            wait = backoff.failed() if monotonic() - started < first else 0.0
        await sleep(wait)
