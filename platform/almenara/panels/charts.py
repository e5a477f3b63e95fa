"""What a chart is drawn from: lines between two times, levels and marks.

A line is a list of times and values. A value of None is a gap: the samples stopped for a while.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from almenara.panels.view import View

LineKey = tuple[str, str, str]
"""Kind, namespace and name of the resource; all empty for a combined line."""


class Window(msgspec.Struct, frozen=True):
    """From when until when a chart is drawn, in microseconds."""

    since: int
    until: int
    step: int = 0
    """From one point to the next at least; 0 for as fine as fits."""
    marks: frozenset[str] = frozenset()
    """The titles of the marks to read."""


class ChartLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line: points in time, oldest first."""

    key: LineKey
    name: str
    times: list[int]
    """Milliseconds."""
    values: list[float | None]

    @property
    def newest(self) -> float:
        """The last value."""
        return next((value for value in reversed(self.values) if value is not None), 0.0)


class ChartLevel(msgspec.Struct, frozen=True, kw_only=True):
    """A horizontal line."""

    title: str
    value: float
    severity: str
    colors: str = ""
    """The side on which bars have its colour: `above`, `below`, or neither."""


class ChartMark(msgspec.Struct, frozen=True, kw_only=True):
    """An event on the time axis."""

    time: int
    group: str
    """The title of its marks."""
    text: str
    severity: str
    link: str


class ChartData(msgspec.Struct, frozen=True, kw_only=True):
    """What a browser draws a chart from. Times are in milliseconds."""

    since: int
    until: int
    step: int
    style: str
    scale: str
    format: str
    lines: list[ChartLine]
    levels: list[ChartLevel]
    marks: list[ChartMark]
    more: int
    """Lines with lower values that are left out."""
    is_computed: bool
    """Whether the lines are made of several series, so that live samples do not continue them."""


ReadChart = Callable[[View, Any, Window], Awaitable[ChartData]]
"""Reads the data of a chart for the values of its panel's filters."""
