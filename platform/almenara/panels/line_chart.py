"""Lines of samples in the units of a plot."""

from itertools import pairwise
from typing import Final

WIDTH: Final = 600.0
HEIGHT: Final = 150.0
GAP_STEPS: Final = 6.0
"""A pause of so many usual steps between samples is a gap in the line."""

Points = list[tuple[int, float]]
"""Time in microseconds, and value, oldest first."""


def usual_interval(points: Points) -> int:
    """The median time between two samples, in microseconds; 0 for a single sample."""
    intervals = sorted(after[0] - before[0] for before, after in pairwise(points))
    return intervals[len(intervals) // 2] if intervals else 0


def round_up(value: float) -> float:
    """The next round number for the top of an axis: 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value)


def line_pieces(points: Points, first: int, last: int, low: float, high: float) -> list[str]:
    """The points of a line in the units of the plot, in pieces between the gaps."""
    span = max(last - first, 1)
    usual = usual_interval(points)
    pieces: list[list[str]] = [[]]
    previous = points[0][0]
    for moment, value in points:
        if usual and moment - previous > usual * GAP_STEPS:
            pieces.append([])
        previous = moment
        x = (moment - first) / span * WIDTH
        pieces[-1].append(f"{x:.1f},{height_of(value, low, high):.1f}")
    return [" ".join(piece) for piece in pieces if len(piece) > 1]


def height_of(value: float, low: float, high: float) -> float:
    """Where a value is in the units of the plot, from the top."""
    return HEIGHT - 1 - (value - low) / max(high - low, 1e-12) * (HEIGHT - 2)
