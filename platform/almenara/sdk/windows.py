"""What processors count and join: windows on event time, and parts that belong together."""

from bisect import insort
from typing import Any, Final

import msgspec

from almenara.hookspecs import Step
from almenara.units import SECOND

MAX_ENTRIES: Final = 1_000


class Window(msgspec.Struct):
    """Values of the last seconds, by the time of their signals."""

    entries: list[tuple[int, float]] = []
    """Time in microseconds and value, oldest first."""

    @property
    def count(self) -> int:
        """The number of values."""
        return len(self.entries)

    @property
    def values(self) -> list[float]:
        """The values, oldest first."""
        return [value for _, value in self.entries]


def add_to_window(
    step: Step, key: str, seconds: float, value: float = 1.0, *, limit: int = MAX_ENTRIES
) -> Window:
    """Add a value at the time of the signal to the window stored under `key`, and return the window
    that ends at its newest value.

    A signal that arrives late is put in its place, and one that is older than the window is left
    out. Of more than `limit` values the newest are kept.
    """
    window = step.state.get(key, Window) or Window()
    insort(window.entries, (step.time, value))
    start = window.entries[-1][0] - int(seconds * SECOND)
    window.entries = [entry for entry in window.entries if entry[0] > start][-limit:]
    step.state.set(key, window)
    return window


def join(step: Step, key: str, part: str, value: Any, parts: set[str]) -> dict[str, Any] | None:
    """Store one part of what belongs together under `key`, such as a correlation; return all parts
    once they are complete, and None until then.

    Parts may arrive in any order, and a repeated part replaces the one before. Set a timer for what
    never completes, and `step.state.delete(key)` in it.
    """
    stored: dict[str, Any] = step.state.get(key, dict) or {}
    stored[part] = value
    if parts - stored.keys():
        step.state.set(key, stored)
        return None
    step.state.delete(key)
    return stored
