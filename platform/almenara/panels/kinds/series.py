"""Charts with a line for each resource."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from almenara.hookspecs import ResourceKey, SeriesPanel
from almenara.panels.filters import ResourceFilters
from almenara.panels.formats import format_value
from almenara.panels.kinds.base import affected_by_resources, make_panel
from almenara.panels.kinds.samples import REFRESH, select_series, stale_age
from almenara.panels.line_chart import WIDTH, line_pieces, round_up
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.scope import ALERT_KIND
from almenara.signals import now

LINE_COLORS: Final = 8
MAX_MARKS: Final = 20
"""Alerts that are marked in a chart."""


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
            "alerts": list_alert_marks(
                view, query.metric, {resource.key for resource, _ in visible}, first, last
            ),
            "more": len(selected) - len(visible),
        }

    return make_panel(
        plugin,
        declaration,
        prepare,
        is_affected=affected_by_resources(query),
        refresh=declaration.refresh or REFRESH,
    )


def list_alert_marks(
    view: View, metric: str, keys: Collection[ResourceKey], first: int, last: int
) -> list[dict[str, Any]]:
    """Return where alerts about the resources of a chart have fired, in the units of the plot.

    An alert about another metric of the same resource is left out.
    """
    marks = []
    for alert in view.resources.of_kind(ALERT_KIND):
        state = alert.state
        resource, started = state.get("resource"), state.get("started")
        if alert.deleted or not resource or not started or not first <= started <= last:
            continue
        key = (resource["kind"], resource["namespace"], resource["name"])
        if key in keys and state.get("metric", "") in ("", metric):
            marks.append({
                "x": round((started - first) / max(last - first, 1) * WIDTH, 1),
                "is_over": alert.status == "resolved",
                "summary": state.get("annotations", {}).get("summary", alert.namespace),
                "key": f"{alert.namespace}/{alert.name}",
            })  # fmt: skip
    return marks[:MAX_MARKS]
