"""The outbox of one browser: which frames it is sent, and which it skips because it is slow."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from almenara.live.budget import UserBudget
from almenara.live.frames import Frame

GOING_AWAY: Final = 1012
TOO_SLOW: Final = 1013


class Counters(msgspec.Struct):
    """What the channels have done since the start."""

    frames: int = 0
    skipped: int = 0
    renders: int = 0
    too_slow: int = 0
    send_seconds: float = 0.0
    """Seconds that one tick of every channel with something to show takes to be sent."""


class Peer(Protocol):
    """The connection to one browser."""

    @property
    def waiting(self) -> int:
        """Bytes that were written and that the connection has not taken yet."""

    def write(self, frame: Frame) -> None:
        """Send at once what the connection takes at once; the rest waits."""

    def end(self) -> None:
        """Close the connection with the code of its outbox."""


class Publisher(Protocol):
    """What an outbox subscribes to: a channel."""

    key: str
    ready: asyncio.Event
    """Set once it can send a snapshot."""
    attempted: asyncio.Event
    """Set once it has tried to get ready; it tries again where that failed."""

    @property
    def last_sent(self) -> int | None:
        """The newest row that subscribers were sent; None where there are no rows."""

    def catch_up(self, outbox: "Outbox", after: int | None) -> None:
        """Send a subscriber the current state; `after` is the newest row that it shows, if any."""


class Outbox:
    """The way to one browser. What waits is in the buffer of its connection, bounded in bytes.

    A browser that falls behind on a channel is sent nothing of it until its connection has taken
    everything, and then the current state.
    """

    __slots__ = (
        "behind",
        "blocked_since",
        "budget",
        "channels",
        "close_code",
        "counters",
        "limit",
        "peer",
        "user",
    )

    def __init__(
        self,
        peer: Peer,
        limit: int,
        counters: Counters,
        user: str = "",
        budget: UserBudget | None = None,
    ) -> None:
        self.peer, self.limit, self.counters, self.budget = peer, limit, counters, budget
        self.user = user
        self.channels: set[Publisher] = set()
        self.behind: dict[Publisher, int | None] = {}
        """The channels that it has to catch up with, and the newest row that it shows of each."""
        self.blocked_since: float | None = None
        """Since when the connection takes nothing, by the clock of the event loop."""
        self.close_code: int | None = None

    def send(self, channel: Publisher | None, frame: Frame) -> None:
        """Send a frame of a channel (None: of no channel), or skip it."""
        if self.close_code is None and not self._write(channel, frame) and channel is not None:
            self.behind.setdefault(channel, channel.last_sent)

    def send_state(self, channel: Publisher, after: int | None, frames: Sequence[Frame]) -> None:
        """Send the current state to a browser that shows the row `after`, or skip it for now."""
        first, *rest = frames
        if self.close_code is not None:
            return
        if not self._write(channel, first):
            self.behind.setdefault(channel, after)
            return
        for frame in rest:
            # Small, and without it the browser would not know what it has missed.
            self.peer.write(frame)

    def _write(self, channel: Publisher | None, frame: Frame) -> bool:
        waiting = self.peer.waiting
        if channel in self.behind or (waiting and waiting + frame.size > self.limit):
            self.counters.skipped += 1
            return False
        self.peer.write(frame)
        self.counters.frames += 1
        return True

    def drained(self) -> None:
        """Catch up with every channel: the connection has taken everything."""
        for channel in list(self.behind):
            self.catch_up(channel)

    def catch_up(self, channel: Publisher) -> None:
        """Send the state of a channel that is ready, where the browser is behind."""
        if channel in self.behind and channel.ready.is_set():
            channel.catch_up(self, self.behind.pop(channel))

    def close(self, code: int) -> None:
        """Close the connection with a code; nothing more is sent."""
        if self.close_code is None:
            self.close_code = code
            self.peer.end()
