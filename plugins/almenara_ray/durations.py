"""How long an entrypoint usually takes."""

import re
import statistics
from typing import Final

import msgspec

RUNS: Final = 20
ENTRYPOINTS: Final = 500
ENOUGH: Final = 2
VARYING: Final = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
    r"|\d{4}-\d{2}-\d{2}(?:[T ][\d:.]+Z?)?|\b[0-9a-f]{12,}\b|\d{5,}"
)


class Durations(msgspec.Struct):
    """Seconds that the last successful runs of each entrypoint took."""

    runs: dict[str, list[float]] = {}

    def note(self, entrypoint: str, seconds: float) -> None:
        """Remember a successful run."""
        name = alike(entrypoint)
        # Put last again, so that what has not run for longest is forgotten first.
        kept = self.runs.pop(name, [])
        self.runs[name] = [*kept, round(seconds, 3)][-RUNS:]
        while len(self.runs) > ENTRYPOINTS:
            del self.runs[next(iter(self.runs))]

    def usual(self, entrypoint: str) -> float | None:
        """The median in seconds; None where too few runs are known."""
        runs = self.runs.get(alike(entrypoint), [])
        return statistics.median(runs) if len(runs) >= ENOUGH else None


def alike(entrypoint: str) -> str:
    """What runs of the same entrypoint have in common: ids, dates and long numbers are left out."""
    return VARYING.sub("#", " ".join(entrypoint.split()))[:300]
