"""The newest sample as a large number, with a sparkline."""

from collections.abc import Mapping
from typing import Any

from almenara.hookspecs import NumberPanel
from almenara.panels.filters import ResourceFilters
from almenara.panels.kinds.base import affected_by_resources, make_panel
from almenara.panels.kinds.samples import (
    COMBINE,
    REFRESH,
    combine_series,
    select_series,
    stale_age,
)
from almenara.panels.panel import Panel
from almenara.panels.sparkline import render_sparkline
from almenara.panels.view import View
from almenara.signals import now


def build(plugin: str, declaration: NumberPanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query

    async def prepare(view: View, filters: ResourceFilters) -> Mapping[str, Any]:
        selected = select_series(view, query, filters)
        if not selected:
            return {"value": None, "no_data_for": ""}
        moment = now()
        ages = [stale_age(resource, points, moment) for resource, points in selected]
        current = [points for (_, points), age in zip(selected, ages, strict=True) if not age]
        series = current or [points for _, points in selected]
        newest = max(selected, key=lambda pair: pair[1][-1][0])
        values = (
            combine_series(series, query.combine)
            if len(series) > 1
            else [value for _, value in series[0]]
        )
        return {
            "value": COMBINE[query.combine]([points[-1][1] for points in series]),
            "no_data_for": "" if current else stale_age(*newest, moment),
            "format": declaration.format,
            "sparkline": render_sparkline(values, declaration.title) if len(values) > 1 else "",
            "count": len(series),
            "missing": len(selected) - len(current) if current else 0,
            "combine": query.combine,
            "single": selected[0][0].name,
        }

    return make_panel(
        plugin,
        declaration,
        prepare,
        is_affected=affected_by_resources(query),
        refresh=declaration.refresh or REFRESH,
    )
