"""What a source that publishes nothing but invalid signals costs its neighbours."""

import statistics
from collections.abc import Iterator
from pathlib import Path

from results import Result, Size

from support.invalid_signals import make_fleet, measure_neighbours


def measure_invalid(folder: Path, size: Size) -> Iterator[Result]:
    """Publish to stored of healthy sources, while a bad one publishes and rests in turns."""
    for isolation in ("task", "thread", "process"):
        fleet = make_fleet(
            folder / isolation, isolation, turns=size.turns, seconds=size.turn_seconds
        )
        with fleet.almenara:
            measured = measure_neighbours(fleet)
        assert measured.missing == 0, f"{measured.missing} events of healthy sources are missing"
        yield Result(
            f"invalid signals of a {isolation}, p50 of others",
            f"{statistics.median(measured.with_bad) * 1e3:.2f} ms",
            f"{statistics.median(measured.without) * 1e3:.2f} ms without", measured.ratio,
        )  # fmt: skip
