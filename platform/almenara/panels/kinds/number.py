"""The newest sample as a large number, with a sparkline."""

from collections.abc import Mapping
from typing import Any

from almenara.hookspecs import NumberPanel
from almenara.panels.filters import ResourceFilters
from almenara.panels.kinds.base import affected_by_resources, make_panel
from almenara.panels.kinds.samples import COMBINE, combine_series, select_series
from almenara.panels.panel import Panel
from almenara.panels.sparkline import render_sparkline
from almenara.panels.view import View


def build(plugin: str, declaration: NumberPanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query

    async def prepare(view: View, filters: ResourceFilters) -> Mapping[str, Any]:
        selected = select_series(view, query, filters)
        if not selected:
            return {"value": None}
        series = [points for _, points in selected]
        values = (
            combine_series(series, query.combine)
            if len(series) > 1
            else [value for _, value in series[0]]
        )
        return {
            "value": COMBINE[query.combine]([points[-1][1] for points in series]),
            "format": declaration.format,
            "sparkline": render_sparkline(values, declaration.title) if len(values) > 1 else "",
            "count": len(series),
            "combine": query.combine,
            "single": selected[0][0].name,
        }

    return make_panel(plugin, declaration, prepare, is_affected=affected_by_resources(query))
