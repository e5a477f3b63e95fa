"""What one user may take of the event loop: a number of channels, and a share of its time."""

import asyncio
import time
import types
from collections import Counter
from collections.abc import Coroutine, Generator
from typing import Any, Final, TypeVar

from almenara.errors import LimitExceeded
from almenara.panels.slices import SLICE

T = TypeVar("T")

LOOP_SHARE: Final = 0.25
"""The share of the event loop's time that the panels of one user get in the long run."""
BURST: Final = 0.25
"""Seconds of the loop's time that they may take at once, as when a page is opened."""


class UserBudget:
    """The channels of one user, and the time that rendering them takes.

    The steps of all panels of a user take turns: each reserves the time of a slice, paid off with
    `1 / LOOP_SHARE` times as much waiting. Up to `BURST` may be owed. Whatever a user has open,
    others wait for one slice of it at a time.
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

    @property
    def debt(self) -> float:
        """Seconds until everything is paid off."""
        return max(self._paid_off_at - time.monotonic(), 0.0)

    def reserve(self) -> float:
        """Reserve the time of a slice; the seconds to wait until it may be used."""
        delay = max(self.debt - BURST / LOOP_SHARE, 0.0)
        self._charge(SLICE)
        return delay

    def settle(self, seconds: float) -> None:
        """Correct a reservation by the time that was used."""
        self._charge(seconds - SLICE)

    def _charge(self, seconds: float) -> None:
        self._paid_off_at = max(self._paid_off_at, time.monotonic()) + seconds / LOOP_SHARE


@types.coroutine
def run_within(coroutine: Coroutine[Any, Any, T], budget: UserBudget) -> Generator[Any, Any, T]:
    """Run a coroutine so that each of its steps on the event loop waits for a user's budget.

    A step is what runs between two awaits. The time in which the coroutine waits, as for the
    database, is not charged.
    """
    error: BaseException | None = None
    value: Any = None
    while True:
        try:
            if error is None and (delay := budget.reserve()) > 0:
                yield from asyncio.sleep(delay).__await__()
        except BaseException as thrown:  # cancelled while it waited for its turn
            error = thrown
        started = time.perf_counter()
        try:
            step = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            budget.settle(time.perf_counter() - started)
        error = None
        try:
            value = yield step
        except BaseException as thrown:  # also cancellation and GeneratorExit
            error = thrown
