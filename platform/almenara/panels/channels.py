"""Channels: a panel with a filter, rendered once for all the browsers that look at it."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec
import structlog

from almenara.bus import BusClosedError, Record
from almenara.panels.panel import Choice, Panel, View
from almenara.panels.renderer import Frame, Renderer, envelope, query
from almenara.panels.rows import row
from almenara.signals import Event

log = structlog.get_logger(__name__)

GOING_AWAY: Final = 1012
TOO_SLOW: Final = 1013
MISSED_COUNTED: Final = 500
CHANNELS_OF_A_BROWSER: Final = 32
RETRY: Final = 1.0
IDLE_SHARE: Final = 4.0
"""How much longer than it takes to draw a panel its channel then rests, at least."""


class UnknownPanelError(ValueError):
    """A browser asked for a panel that does not exist, or for too many."""


class Counters(msgspec.Struct):
    """What the channels have done."""

    frames: int = 0
    skipped: int = 0
    renders: int = 0
    too_slow: int = 0


class Outbox:
    """What waits for one browser: bounded in bytes, so a stalled browser costs no more than that.

    A browser that falls behind on a channel is sent nothing of it until its outbox is empty, and
    then what is current.
    """

    def __init__(self, limit: int, send_timeout: float, counters: Counters) -> None:
        self.limit = limit
        self.send_timeout = send_timeout
        self.counters = counters
        self.waiting: deque[tuple[Channel | None, Frame]] = deque()
        self.bytes = 0
        self.behind: set[Channel] = set()
        self.close_code: int | None = None
        self._wake = asyncio.Event()

    def put(self, channel: "Channel | None", frame: Frame) -> None:
        """Leave a frame of a channel (None: of no channel) for the browser."""
        if self.close_code is not None:
            return
        if channel is not None and channel in self.behind:
            self.counters.skipped += 1
            return
        if channel is not None and not frame.rows:
            self._drop(channel)
        if self.waiting and self.bytes + frame.size > self.limit:
            self.counters.skipped += 1
            if channel is not None:
                self._drop(channel)
                self.behind.add(channel)
            return
        self.waiting.append((channel, frame))
        self.bytes += frame.size
        self._wake.set()

    def _drop(self, channel: "Channel") -> None:
        kept = deque(pair for pair in self.waiting if pair[0] is not channel)
        self.counters.skipped += len(self.waiting) - len(kept)
        self.waiting = kept
        self.bytes = sum(frame.size for _, frame in kept)

    def close(self, code: int) -> None:
        """End the connection with this code; what still waits is not sent."""
        if self.close_code is None:
            self.close_code = code
            self.waiting.clear()
            self.bytes = 0
        self._wake.set()

    async def deliver(self, send: Callable[[str], Awaitable[None]]) -> int:
        """Send what is put here until closed; the code to close the connection with."""
        while True:
            while self.close_code is None and self.waiting:
                _, frame = self.waiting.popleft()
                self.bytes -= frame.size
                try:
                    async with asyncio.timeout(self.send_timeout):
                        await send(frame.text)
                except TimeoutError:
                    self.counters.too_slow += 1
                    self.close(TOO_SLOW)
                    return TOO_SLOW
                self.counters.frames += 1
            if self.close_code is not None:
                return self.close_code
            if self.behind:
                late = {channel for channel in self.behind if channel.ready.is_set()}
                self.behind -= late
                for channel in late:
                    self.put(channel, channel.snapshot())
                if late:
                    continue
            self._wake.clear()
            await self._wake.wait()


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

    async def run(self) -> None:
        """Open, then tick: at once when idle, and no more often than the pace."""
        opened = False
        while True:
            spent = 0.0
            try:
                if not opened:
                    await self.open()
                    opened = True
                    self.ready.set()
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self.panel.refresh):
                            await self._touched.wait()
                    self._touched.clear()
                    began = time.monotonic()
                    frame = await self.tick()
                    spent = time.monotonic() - began
                    if frame is not None:
                        for outbox in self.outboxes:
                            outbox.put(self, frame)
            except Exception:
                # One panel that cannot be drawn must not take the others' channels with it.
                log.exception("a panel could not be rendered", channel=self.key)
                self._touched.set()
                await asyncio.sleep(RETRY)
            # A panel whose query takes long, as over millions of events, is drawn less often.
            await asyncio.sleep(max(self.pace, spent * IDLE_SHARE))


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
        self._template = renderer.environment.get_template("event_row.html")

    def accept(self, batch: Sequence[Record]) -> None:
        for record in batch:
            if (
                record.sequence > self._newest
                and isinstance(record.signal, Event)
                and self.filter.matches(record.signal)
            ):
                self._newest = record.sequence
                self._new.append(record)
                self._arrived += 1
        if self._new:
            self._touched.set()

    @property
    def oldest(self) -> int:
        """The sequence of the last row; 0 while there is room for older ones."""
        return self.shown[-1][0] if len(self.shown) == self.shown.maxlen else 0

    async def open(self) -> None:
        records = await self.view.history.events(
            self.filter, limit=self.view.settings.visible_events
        )
        # The channel listens from before the query, so what both know is taken from the query.
        known = records[0].sequence if records else 0
        self._newest = max(self._newest, known)
        fresh = [record for record in self._new if record.sequence > known]
        self._new.clear()
        self._new.extend(fresh)
        self._arrived = len(fresh)
        self.shown.clear()
        self.shown.extend((it.sequence, self._render_row(it)) for it in records)
        self._take_new()
        self._frame = None

    async def tick(self) -> Frame | None:
        arrived, rows = self._take_new()
        if not rows:
            return None
        self._frame = None
        if arrived > len(rows):
            self._frame = self._whole(arrived - len(rows), "innerHTML")
            return self._frame
        return envelope(
            "".join(rows), "#event-rows", "afterbegin", rows=True,
            panel=self.panel.name, arrived=arrived,
        )  # fmt: skip

    def snapshot(self) -> Frame:
        if self._frame is None:
            self._frame = self._whole(0, "innerMorph")
        return self._frame

    def missed_frame(self, count: int, after: int) -> Frame:
        """Tells one browser how much it did not see, and where to read it."""
        address = "/events" + query({**self.filter.to_query(), "after": str(after)})
        content = self.renderer.render(
            "missed.html", {"count": count, "limit": MISSED_COUNTED, "address": address}
        )
        return envelope(content, "#event-note", "innerHTML", panel=self.panel.name)

    def _render_row(self, record: Record) -> str:
        return self._template.render(row(record))

    def _take_new(self) -> tuple[int, list[str]]:
        records, arrived = list(self._new), self._arrived
        self._new.clear()
        self._arrived = 0
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


class Channels:
    """All channels that somebody looks at, fed by one subscription to the bus."""

    def __init__(self, view: View, panels: Mapping[str, Panel], renderer: Renderer) -> None:
        self.view, self.panels, self.renderer = view, panels, renderer
        self.settings = view.settings
        self.counters = Counters()
        self.draining = False
        self.outboxes: set[Outbox] = set()
        self._channels: dict[str, Channel] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def clients(self) -> int:
        """Browsers connected."""
        return len(self.outboxes)

    def __len__(self) -> int:
        return len(self._channels)

    def start(self) -> None:
        """Begin to follow the bus."""
        self._task = asyncio.create_task(self._follow(), name="channels")

    async def close(self) -> None:
        """Stop; browsers that are still connected are told to come back."""
        self.draining = True
        for outbox in self.outboxes:
            outbox.close(GOING_AWAY)
        tasks = [channel.task for channel in self._channels.values() if channel.task]
        if self._task is not None:
            tasks.append(self._task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Close every connection with 1012, spread evenly, so that browsers come back spread."""
        self.draining = True
        leaving = list(self.outboxes)
        for outbox in leaving:
            outbox.close(GOING_AWAY)
            await asyncio.sleep(seconds / len(leaving))

    async def _follow(self) -> None:
        after = self.view.bus.last_sequence
        while True:
            try:
                async for batch in self.view.bus.subscribe(after=after):
                    for channel in self._channels.values():
                        channel.accept(batch)
                    after = batch[-1].sequence
            except BusClosedError:
                return
            except Exception:
                log.exception("the channels lost the bus and take it up again", after=after)
            await asyncio.sleep(RETRY)

    def renew(self, plugin: str) -> None:
        """Draw the panels of a plugin anew: it was loaded again, or is gone."""
        for key, channel in list(self._channels.items()):
            if channel.panel.plugin != plugin:
                continue
            panel = self.panels.get(channel.panel.name)
            if panel is not None:
                try:
                    channel.filter = panel.choose(dict(parse_qsl(key.partition("?")[2])))
                except ValueError:
                    channel.filter = panel.choose({})
                channel.panel = panel
            channel.touch()

    def outbox(self) -> Outbox:
        """A place for the frames of one browser."""
        outbox = Outbox(self.settings.outbox_bytes, self.settings.send_timeout, self.counters)
        self.outboxes.add(outbox)
        return outbox

    def named(self, names: Iterable[str]) -> list[tuple[str, Panel, Choice]]:
        """What `events?severity=ERROR` and the like ask for.

        Raises `UnknownPanelError`, and `ValueError` for a filter that cannot be read.
        """
        found = []
        for place, name in enumerate(names):
            if place >= CHANNELS_OF_A_BROWSER:
                raise UnknownPanelError(
                    f"more than {CHANNELS_OF_A_BROWSER} channels in one connection"
                )
            panel_name, _, text = name.partition("?")
            panel = self.panels.get(panel_name)
            if panel is None:
                known = ", ".join(self.panels)
                raise UnknownPanelError(f"there is no panel {panel_name[:40]!r}; there are {known}")
            chosen = panel.choose(dict(parse_qsl(text)))
            key = f"{panel.name}?{urlencode(sorted(chosen.to_query().items()))}"
            found.append((key, panel, chosen))
        return found

    async def join(self, outbox: Outbox, names: Iterable[str], after: int | None) -> None:
        """Make the outbox one of those that get these channels, from a snapshot on.

        `after` is the sequence of the newest row that the browser shows.
        """
        for key, panel, chosen in self.named(names):
            channel = self._channels.get(key)
            if channel is None:
                kind = EventChannel if panel.rows else Channel
                channel = kind(key, panel, chosen, self.view, self.renderer, self.counters)
                self._channels[key] = channel
                channel.task = asyncio.create_task(channel.run(), name=f"channel {key}")
            # Before the wait, so that another browser's leaving does not remove the channel.
            channel.outboxes.add(outbox)
            outbox.behind.add(channel)
            await channel.ready.wait()
            outbox.behind.discard(channel)
            await self._bring_up_to_date(channel, outbox, after)

    async def resume(self, outbox: Outbox, after: int | None) -> None:
        """Send what is current of every channel of the outbox."""
        for channel in [it for it in self._channels.values() if outbox in it.outboxes]:
            if channel.ready.is_set():
                await self._bring_up_to_date(channel, outbox, after)

    async def _bring_up_to_date(self, channel: Channel, outbox: Outbox, after: int | None) -> None:
        outbox.put(channel, channel.snapshot())
        if not isinstance(channel, EventChannel) or after is None:
            return
        oldest = channel.oldest
        if after >= oldest:
            return
        missed = await self.view.history.events(
            channel.filter, after=after, before=oldest, limit=MISSED_COUNTED
        )
        if missed:
            outbox.put(None, channel.missed_frame(len(missed), after))

    def leave(self, outbox: Outbox) -> None:
        """Forget the outbox, and the channels that nobody looks at any more."""
        self.outboxes.discard(outbox)
        for key, channel in list(self._channels.items()):
            channel.outboxes.discard(outbox)
            if not channel.outboxes:
                del self._channels[key]
                if channel.task is not None:
                    channel.task.cancel()
