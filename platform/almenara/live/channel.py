"""A channel: a panel with filters and a scope, rendered once for all its viewers."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

import structlog

from almenara.bus import Record
from almenara.live.budget import UserBudget, run_within
from almenara.live.frames import Frame, make_frame
from almenara.live.outbox import Counters, Outbox
from almenara.panels.filters import PanelFilters
from almenara.panels.panel import Panel
from almenara.panels.renderer import Renderer
from almenara.panels.view import View

log = structlog.get_logger(__name__)

RETRY_DELAY: Final = 1.0
"""Seconds after which a channel that raised tries again."""
IDLE_RATIO: Final = 4.0
"""How much longer than it takes to render and send a panel its channel is idle, at least: so all
channels together use about a fifth of the processor, however many viewers they have."""
MAX_BYTES_PER_SECOND: Final = 1_000_000
"""Bytes of frames that one channel sends to a browser in a second, at most: a map of thousands of
things is sent less often than a short list."""
SHARED_BY_MANY: Final = 16
"""From this many users on, a channel is charged to no one: each would owe next to nothing."""

T = TypeVar("T")


class Channel:
    """A panel with one set of filters, for one scope.

    It renders when a signal may have changed the panel, or when the panel's refresh is due, and
    sends the frame to every subscriber. The subclasses for events and logs send only new rows.
    """

    def __init__(
        self,
        key: str,
        panel: Panel,
        filters: PanelFilters,
        view: View,
        renderer: Renderer,
        counters: Counters,
    ) -> None:
        self.key, self.panel, self.filters = key, panel, filters
        self.view, self.renderer, self.counters = view, renderer, counters
        self.outboxes: set[Outbox] = set()
        self.ready, self.attempted = asyncio.Event(), asyncio.Event()
        self.interval = max(panel.min_interval, 1 / view.settings.ticks_per_second)
        self.target = f"#{panel.anchor_for(filters)}"
        self.task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._frame: Frame | None = None
        self._send_seconds = 0.0
        self.budgets: Counter[UserBudget] = Counter()
        """The users who are subscribed, with the number of their connections."""

    @property
    def exact_match(self) -> tuple[str, str] | None:
        """A field, and the value that every event has there which concerns this channel."""
        return None

    @property
    def last_sent(self) -> int | None:
        return None

    def catch_up(self, outbox: Outbox, after: int | None) -> None:
        outbox.send_state(self, after, [self.snapshot()])

    def accept(self, batch: Sequence[Record]) -> None:
        """Note what a batch changes; all of its signals are within the channel's scope."""
        if not self._changed.is_set() and self.panel.is_affected(batch, self.filters):
            self._changed.set()

    def mark_changed(self) -> None:
        """Have the panel rendered at the next tick."""
        self._changed.set()

    def snapshot(self) -> Frame:
        """Everything that the panel shows, as of the last tick."""
        if self._frame is None:
            raise RuntimeError(f"the channel {self.key} has not been rendered yet")
        return self._frame

    async def open(self) -> None:
        """Render for the first time."""
        self._frame = await self._render()

    async def tick(self) -> Frame | None:
        """Render what changed since the last tick; None where nothing did."""
        frame = await self._render()
        if self._frame is not None and frame.text == self._frame.text:
            return None
        self._frame = frame
        return frame

    async def _render(self) -> Frame:
        content = await self.panel.render(self.view, self.filters, self.renderer)
        self.counters.renders += 1
        return make_frame(content, self.target, "innerMorph", panel=self.panel.name)

    def mark_sent(self) -> None:
        """Note that the last frame was sent to all subscribers."""

    @property
    def min_pause(self) -> float:
        """Seconds between two ticks, at least."""
        return self.interval

    async def run(self) -> None:
        """Open, then tick: at once after a quiet time, and no more often than the interval."""
        is_failing = False
        try:
            while True:
                spent, size = 0.0, 0
                if self.ready.is_set():
                    await self._wait_for_change()
                started = time.monotonic()
                try:
                    if not self.ready.is_set():
                        await self._open()
                    else:
                        frame = await self._within_budget(self.tick())
                        if frame is not None:
                            self._send(frame)
                            size = frame.size
                        spent = time.monotonic() - started
                    is_failing = False
                except Exception:
                    # A panel that cannot be rendered must not end the channels of others.
                    if not is_failing:
                        log.exception("a channel failed", channel=self.key)
                    is_failing = True
                    self._changed.set()
                    spent = time.monotonic() - started
                    await asyncio.sleep(RETRY_DELAY)
                # What takes long, be it a query over millions of events or five thousand
                # browsers on this channel or on all, is done less often.
                idle = IDLE_RATIO * max(spent, self.counters.send_seconds)
                await asyncio.sleep(max(self.min_pause, idle, size / MAX_BYTES_PER_SECOND))
        finally:
            self._record_send_seconds(0.0)

    async def _open(self) -> None:
        """Open, and send the state to those who wait for it. Raises what `open` raises."""
        try:
            await self._within_budget(self.open())
        finally:
            self.attempted.set()
        self.ready.set()
        for outbox in self.outboxes:
            outbox.catch_up(self)

    async def _within_budget(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the work at the expense of the subscribed user who owes least, if there is one."""
        if not self.budgets or len(self.budgets) > SHARED_BY_MANY:
            return await work
        return await run_within(work, min(self.budgets, key=lambda budget: budget.debt))

    async def _wait_for_change(self) -> None:
        if not self._changed.is_set():
            self._record_send_seconds(0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.panel.refresh):
                    await self._changed.wait()
        self._changed.clear()

    def _send(self, frame: Frame) -> None:
        started = time.monotonic()
        # Without an await, so that no subscriber comes or goes meanwhile.
        for outbox in self.outboxes:
            outbox.send(self, frame)
        self.mark_sent()
        self._record_send_seconds(time.monotonic() - started)

    def _record_send_seconds(self, seconds: float) -> None:
        self.counters.send_seconds += seconds - self._send_seconds
        self._send_seconds = seconds
