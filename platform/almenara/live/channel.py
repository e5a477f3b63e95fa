"""A channel: a panel with a filter, rendered once for all the browsers that look at it."""

import asyncio
import contextlib
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from almenara.bus import Record
from almenara.live.outbox import Counters, Outbox
from almenara.panels.event_rows import row
from almenara.panels.panel import Panel, View
from almenara.panels.renderer import Frame, Renderer, envelope, query
from almenara.signals import Event

log = structlog.get_logger(__name__)

MISSED_COUNTED: Final = 500
RETRY: Final = 1.0
IDLE_SHARE: Final = 4.0
"""How much longer than it takes to draw a panel and to send it its channel then rests, at least:
so all channels together take about a fifth of the processor, however many look at them."""
READ_PER_SECOND: Final = 1_000_000
"""Bytes of frames that a browser is given to read in a second by one channel, at most: a map of
thousands of things comes less often than a short list."""
RUSHED: Final = 2.0
"""How many times its pace a list rests while each tick would bring as many rows as it shows."""
RUSH: Final = 0.9
"""The share of its rows from which on that is so."""


class Channel:
    """One panel with one set of filter values."""

    def __init__(
        self,
        key: str,
        panel: Panel,
        chosen: Any,
        view: View,
        renderer: Renderer,
        counters: Counters,
    ) -> None:
        self.key, self.panel, self.filter = key, panel, chosen
        self.view, self.renderer, self.counters = view, renderer, counters
        self.outboxes: set[Outbox] = set()
        self.ready = asyncio.Event()
        self.pace = max(panel.pace, 1 / view.settings.ticks_per_second)
        self.target = f"#{panel.anchor}"
        self.task: asyncio.Task[None] | None = None
        self._touched = asyncio.Event()
        self._frame: Frame | None = None
        self._sending = 0.0

    @property
    def named(self) -> tuple[str, str] | None:
        """The field and the value of it that all events have that concern this channel."""
        return None

    @property
    def sent(self) -> int | None:
        """The newest row that who kept up was sent; None where there are no rows."""
        return None

    def bring_up_to_date(self, outbox: Outbox, after: int | None) -> None:
        """Send a browser what is current; `after` is the newest row that it shows, if any."""
        outbox.bring(self, after, [self.snapshot()])

    def accept(self, batch: Sequence[Record]) -> None:
        """Note what a batch changes."""
        if not self._touched.is_set() and self.panel.touched_by(batch, self.filter):
            self._touched.set()

    def touch(self) -> None:
        """Have it drawn again."""
        self._touched.set()

    def snapshot(self) -> Frame:
        """All that the panel shows, as of its last tick."""
        if self._frame is None:
            raise RuntimeError(f"the channel {self.key} has not been rendered yet")
        return self._frame

    async def open(self) -> None:
        """Render for the first time."""
        self._frame = await self._render()

    async def tick(self) -> Frame | None:
        """What changed since the last tick."""
        frame = await self._render()
        if self._frame is not None and frame.text == self._frame.text:
            return None
        self._frame = frame
        return frame

    async def _render(self) -> Frame:
        content = await self.panel.render(self.view, self.filter, self.renderer)
        self.counters.renders += 1
        return envelope(content, self.target, "innerMorph", panel=self.panel.name)

    def was_sent(self) -> None:
        """Note that all who keep up have been sent everything."""

    @property
    def rest(self) -> float:
        """Seconds between two ticks, at least."""
        return self.pace

    async def run(self) -> None:
        """Open, then tick: at once when idle, and no more often than the pace."""
        opened = False
        try:
            while True:
                spent, size = 0.0, 0
                try:
                    if not opened:
                        await self.open()
                        opened = True
                        self.ready.set()
                    else:
                        await self._wait()
                        began = time.monotonic()
                        frame = await self.tick()
                        if frame is not None:
                            self._send(frame)
                            size = frame.size
                        spent = time.monotonic() - began
                except Exception:
                    # One panel that cannot be drawn must not take the others' channels with it.
                    log.exception("a panel could not be rendered", channel=self.key)
                    self._touched.set()
                    await asyncio.sleep(RETRY)
                # What takes long, be it a query over millions of events or five thousand
                # browsers on this channel or on all, is done less often.
                rest = IDLE_SHARE * max(spent, self.counters.sending)
                await asyncio.sleep(max(self.rest, rest, size / READ_PER_SECOND))
        finally:
            self._note_sending(0.0)

    async def _wait(self) -> None:
        """Until there is something to draw."""
        if not self._touched.is_set():
            self._note_sending(0.0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.panel.refresh):
                    await self._touched.wait()
        self._touched.clear()

    def _send(self, frame: Frame) -> None:
        began = time.monotonic()
        # Without an await, so that nobody joins or leaves meanwhile.
        for outbox in self.outboxes:
            outbox.put(self, frame)
        self.was_sent()
        self._note_sending(time.monotonic() - began)

    def _note_sending(self, seconds: float) -> None:
        self.counters.sending += seconds - self._sending
        self._sending = seconds


