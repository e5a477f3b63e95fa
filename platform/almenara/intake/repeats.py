"""Recognition of repeated samples, which have no id that the bus could compare."""

from collections.abc import Iterable, Sequence
from typing import Final

from almenara.signals import Sample, Signal

WINDOW: Final = 100_000
"""Minimum number of samples that are remembered; the maximum is twice as many."""


class RecentSamples:
    """The samples that a sender pushed last, in the memory of this process.

    Two sets alternate: when one is full, the other is emptied and takes over.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self._window = window
        self._current: set[int] = set()
        self._previous: set[int] = set()

    def without_repeats(self, signals: Sequence[Signal]) -> Sequence[Signal]:
        """Return the signals without samples that were remembered."""
        return [
            signal
            for signal in signals
            if not isinstance(signal, Sample)
            or (
                (identity := _identity(signal)) not in self._current
                and identity not in self._previous
            )
        ]

    def remember(self, signals: Iterable[Signal]) -> None:
        """Remember the samples among signals that are stored."""
        for signal in signals:
            if isinstance(signal, Sample):
                if len(self._current) >= self._window:
                    self._previous, self._current = self._current, set()
                self._current.add(_identity(signal))


def _identity(sample: Sample) -> int:
    return hash((sample.key, sample.metric, sample.time))
