"""The hub of all channels: one subscription to the bus feeds them, browsers subscribe to them."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode
from weakref import WeakValueDictionary

import msgspec
import structlog

from almenara.bus import BusClosedError
from almenara.errors import LimitExceeded, NotFound
from almenara.live.budget import UserBudget
from almenara.live.channel import RETRY_DELAY, Channel
from almenara.live.event_channel import EventChannel
from almenara.live.frames import Frame
from almenara.live.log_channel import LogChannel
from almenara.live.outbox import GOING_AWAY, TOO_SLOW, Counters, Outbox, Peer
from almenara.live.past_channel import PastChannel
from almenara.live.routing import SignalRouter
from almenara.live.text_channel import TextChannel
from almenara.panels.filters import PanelFilters
from almenara.panels.panel import Panel
from almenara.panels.renderer import Renderer
from almenara.panels.time_window import LIVE, TIME_PARAMETERS, TimeWindow, parse_time_window
from almenara.panels.view import View
from almenara.scope import FULL_SCOPE, Scope
from almenara.signals import now

log = structlog.get_logger(__name__)

CHANNELS_PER_CONNECTION: Final = 32
HEARTBEAT_INTERVAL: Final = 5.0
SOURCES_INTERVAL: Final = 1.0
HEARTBEAT: Final = Frame('{"beat": 1}', 11, rows=False)
"""The same for all: a sequence in it would show how many signals a viewer may not see."""

Subscription = tuple[str, Panel, PanelFilters, TimeWindow]
"""The key of a channel, its panel, its filters and its time window."""


def channel_key(
    panel: Panel, filters: PanelFilters, scope: Scope, window: TimeWindow = LIVE
) -> str:
    """What identifies a channel: the scope, the panel, its filters and its time window."""
    _, _, query = panel.channel(filters, window).partition("?")
    return f"{scope.key}/{panel.name}?{urlencode(sorted(parse_qsl(query)))}"


class Hub:
    """All channels that have viewers, fed by one subscription to the bus."""

    def __init__(self, view: View, panels: Mapping[str, Panel], renderer: Renderer) -> None:
        self.view, self.panels, self.renderer = view, panels, renderer
        self.settings = view.settings
        self.counters = Counters()
        self.draining = False
        self.outboxes: set[Outbox] = set()
        self._channels: dict[str, Channel] = {}
        self._router = SignalRouter()
        self._tasks: list[asyncio.Task[None]] = []
        # A budget lives as long as a connection of its user.
        self._budgets: WeakValueDictionary[str, UserBudget] = WeakValueDictionary()

    @property
    def clients(self) -> int:
        """Browsers connected."""
        return len(self.outboxes)

    def __len__(self) -> int:
        return len(self._channels)

    def start(self) -> None:
        """Start to follow the bus."""
        self._tasks = [
            asyncio.create_task(work(), name=f"hub: {name}")
            for name, work in (
                ("follow the bus", self._follow_bus),
                ("send heartbeats", self._send_heartbeats),
                ("drop slow browsers", self._drop_slow_browsers),
                ("follow failing sources", self._follow_failing_sources),
            )
        ]

    async def close(self) -> None:
        """Stop; browsers that are still connected reconnect."""
        self.draining = True
        for outbox in self.outboxes:
            outbox.close(GOING_AWAY)
        tasks = [channel.task for channel in self._channels.values() if channel.task]
        tasks += self._tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Close every connection with 1012, spread evenly, so that reconnects are spread too."""
        self.draining = True
        outboxes = list(self.outboxes)
        for outbox in outboxes:
            outbox.close(GOING_AWAY)
            await asyncio.sleep(seconds / len(outboxes))

    async def _follow_bus(self) -> None:
        after = self.view.bus.last_sequence
        while True:
            try:
                async for batch in self.view.bus.subscribe(after=after):
                    self._router.accept(batch)
                    after = batch[-1].sequence
            except BusClosedError:
                return
            except Exception:
                log.exception("the channels lost the bus and subscribe again", after=after)
            await asyncio.sleep(RETRY_DELAY)

    async def _follow_failing_sources(self) -> None:
        """Render everything again when a source stops to work, or works again: no signal does."""
        before: set[str] = set()
        while True:
            await asyncio.sleep(SOURCES_INTERVAL)
            failing = set(self.view.resources.unproven_sources())
            if failing != before:
                before = failing
                for channel in self._channels.values():
                    channel.mark_changed()

    async def _send_heartbeats(self) -> None:
        """Send a sign of life, by which a page tells a quiet fleet from a frozen server."""
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            for outbox in self.outboxes:
                outbox.send(None, HEARTBEAT)

    async def _drop_slow_browsers(self) -> None:
        """Close connections that take nothing of what is buffered for the send timeout."""
        clock = asyncio.get_running_loop().time
        while True:
            timeout = self.settings.send_timeout
            await asyncio.sleep(timeout / 4)
            moment = clock()
            for outbox in self.outboxes:
                if outbox.blocked_since is not None and moment - outbox.blocked_since > timeout:
                    if outbox.close_code is None:
                        self.counters.too_slow += 1
                    outbox.close(TOO_SLOW)

    def rerender(self, plugin: str) -> None:
        """Render the panels of a plugin again: it was reloaded or removed."""
        for key, channel in list(self._channels.items()):
            if channel.panel.plugin != plugin:
                continue
            panel = self.panels.get(channel.panel.name)
            if panel is not None:
                try:
                    channel.filters = panel.parse_filters(dict(parse_qsl(key.partition("?")[2])))
                except ValueError:
                    channel.filters = panel.parse_filters({})
                channel.panel = panel
                self._router.add(channel)
            channel.mark_changed()

    def connect(self, peer: Peer, user: str = "") -> Outbox:
        """Add a browser and return its outbox.

        All connections of a user share one budget. Without sign-in the user is empty, and there is
        no budget.
        """
        budget = None
        if user:
            budget = self._budgets.get(user)
            if budget is None:
                budget = self._budgets[user] = UserBudget(self.settings.channels_per_user)
        outbox = Outbox(peer, self.settings.outbox_bytes, self.counters, user, budget)
        self.outboxes.add(outbox)
        return outbox

    def parse_channels(self, names: Iterable[str], scope: Scope = FULL_SCOPE) -> list[Subscription]:
        """Read the names of channels, such as `events?severity=ERROR`.

        Raises `LimitExceeded` for too many, `NotFound` for a panel that does not exist, and
        `ValueError` for a filter that cannot be read.
        """
        subscriptions = []
        for place, name in enumerate(names):
            if place >= CHANNELS_PER_CONNECTION:
                raise LimitExceeded(
                    f"A connection can have {CHANNELS_PER_CONNECTION} channels at most."
                )
            panel_name, _, query = name.partition("?")
            panel = self.panels.get(panel_name)
            if panel is None:
                raise NotFound(f"There is no panel {panel_name[:40]!r}.")
            values = dict(parse_qsl(query))
            window = self._parse_window(panel, values)
            filters = panel.parse_filters(values)
            key = channel_key(panel, filters, scope, window)
            subscriptions.append((key, panel, filters, window))
        return subscriptions

    def _parse_window(self, panel: Panel, values: Mapping[str, str]) -> TimeWindow:
        """Read the time window of a channel. Raises `ValueError`."""
        times = {
            name: text
            for name, text in values.items()
            if name in TIME_PARAMETERS and name not in panel.filters
        }
        recorder = self.view.resources.recorder
        earliest = None if recorder is None else recorder.earliest
        parsed = parse_time_window(times, now=now(), earliest=earliest)
        if parsed.problem:
            raise ValueError(parsed.problem)
        return parsed.window

    async def subscribe(
        self,
        outbox: Outbox,
        names: Iterable[str],
        after: int | None,
        scope: Scope = FULL_SCOPE,
    ) -> None:
        """Subscribe an outbox to channels, from a snapshot on.

        `after` is the sequence of the newest row that the browser shows, `scope` that of its
        user. Raises what `parse_channels` raises, and `LimitExceeded` where the user has too many
        channels.
        """
        for key, panel, filters, window in self.parse_channels(names, scope):
            channel = self._channels.get(key)
            if channel in outbox.channels:
                continue
            if outbox.budget is not None:
                outbox.budget.add(key)
            if channel is None:
                view = msgspec.structs.replace(self.view.within(scope, outbox.user), window=window)
                channel = self._open_channel(key, panel, filters, view)
            # Before the wait, so that the channel is not closed when its only other viewer leaves.
            channel.outboxes.add(outbox)
            outbox.channels.add(channel)
            if outbox.budget is not None:
                channel.budgets[outbox.budget] += 1
            outbox.behind[channel] = after
            # One after the other: what a page displays is not read all at once. A channel that
            # cannot be opened holds up no other one, and catches up once it can.
            await channel.attempted.wait()
            outbox.catch_up(channel)

    def _open_channel(self, key: str, panel: Panel, filters: PanelFilters, view: View) -> Channel:
        kind = self.channel_type(panel) if view.window.is_live else PastChannel
        channel = kind(key, panel, filters, view, self.renderer, self.counters)
        self._channels[key] = channel
        self._router.add(channel)
        channel.task = asyncio.create_task(channel.run(), name=f"channel {key}")
        return channel

    @staticmethod
    def channel_type(panel: Panel) -> type[Channel]:
        """The class of a panel's channels."""
        if panel.is_event_list:
            return EventChannel
        if panel.text_stream:
            return TextChannel
        return LogChannel if panel.log_query is not None else Channel

    def resume(self, outbox: Outbox, after: int | None) -> None:
        """Send the current state of every channel of the outbox."""
        for channel in outbox.channels:
            if channel.ready.is_set() and channel not in outbox.behind:
                channel.catch_up(outbox, after)

    def disconnect(self, outbox: Outbox) -> None:
        """Remove a browser, and close the channels that have no other viewer."""
        self.outboxes.discard(outbox)
        for publisher in outbox.channels:
            channel = self._channels.get(publisher.key)
            if channel is not publisher:
                continue
            channel.outboxes.discard(outbox)
            if outbox.budget is not None:
                outbox.budget.discard(channel.key)
                channel.budgets[outbox.budget] -= 1
                if channel.budgets[outbox.budget] <= 0:
                    del channel.budgets[outbox.budget]
            if not channel.outboxes:
                del self._channels[channel.key]
                self._router.discard(channel)
                if channel.task is not None:
                    channel.task.cancel()
        outbox.channels.clear()
        outbox.behind.clear()
