"""The channel of a list of events: each row is rendered once, and only new rows are sent."""

import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from almenara.bus import Record
from almenara.history import Filter
from almenara.live.channel import Channel
from almenara.live.frames import Frame, make_frame
from almenara.live.outbox import Counters, Outbox
from almenara.panels.event_rows import event_row
from almenara.panels.filters import PanelFilters
from almenara.panels.formats import encode_query
from almenara.panels.panel import Panel
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
from almenara.signals import Event

MAX_MISSED: Final = 500
"""Missed events are counted up to this; more are shown as `500+`."""
OVERFLOW_SHARE: Final = 0.9
"""The share of new rows a tick from which on the list counts as overflowing."""
OVERFLOW_SLOWDOWN: Final = 2.0
"""How many times its interval an overflowing list pauses."""


class EventChannel(Channel):
    """The newest events that match the filters.

    `_rows` are the rendered rows on screen, newest first. `_new` are events since the last tick,
    and `_new_count` how many there were, also of those that no longer fit. `_recent` are the
    sequences of more events than fit on screen, to count what a returning browser has missed.
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
        super().__init__(key, panel, filters, view, renderer, counters)
        limit = view.settings.visible_events
        self._rows: deque[tuple[int, str]] = deque(maxlen=limit)
        self._new: deque[Record] = deque(maxlen=limit)
        self._new_count = 0
        self._newest = 0
        self._last_sent = 0
        self._recent_limit = limit + MAX_MISSED
        self._recent: deque[int] = deque(maxlen=self._recent_limit)
        """Sequences of the newest events up to the last tick, oldest first."""
        self._new_sequences: deque[int] = deque(maxlen=self._recent_limit)
        """Sequences of the events since."""
        self._missed: tuple[int, int, Frame] | None = None
        """The last note about missed events: their count, the row after which, and the frame."""
        self._last_tick = time.monotonic()
        self._is_overflowing = False
        template: Any = renderer.environment.get_template("event_row.html").module
        self._render_row: Callable[[Any], str] = template.event_row

    @property
    def _filter(self) -> Filter:
        return cast("Filter", self.filters)

    @property
    def exact_match(self) -> tuple[str, str] | None:
        return self._filter.exact_match()

    @property
    def last_sent(self) -> int:
        return self._last_sent

    def mark_sent(self) -> None:
        self._last_sent = self._rows[0][0] if self._rows else 0

    @property
    def min_pause(self) -> float:
        # No one reads a list that is replaced whole ten times a second. Five times looks as live
        # at half the cost, and the rows are no older, since only the newest are shown.
        return self.interval * OVERFLOW_SLOWDOWN if self._is_overflowing else self.interval

    def accept(self, batch: Sequence[Record]) -> None:
        matches = self._filter.matcher()
        for record in batch:
            if (
                record.sequence > self._newest
                and isinstance(record.signal, Event)
                and matches(record.signal)
            ):
                self._newest = record.sequence
                self._new.append(record)
                self._new_sequences.append(record.sequence)
                self._new_count += 1
        if self._new:
            self._changed.set()

    @property
    def oldest(self) -> int:
        """The sequence of the last row; 0 while the list is not full."""
        return self._rows[-1][0] if len(self._rows) == self._rows.maxlen else 0

    async def open(self) -> None:
        records = await self.view.history.events(
            self._filter, limit=self._recent_limit, is_preview=True
        )
        # Events may have arrived during the query; those that it returned are not new.
        known = records[0].sequence if records else 0
        self._newest = max(self._newest, known)
        new = [record for record in self._new if record.sequence > known]
        new_sequences = [sequence for sequence in self._new_sequences if sequence > known]
        self._new.clear()
        self._new.extend(new)
        self._new_count = len(new)
        self._new_sequences.clear()
        self._new_sequences.extend(new_sequences)
        self._recent.clear()
        self._recent.extend(record.sequence for record in reversed(records))
        self._rows.clear()
        visible = records[: self._rows.maxlen]
        self._rows.extend((record.sequence, self._row(record)) for record in visible)
        self._add_new_rows()
        self._frame = None
        self.mark_sent()

    async def tick(self) -> Frame | None:
        count, rows = self._add_new_rows()
        moment = time.monotonic()
        rate = count / max(moment - self._last_tick, self.interval)
        self._last_tick = moment
        self._is_overflowing = rate * self.interval >= OVERFLOW_SHARE * (self._rows.maxlen or 1)
        if not rows:
            return None
        self._frame = None
        if count > len(rows):
            # Not stored as the snapshot: later subscribers have not missed these events.
            return self._render_list(count - len(rows), "innerHTML")
        return make_frame(
            "".join(rows), "#event-rows", "afterbegin", rows=True,
            panel=self.panel.name, arrived=count,
        )  # fmt: skip

    def snapshot(self) -> Frame:
        if self._frame is None:
            self._frame = self._render_list(0, "innerMorph")
        return self._frame

    def catch_up(self, outbox: Outbox, after: int | None) -> None:
        frames = [self.snapshot()]
        if after is not None and (count := self.count_missed(after)):
            frames.append(self._missed_frame(count, after))
        outbox.send_state(self, after, frames)

    def count_missed(self, after: int) -> int:
        """How many events lie between the row `after` and the list, up to `MAX_MISSED`."""
        recent = list(self._recent)
        if len(recent) == self._recent_limit and after < recent[0]:
            return MAX_MISSED
        count = bisect_left(recent, self.oldest) - bisect_right(recent, after)
        return min(max(count, 0), MAX_MISSED)

    def _missed_frame(self, count: int, after: int) -> Frame:
        """The note for a browser about events that it did not get, with a link to them."""
        # After an outage all browsers return at once, and most of them from the same row.
        if self._missed is None or self._missed[:2] != (count, after):
            address = "/events" + encode_query({**self._filter.to_query(), "after": str(after)})
            content = self.renderer.render(
                "missed.html", {"count": count, "limit": MAX_MISSED, "address": address}
            )
            frame = make_frame(content, "#event-note", "innerHTML", panel=self.panel.name)
            self._missed = count, after, frame
        return self._missed[2]

    def _row(self, record: Record) -> str:
        return self._render_row(event_row(record))

    def _add_new_rows(self) -> tuple[int, list[str]]:
        """Render the new events; how many there were, and the rows, newest first."""
        records, count = list(self._new), self._new_count
        self._new.clear()
        self._new_count = 0
        self._recent.extend(self._new_sequences)
        self._new_sequences.clear()
        rows = [(record.sequence, self._row(record)) for record in records]
        self._rows.extendleft(rows)
        return count, [text for _, text in reversed(rows)]

    def _render_list(self, conflated: int, swap: str) -> Frame:
        """The whole list; `conflated` events before its oldest row were never sent."""
        self.counters.renders += 1
        query = {**self._filter.to_query(), "before": str(self.oldest)}
        content = self.renderer.render(
            "event_list.html",
            {
                "rendered": [text for _, text in self._rows],
                "conflated": conflated,
                "address": "/events" + encode_query(query),
            },
        )
        return make_frame(
            content, self.target, swap,
            panel=self.panel.name, arrived=conflated + len(self._rows) if conflated else 0,
        )  # fmt: skip