class EventChannel(Channel):
    """A list of events: each row is rendered once, and only new rows are sent."""

    def __init__(
        self,
        key: str,
        panel: Panel,
        chosen: Any,
        view: View,
        renderer: Renderer,
        counters: Counters,
    ) -> None:
        super().__init__(key, panel, chosen, view, renderer, counters)
        visible = view.settings.visible_events
        self.shown: deque[tuple[int, str]] = deque(maxlen=visible)
        self._new: deque[Record] = deque(maxlen=visible)
        self._arrived = 0
        self._newest = 0
        self._sent = 0
        self._recent: deque[int] = deque(maxlen=visible + MISSED_COUNTED)
        """The sequences of the newest events up to the last tick, so that who was away is told how
        many it missed."""
        self._coming: deque[int] = deque(maxlen=self._recent.maxlen)
        """Those of the events since."""
        self._missed: tuple[int, int, Frame] | None = None
        self._ticked = time.monotonic()
        self._rushed = False
        template: Any = renderer.environment.get_template("event_row.html").module
        self._row: Callable[[Any], str] = template.event_row

    @property
    def named(self) -> tuple[str, str] | None:
        found: tuple[str, str] | None = self.filter.exact_match()
        return found

    @property
    def sent(self) -> int:
        return self._sent

    def was_sent(self) -> None:
        self._sent = self.shown[0][0] if self.shown else 0

    @property
    def rest(self) -> float:
        # What is replaced whole ten times a second nobody reads; five times looks as live, costs
        # half, and what is shown is no older, since only the newest rows are.
        return self.pace * RUSHED if self._rushed else self.pace

    def accept(self, batch: Sequence[Record]) -> None:
        matches = self.filter.matcher()
        for record in batch:
            if (
                record.sequence > self._newest
                and isinstance(record.signal, Event)
                and matches(record.signal)
                and self.view.scope.permits(record.signal)
            ):
                self._newest = record.sequence
                self._new.append(record)
                self._coming.append(record.sequence)
                self._arrived += 1
        if self._new:
            self._touched.set()

    @property
    def oldest(self) -> int:
        """The sequence of the last row; 0 while there is room for older ones."""
        return self.shown[-1][0] if len(self.shown) == self.shown.maxlen else 0

    async def open(self) -> None:
        records = await self.view.history.events(self.filter, limit=self._recent.maxlen or 0)
        # The channel listens from before the query, so what both know is taken from the query.
        known = records[0].sequence if records else 0
        self._newest = max(self._newest, known)
        fresh = [record for record in self._new if record.sequence > known]
        self._new.clear()
        self._new.extend(fresh)
        self._arrived = len(fresh)
        later = [sequence for sequence in self._coming if sequence > known]
        self._coming.clear()
        self._coming.extend(later)
        self._recent.clear()
        self._recent.extend(it.sequence for it in reversed(records))
        self.shown.clear()
        visible = records[: self.shown.maxlen]
        self.shown.extend((it.sequence, self._render_row(it)) for it in visible)
        self._take_new()
        self._frame = None
        self.was_sent()

    async def tick(self) -> Frame | None:
        arrived, rows = self._take_new()
        moment = time.monotonic()
        rate = arrived / max(moment - self._ticked, self.pace)
        self._ticked = moment
        self._rushed = rate * self.pace >= RUSH * (self.shown.maxlen or 1)
        if not rows:
            return None
        self._frame = None
        if arrived > len(rows):
            # Not kept as the snapshot: who joins later has not missed what these have.
            return self._whole(arrived - len(rows), "innerHTML")
        return envelope(
            "".join(rows), "#event-rows", "afterbegin", rows=True,
            panel=self.panel.name, arrived=arrived,
        )  # fmt: skip

    def snapshot(self) -> Frame:
        if self._frame is None:
            self._frame = self._whole(0, "innerMorph")
        return self._frame

    def bring_up_to_date(self, outbox: Outbox, after: int | None) -> None:
        frames = [self.snapshot()]
        if after is not None and (count := self.missed(after)):
            frames.append(self._missed_frame(count, after))
        outbox.bring(self, after, frames)

    def missed(self, after: int) -> int:
        """How many events lie between the row `after` and the list; counted to `MISSED_COUNTED`."""
        recent = list(self._recent)
        if len(recent) == self._recent.maxlen and after < recent[0]:
            return MISSED_COUNTED
        count = bisect_left(recent, self.oldest) - bisect_right(recent, after)
        return min(max(count, 0), MISSED_COUNTED)

    def _missed_frame(self, count: int, after: int) -> Frame:
        """Tells a browser how much it did not see, and where to read it."""
        # After a cut all come back at once, and most of them from the same row.
        if self._missed is None or self._missed[:2] != (count, after):
            address = "/events" + query({**self.filter.to_query(), "after": str(after)})
            content = self.renderer.render(
                "missed.html", {"count": count, "limit": MISSED_COUNTED, "address": address}
            )
            frame = envelope(content, "#event-note", "innerHTML", panel=self.panel.name)
            self._missed = count, after, frame
        return self._missed[2]

    def _render_row(self, record: Record) -> str:
        return self._row(row(record))

    def _take_new(self) -> tuple[int, list[str]]:
        records, arrived = list(self._new), self._arrived
        self._new.clear()
        self._arrived = 0
        self._recent.extend(self._coming)
        self._coming.clear()
        rendered = [(it.sequence, self._render_row(it)) for it in records]
        self.shown.extendleft(rendered)
        return arrived, [text for _, text in reversed(rendered)]

    def _whole(self, conflated: int, swap: str) -> Frame:
        self.counters.renders += 1
        content = self.renderer.render(
            "event_list.html",
            {
                "rendered": [text for _, text in self.shown],
                "conflated": conflated,
                "address": "/events" + query(
                    {**self.filter.to_query(), "before": str(self.oldest)}
                ),
            },
        )  # fmt: skip
        return envelope(
            content, self.target, swap,
            panel=self.panel.name, arrived=conflated + len(self.shown) if conflated else 0,
        )  # fmt: skip
