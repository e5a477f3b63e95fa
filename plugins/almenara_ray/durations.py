"""How long an entrypoint usually takes: the median of its last successful runs."""

import re
import statistics
from typing import Final

import msgspec

RUN_LIMIT: Final = 20
"""Runs of an entrypoint that the median is of."""
ENTRYPOINT_LIMIT: Final = 500
RUNS_NEEDED: Final = 2
"""Runs below which a median means nothing."""
LENGTH_LIMIT: Final = 300
VARYING: Final = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|\d{4}-\d{2}-\d{2}(?:[T ][\d:.]+Z?)?|\b[0-9a-f]{12,}\b|\d{3,}"
)
"""Ids, dates and long numbers, which differ between runs of the same entrypoint."""


class Durations(msgspec.Struct):
    """Seconds that the last successful runs of each entrypoint took."""

    runs: dict[str, list[float]] = {}

    def add(self, entrypoint: str, seconds: float) -> None:
        """Store a successful run, under its exact and under its normalized entrypoint."""
        for name in {collapse_spaces(entrypoint), normalize_entrypoint(entrypoint)}:
            # Reinserted at the end, so that the entrypoint unused for longest is dropped first.
            previous = self.runs.pop(name, [])
            self.runs[name] = [*previous, round(seconds, 3)][-RUN_LIMIT:]
        while len(self.runs) > ENTRYPOINT_LIMIT:
            del self.runs[next(iter(self.runs))]

    def median(self, entrypoint: str) -> float | None:
        """Return the median in seconds; None where fewer than `RUNS_NEEDED` runs are known."""
        # A number may be an id, or may determine the duration (`--epochs 300`): exact runs win.
        for name in (collapse_spaces(entrypoint), normalize_entrypoint(entrypoint)):
            runs = self.runs.get(name, [])
            if len(runs) >= RUNS_NEEDED:
                return statistics.median(runs)
        return None


def collapse_spaces(entrypoint: str) -> str:
    """Return the entrypoint with single spaces."""
    return " ".join(entrypoint.split())[:LENGTH_LIMIT]


def normalize_entrypoint(entrypoint: str) -> str:
    """Return what runs of the same entrypoint have in common: ids, dates and long numbers become
    `#`."""
    return VARYING.sub("#", " ".join(entrypoint.split()))[:LENGTH_LIMIT]
