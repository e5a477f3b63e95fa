"""What one browser is sent, and what it is spared because it cannot keep up."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from almenara.panels.renderer import Frame

if TYPE_CHECKING:
    from almenara.live.channel import Channel

GOING_AWAY: Final = 1012
TOO_SLOW: Final = 1013


class Counters(msgspec.Struct):
    """What the channels have done."""

    frames: int = 0
    skipped: int = 0
    renders: int = 0
    too_slow: int = 0
    sending: float = 0.0
    """Seconds that one tick of every channel with something to show takes to be sent."""


class Peer(Protocol):
    """The connection to one browser."""

    @property
    def waiting(self) -> int:
        """Bytes that were written and that the connection has not taken yet."""

    def write(self, frame: Frame) -> None:
        """Send at once what the connection takes at once; the rest waits."""

    def end(self) -> None:
        """Have the connection closed with the code of its outbox."""


class Outbox:
    """The way to one browser. What waits is what its connection holds, bounded in bytes.

    A browser that falls behind on a channel is sent nothing of it until its connection has taken
    everything, and then what is current.
    """

    __slots__ = ("behind", "channels", "close_code", "counters", "late", "limit", "peer")

    def __init__(self, peer: Peer, limit: int, counters: Counters) -> None:
        self.peer, self.limit, self.counters = peer, limit, counters
        self.channels: set[Channel] = set()
        self.behind: dict[Channel, int | None] = {}
        """The channels that it is to be brought up to date on, and from which row on."""
        self.late: float | None = None
        """Since when the connection holds something back, by the clock of the event loop."""
        self.close_code: int | None = None

    def put(self, channel: "Channel | None", frame: Frame) -> None:
        """Send a frame of a channel (None: of no channel), or leave it out."""
        if self.close_code is None and not self._sent(channel, frame) and channel is not None:
            self.behind.setdefault(channel, channel.sent)

    def bring(self, channel: "Channel", after: int | None, frames: Sequence[Frame]) -> None:
        """Send all that brings a browser up to date that shows the row `after`, or later."""
        first, *rest = frames
        if self.close_code is not None:
            return
        if not self._sent(channel, first):
            self.behind.setdefault(channel, after)
            return
        for frame in rest:
            # Small, and without it the browser would not know of what it does not show.
            self.peer.write(frame)

    def _sent(self, channel: "Channel | None", frame: Frame) -> bool:
        waiting = self.peer.waiting
        if channel in self.behind or (waiting and waiting + frame.size > self.limit):
            self.counters.skipped += 1
            return False
        self.peer.write(frame)
        self.counters.frames += 1
        return True

    def emptied(self) -> None:
        """Bring the browser up to date: its connection has taken everything."""
        for channel, after in list(self.behind.items()):
            if channel.ready.is_set():
                del self.behind[channel]
                channel.bring_up_to_date(self, after)

    def close(self, code: int) -> None:
        """End the connection with this code; nothing more is sent."""
        if self.close_code is None:
            self.close_code = code
            self.peer.end()
