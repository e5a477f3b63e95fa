"""Charts with a line for each resource."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.hookspecs import SeriesPanel
from almenara.panels.filters import ResourceFilters
from almenara.panels.formats import format_value
from almenara.panels.kinds.base import affected_by_resources, make_panel
from almenara.panels.kinds.samples import (
    REFRESH,
    Points,
    select_series,
    stale_age,
    usual_interval,
)
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import now

WIDTH: Final = 600.0
HEIGHT: Final = 150.0
LINE_COLORS: Final = 8
GAP_STEPS: Final = 6.0
"""A pause of so many usual steps between samples is a gap in the line."""


def build(plugin: str, declaration: SeriesPanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query

    async def prepare(view: View, filters: ResourceFilters) -> Mapping[str, Any]:
        selected = select_series(view, query, filters)
        selected.sort(key=lambda pair: -pair[1][-1][1])
        visible = selected[: query.limit]
        # By name, so that a line keeps its colour while the order of values changes.
        visible.sort(key=lambda pair: pair[0].key)
        if not visible:
            return {"lines": []}
        first = min(points[0][0] for _, points in visible)
        # Up to now, so that a line whose samples have stopped ends before the axis does.
        moment = now()
        last = max(moment, *(points[-1][0] for _, points in visible))
        low = min(0.0, *(value for _, points in visible for _, value in points))
        high = round_up(max(value for _, points in visible for _, value in points))
        return {
            "lines": [
                {
                    "color": place % LINE_COLORS,
                    "name": f"{resource.namespace}/{resource.name}"
                    if resource.namespace
                    else resource.name,
                    "newest": points[-1][1],
                    "no_data_for": stale_age(resource, points, moment),
                    "pieces": line_pieces(points, first, last, low, high),
                }
                for place, (resource, points) in enumerate(visible)
            ],
            "marks": [
                format_value(mark, declaration.format) for mark in (high, (low + high) / 2, low)
            ],
            "format": declaration.format,
            "first": first,
            "last": last,
            "more": len(selected) - len(visible),
        }

    return make_panel(
        plugin,
        declaration,
        prepare,
        is_affected=affected_by_resources(query),
        refresh=declaration.refresh or REFRESH,
    )


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
        y = HEIGHT - 1 - (value - low) / max(high - low, 1e-12) * (HEIGHT - 2)
        pieces[-1].append(f"{x:.1f},{y:.1f}")
    return [" ".join(piece) for piece in pieces if len(piece) > 1]
