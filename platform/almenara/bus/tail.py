"""The newest records in memory, so that live subscribers read nothing from the disk."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Final

from almenara.bus import Record
from almenara.signals import Event

MAX_SIGNALS: Final = 8_000
MAX_BYTES: Final = 4 * 1024**2
SIGNAL_OVERHEAD: Final = 500
"""Bytes of a signal in memory besides its payload, about."""
PART_SIGNALS: Final = 500
"""Records that are dropped together."""


_SEQUENCE: Final = attrgetter("sequence")


class Tail:
    """Records that follow the sequence `start` without a gap."""

    def __init__(self, start: int) -> None:
        self._parts: deque[tuple[Sequence[Record], int]] = deque()
        """Records, and the bytes that they take."""
        self._start = start
        self._signals = self._bytes = 0

    def extend(self, records: Sequence[Record]) -> None:
        """Append records; the oldest are dropped beyond the bounds."""
        for first in range(0, len(records), PART_SIGNALS):
            part = records[first : first + PART_SIGNALS]
            size = SIGNAL_OVERHEAD * len(part) + sum(_payloads(part))
            self._parts.append((part, size))
            self._signals += len(part)
            self._bytes += size
        while self._signals > MAX_SIGNALS or self._bytes > MAX_BYTES:
            part, size = self._parts.popleft()
            self._start = part[-1].sequence
            self._signals -= len(part)
            self._bytes -= size

    def after(self, sequence: int) -> list[Record] | None:
        """Return the records that follow a sequence; None where some of them were dropped."""
        if sequence < self._start:
            return None
        following: list[Sequence[Record]] = []
        for part, _ in reversed(self._parts):
            if part[0].sequence <= sequence:
                following.append(part[bisect_right(part, sequence, key=_SEQUENCE) :])
                break
            following.append(part)
        return [record for part in reversed(following) for record in part]


def _payloads(records: Sequence[Record]) -> Iterator[int]:
    """Yield the bytes of payloads."""
    for record in records:
        signal = record.signal
        if isinstance(signal, Event):
            yield len(bytes(signal.data))
            if signal.raw is not None:
                yield len(signal.raw)
