"""What waits for one browser, bounded."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from almenara.panels.renderer import Frame

GOING_AWAY: Final = 1012
TOO_SLOW: Final = 1013


class Counters(msgspec.Struct):
    """What the channels have done."""

    frames: int = 0
    skipped: int = 0
    renders: int = 0
    too_slow: int = 0


class Snapshots(Protocol):
    """A channel, as far as an outbox needs to know it."""

    ready: asyncio.Event

    def snapshot(self) -> Frame: ...


class Outbox:
    """What waits for one browser: bounded in bytes, so a stalled browser costs no more than that.

    A browser that falls behind on a channel is sent nothing of it until its outbox is empty, and
    then what is current.
    """

    def __init__(self, limit: int, send_timeout: float, counters: Counters) -> None:
        self.limit = limit
        self.send_timeout = send_timeout
        self.counters = counters
        self.waiting: deque[tuple[Snapshots | None, Frame]] = deque()
        self.bytes = 0
        self.behind: set[Snapshots] = set()
        self.close_code: int | None = None
        self._wake = asyncio.Event()

    def put(self, channel: Snapshots | None, frame: Frame) -> None:
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

    def _drop(self, channel: Snapshots) -> None:
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
