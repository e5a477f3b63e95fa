"""All channels, fed by one subscription to the bus."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode

import structlog

from almenara.bus import BusClosedError
from almenara.live.channel import RETRY, Channel, EventChannel
from almenara.live.log_channel import LogChannel
from almenara.live.outbox import GOING_AWAY, TOO_SLOW, Counters, Outbox, Peer
from almenara.live.routing import SignalRouter
from almenara.panels.panel import Choice, Panel, View
from almenara.panels.renderer import Frame, Renderer
from almenara.scope import FULL_SCOPE, Scope

log = structlog.get_logger(__name__)

CHANNELS_OF_A_BROWSER: Final = 32
BEAT: Final = 5.0


class UnknownPanelError(ValueError):
    """A browser asked for a panel that does not exist, or for too many."""


def channel_key(panel: Panel, chosen: Choice, scope: Scope) -> str:
    """What makes a channel: its panel, its filters, and who may see what it shows."""
    return f"{scope.key}/{panel.name}?{urlencode(sorted(chosen.to_query().items()))}"


class Hub:
    """All channels that somebody looks at, fed by one subscription to the bus."""

    def __init__(self, view: View, panels: Mapping[str, Panel], renderer: Renderer) -> None:
        self.view, self.panels, self.renderer = view, panels, renderer
        self.settings = view.settings
        self.counters = Counters()
        self.draining = False
        self.outboxes: set[Outbox] = set()
        self._channels: dict[str, Channel] = {}
        self._interest = SignalRouter()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def clients(self) -> int:
        """Browsers connected."""
        return len(self.outboxes)

    def __len__(self) -> int:
        return len(self._channels)

    def start(self) -> None:
        """Begin to follow the bus."""
        self._tasks = [
            asyncio.create_task(work(), name=f"channels: {name}")
            for name, work in (
                ("following", self._follow),
                ("beating", self._beat),
                ("dropping", self._drop_late),
            )
        ]

    async def close(self) -> None:
        """Stop; browsers that are still connected are told to come back."""
        self.draining = True
        for outbox in self.outboxes:
            outbox.close(GOING_AWAY)
        tasks = [channel.task for channel in self._channels.values() if channel.task]
        tasks += self._tasks
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
                    self._interest.accept(batch)
                    after = batch[-1].sequence
            except BusClosedError:
                return
            except Exception:
                log.exception("the channels lost the bus and take it up again", after=after)
            await asyncio.sleep(RETRY)

    async def _beat(self) -> None:
        """Signs of life, by which a page tells a quiet fleet from a frozen server."""
        while True:
            await asyncio.sleep(BEAT)
            text = f'{{"beat": {self.view.bus.last_sequence}}}'
            frame = Frame(text, len(text), rows=False)
            for outbox in self.outboxes:
                outbox.put(None, frame)

    async def _drop_late(self) -> None:
        """Drop who does not take within the timeout what waits for it."""
        clock = asyncio.get_running_loop().time
        while True:
            patience = self.settings.send_timeout
            await asyncio.sleep(patience / 4)
            moment = clock()
            for outbox in self.outboxes:
                if outbox.late is not None and moment - outbox.late > patience:
                    if outbox.close_code is None:
                        self.counters.too_slow += 1
                    outbox.close(TOO_SLOW)

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
                self._interest.add(channel)
            channel.touch()

    def outbox(self, peer: Peer) -> Outbox:
        """The way to one browser."""
        outbox = Outbox(peer, self.settings.outbox_bytes, self.counters)
        self.outboxes.add(outbox)
        return outbox

    def named(
        self, names: Iterable[str], scope: Scope = FULL_SCOPE
    ) -> list[tuple[str, Panel, Choice]]:
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
            key = channel_key(panel, chosen, scope)
            found.append((key, panel, chosen))
        return found

    async def join(
        self,
        outbox: Outbox,
        names: Iterable[str],
        after: int | None,
        scope: Scope = FULL_SCOPE,
    ) -> None:
        """Make the outbox one of those that get these channels, from a snapshot on.

        `after` is the sequence of the newest row that the browser shows, `scope` what it may see.
        """
        for key, panel, chosen in self.named(names, scope):
            channel = self._channels.get(key)
            if channel is None:
                kind = EventChannel if panel.rows else LogChannel if panel.log else Channel
                view = self.view.within(scope)
                channel = kind(key, panel, chosen, view, self.renderer, self.counters)
                self._channels[key] = channel
                self._interest.add(channel)
                channel.task = asyncio.create_task(channel.run(), name=f"channel {key}")
            # Before the wait, so that another browser's leaving does not remove the channel.
            channel.outboxes.add(outbox)
            outbox.channels.add(channel)
            outbox.behind[channel] = after
            await channel.ready.wait()
            if channel in outbox.behind:
                del outbox.behind[channel]
                channel.bring_up_to_date(outbox, after)

    def resume(self, outbox: Outbox, after: int | None) -> None:
        """Send what is current of every channel of the outbox."""
        for channel in outbox.channels:
            if channel.ready.is_set() and channel not in outbox.behind:
                channel.bring_up_to_date(outbox, after)

    def leave(self, outbox: Outbox) -> None:
        """Forget the outbox, and the channels that nobody looks at any more."""
        self.outboxes.discard(outbox)
        for channel in outbox.channels:
            channel.outboxes.discard(outbox)
            if not channel.outboxes and self._channels.get(channel.key) is channel:
                del self._channels[channel.key]
                self._interest.discard(channel)
                if channel.task is not None:
                    channel.task.cancel()
        outbox.channels.clear()
        outbox.behind.clear()
