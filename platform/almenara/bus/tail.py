"""The newest records in memory, so that live subscribers read nothing from the disk."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from almenara.bus import Record
from almenara.signals import Event

MAX_SIGNALS: Final = 8_000
MAX_BYTES: Final = 4 * 1024**2
SIGNAL_OVERHEAD: Final = 500
"""Bytes of a signal in memory besides its payload, about."""


class Tail:
    """Records that follow the sequence `start` without a gap."""

    def __init__(self, start: int) -> None:
        self._records: deque[Record] = deque()
        self._start = start
        self._bytes = 0

    def extend(self, records: Sequence[Record]) -> None:
        """Append records; the oldest are dropped beyond the bounds."""
        self._records.extend(records)
        self._bytes += sum(map(_cost, records))
        while len(self._records) > MAX_SIGNALS or self._bytes > MAX_BYTES:
            oldest = self._records.popleft()
            self._start = oldest.sequence
            self._bytes -= _cost(oldest)

    def after(self, sequence: int) -> list[Record] | None:
        """Return the records that follow a sequence; None where some of them were dropped."""
        if sequence < self._start:
            return None
        following: list[Record] = []
        for record in reversed(self._records):
            if record.sequence <= sequence:
                break
            following.append(record)
        following.reverse()
        return following


def _cost(record: Record) -> int:
    signal = record.signal
    if isinstance(signal, Event):
        return SIGNAL_OVERHEAD + len(bytes(signal.data)) + len(signal.raw or b"")
    return SIGNAL_OVERHEAD
