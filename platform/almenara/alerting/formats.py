"""Numbers and durations in the texts of alerts."""

from typing import Any


def format_number(value: Any) -> str:
    """Return a number for people: `0.954`, `12,300`; other values as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def format_duration(seconds: Any) -> str:
    """Return seconds as `45 s`, `5 min`, `2 h` or `3 d`; other values as text."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return str(seconds)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
