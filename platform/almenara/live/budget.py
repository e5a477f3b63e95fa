"""What one user may take of the event loop: a number of channels, and a share of its time."""

import time
import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar

from almenara.errors import LimitExceeded

T = TypeVar("T")

LOOP_SHARE: Final = 0.25
"""The share of the event loop's time that the panels of one user get in the long run."""
BURST: Final = 0.5
"""Seconds of the loop's time that they may take at once, as when a page is opened."""


class UserBudget:
    """The channels of one user, and the time that rendering them has taken.

    Each second of rendering has to be paid off with `1 / LOOP_SHARE` seconds of time. Until then,
    the user's channels render later, and those of others are not affected.
    """

    def __init__(self, channel_limit: int) -> None:
        self._channel_limit = channel_limit
        self._channels: Counter[str] = Counter()
        self._paid_off_at = 0.0

    def __len__(self) -> int:
        return len(self._channels)

    def add(self, channel: str) -> None:
        """Count a channel that a connection subscribes to. Raises `LimitExceeded`."""
        if channel not in self._channels and len(self._channels) >= self._channel_limit:
            raise LimitExceeded(
                f"You have {self._channel_limit} live panels open already. Close a tab and reload"
                " this page."
            )
        self._channels[channel] += 1

    def discard(self, channel: str) -> None:
        """Count a channel less: a connection that subscribed to it is closed."""
        self._channels[channel] -= 1
        if self._channels[channel] <= 0:
            del self._channels[channel]

    def charge(self, seconds: float) -> None:
        """Record time of the event loop that was spent on a panel of this user."""
        self._paid_off_at = max(self._paid_off_at, time.monotonic()) + seconds / LOOP_SHARE

    def delay(self) -> float:
        """Seconds to wait before the next panel of this user is rendered."""
        return max(self._paid_off_at - time.monotonic() - BURST / LOOP_SHARE, 0.0)


@types.coroutine
def measure_steps(
    coroutine: Coroutine[Any, Any, T], record: Callable[[float], None]
) -> Generator[Any, Any, T]:
    """Run a coroutine, and record the time that it kept the event loop busy.

    Unlike the time between its start and its end, that has no waiting in it, as for the database.
    """
    error: BaseException | None = None
    value: Any = None
    while True:
        started = time.perf_counter()
        try:
            step = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            record(time.perf_counter() - started)
        error = None
        try:
            value = yield step
        except BaseException as thrown:  # also cancellation and GeneratorExit
            error = thrown
