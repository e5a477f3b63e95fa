"""How long an entrypoint usually takes."""

import re
import statistics
from typing import Final

import msgspec

RUNS: Final = 20
ENTRYPOINTS: Final = 500
ENOUGH: Final = 2
LONGEST: Final = 300
VARYING: Final = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|\d{4}-\d{2}-\d{2}(?:[T ][\d:.]+Z?)?|\b[0-9a-f]{12,}\b|\d{3,}"
)


class Durations(msgspec.Struct):
    """Seconds that the last successful runs of each entrypoint took."""

    runs: dict[str, list[float]] = {}

    def note(self, entrypoint: str, seconds: float) -> None:
        """Remember a successful run, by its words and by what it has in common with others."""
        for name in {exact(entrypoint), alike(entrypoint)}:
            # Put last again, so that what has not run for longest is forgotten first.
            kept = self.runs.pop(name, [])
            self.runs[name] = [*kept, round(seconds, 3)][-RUNS:]
        while len(self.runs) > ENTRYPOINTS:
            del self.runs[next(iter(self.runs))]

    def usual(self, entrypoint: str) -> float | None:
        """The median in seconds; None where too few runs are known."""
        # A number may be an id or may settle how long it takes, so that the very same come first.
        for name in (exact(entrypoint), alike(entrypoint)):
            runs = self.runs.get(name, [])
            if len(runs) >= ENOUGH:
                return statistics.median(runs)
        return None


def exact(entrypoint: str) -> str:
    """The entrypoint but for how it is spaced."""
    return " ".join(entrypoint.split())[:LONGEST]


def alike(entrypoint: str) -> str:
    """What runs of the same entrypoint have in common: ids, dates and long numbers are left out."""
    return VARYING.sub("#", " ".join(entrypoint.split()))[:LONGEST]
