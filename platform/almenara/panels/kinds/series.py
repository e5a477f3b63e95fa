"""Charts with a line for each resource."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import ResourceKey, SeriesPanel
from almenara.panels.bar_chart import BarRow, draw_bars
from almenara.panels.charts import ChartData, ChartLevel, LineKey, Window
from almenara.panels.data_view import PanelDataView
from almenara.panels.filters import CustomFilters, ResourceFilters
from almenara.panels.formats import format_value
from almenara.panels.kinds.base import affected_by_resources, make_panel
from almenara.panels.kinds.chart_marks import offer_marks, read_marks
from almenara.panels.kinds.chart_reader import ChartReader, combine_points, line_name
from almenara.panels.kinds.samples import REFRESH, stale_age
from almenara.panels.line_chart import WIDTH, Points, height_of, line_pieces, round_up
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.scope import ALERT_KIND
from almenara.signals import Resource, now
from almenara.units import MILLISECOND, SECOND

LINE_COLORS: Final = 8
MAX_MARKS: Final = 20
"""Alerts that are marked in a picture."""
LONG_STEP: Final = 3600.0
"""Seconds of a step from which on the samples in memory make no picture."""
STORED_INTERVAL: Final = 60.0
"""Seconds between two pictures that are made of stored samples."""
LIVE_POINTS: Final = 12
"""Samples of each line that a frame carries for the chart in the browser: more than arrive between
two frames."""

ALL: Final = Resource(kind="", name="all")
"""Stands for all resources of a combined line."""

ResolveFilters = Callable[
    [View, Any], Awaitable[tuple[ResourceFilters, Sequence[Resource] | None]]
]  # fmt: skip
"""Returns the filters of resources, and the resources that the panel selects itself, if it does."""


class LiveLine(msgspec.Struct, frozen=True, array_like=True):
    """The newest samples of a line, with which a browser continues its chart."""

    key: LineKey
    points: list[tuple[int, float]]
    """Time in milliseconds, and value."""
    no_data_for: str
    """How long there has been no sample, if that is too long."""


def build(plugin: str, declaration: SeriesPanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    reader, resolve = ChartReader(declaration), _make_resolver(declaration)

    async def prepare(view: View, filters: Any) -> Mapping[str, Any]:
        own_filters, selected = await resolve(view, filters)
        return await prepare_picture(reader, view, own_filters, selected)

    async def read_chart(view: View, filters: Any, window: Window) -> ChartData:
        own_filters, selected = await resolve(view, filters)
        data = await reader.read(view, own_filters, selected, window)
        marks = await read_marks(
            view, declaration.query.kind, declaration.marks, filters.to_query(), window
        )
        return msgspec.structs.replace(data, marks=marks)

    return make_panel(
        plugin,
        declaration,
        prepare,
        parse=ResourceFilters.from_query
        if declaration.select is None
        else CustomFilters.from_query,
        is_affected=affected_by_resources(declaration.query),
        refresh=declaration.refresh or REFRESH,
        min_interval=STORED_INTERVAL if declaration.step >= LONG_STEP else 0.0,
        read_chart=read_chart,
        chart_span=declaration.span,
        chart_marks=offer_marks(declaration.marks),
    )


def _make_resolver(declaration: SeriesPanel) -> ResolveFilters:
    select = declaration.select

    async def resolve(
        view: View, filters: Any
    ) -> tuple[ResourceFilters, Sequence[Resource] | None]:
        if select is None:
            return filters, None
        return ResourceFilters(), await select(PanelDataView(view), filters.to_query())

    return resolve


async def prepare_picture(
    reader: ChartReader,
    view: View,
    filters: ResourceFilters,
    selected: Sequence[Resource] | None = None,
) -> Mapping[str, Any]:
    """Return the values of the picture, which needs no JavaScript: of the last samples in memory
    or, for histograms and long steps, of stored ones."""
    if not reader.is_histogram and reader.panel.step < LONG_STEP:
        return draw_newest(reader, view, reader.find(view, filters, selected))
    moment = now()
    window = Window(moment - round(reader.panel.span * SECOND), moment)
    data = await reader.read(view, filters, selected, window)
    current = [] if reader.is_histogram else reader.find(view, filters, selected)
    known = {resource.key: resource for resource, _ in current}
    newest = {resource.key: sorted(points) for resource, points in current}
    series = []
    for line in data.lines:
        kind, namespace, name = line.key
        points = [
            (time * MILLISECOND, value)
            for time, value in zip(line.times, line.values, strict=True)
            if value is not None
        ]
        if points:
            resource = Resource(kind=kind, namespace=namespace, name=name or line.name)
            series.append((known.get(line.key, resource), points))
    values = draw(view, reader.panel, series, data.levels, data.more, newest)
    if reader.panel.style != "bars":
        return values
    return {
        **values,
        "rows": draw_rows(reader.panel, series, data),
        "first": data.since * MILLISECOND,
        "last": data.until * MILLISECOND,
    }


def draw_rows(
    panel: SeriesPanel, series: Sequence[tuple[Resource, Points]], data: ChartData
) -> list[BarRow]:
    """Return a row of bars for each line, over the whole time of the chart."""
    first, last = data.since * MILLISECOND, data.until * MILLISECOND
    highest = max((value for _, points in series for _, value in points), default=0.0)
    high = 1.0 if panel.format == "percent" and highest <= 1 else highest
    return [
        BarRow(
            name=line_name(resource.key, panel.line_names),
            newest=points[-1][1],
            paths=draw_bars(points, first, last, data.step * MILLISECOND, high, data.levels),
        )
        for resource, points in series
    ]


def draw_newest(
    reader: ChartReader, view: View, current: list[tuple[Resource, Points]]
) -> Mapping[str, Any]:
    """Return the values of the picture of the last samples."""
    panel = reader.panel
    series = [(resource, reader.transform(points)) for resource, points in current]
    series = [pair for pair in series if pair[1]]
    if panel.combined and series:
        points = combine_points([points for _, points in series], panel.query.combine)
        series = [(ALL, points)]
    series.sort(key=lambda pair: -pair[1][-1][1])
    visible = series[: panel.query.limit]
    # By name, so that a line keeps its colour while the order of values changes.
    visible.sort(key=lambda pair: pair[0].key)
    # Samples are in the order of their arrival, and some arrive late.
    visible = [(resource, sorted(points)) for resource, points in visible]
    levels = reader.levels(view, current, {resource.key for resource, _ in visible})
    return draw(view, panel, visible, levels, len(series) - len(visible))


def draw(
    view: View,
    panel: SeriesPanel,
    visible: Sequence[tuple[Resource, Points]],
    levels: Sequence[ChartLevel],
    more: int,
    newest: Mapping[LineKey, Points] | None = None,
) -> Mapping[str, Any]:
    """Return the values of the picture of some lines; `newest` are the last samples of those whose
    points are others."""
    if not visible:
        return {"lines": []}
    samples = {resource.key: points for resource, points in visible} | dict(newest or {})
    first = min(points[0][0] for _, points in visible)
    # Up to now, so that a line whose samples have stopped ends before the axis does.
    moment = now()
    last = max(moment, *(points[-1][0] for _, points in visible))
    values = [value for _, points in visible for _, value in points]
    low = min(0.0, *values)
    high = round_up(max(*values, *(level.value for level in levels), 0.0))
    return {
        "lines": [
            {
                "color": place % LINE_COLORS,
                "name": line_name(resource.key, panel.line_names),
                "newest": points[-1][1],
                "no_data_for": stale_age(resource, samples[resource.key], moment),
                "pieces": line_pieces(points, first, last, low, high),
            }
            for place, (resource, points) in enumerate(visible)
        ],
        "levels": [
            {
                "title": level.title,
                "value": level.value,
                "severity": level.severity,
                "colors": level.colors,
                "y": f"{height_of(level.value, low, high):.1f}",
            }
            for level in levels
        ],
        "marks": [format_value(mark, panel.value_format) for mark in (high, (low + high) / 2, low)],
        "rows": [],
        "format": panel.value_format,
        "first": first,
        "last": last,
        "alerts": list_alert_marks(
            view, panel.query.metric, {resource.key for resource, _ in visible}, first, last
        ),
        "more": more,
        "live": encode_live([(resource, samples[resource.key]) for resource, _ in visible], moment),
    }


def encode_live(visible: Sequence[tuple[Resource, Points]], moment: int) -> str:
    """Return the newest samples of the lines as JSON."""
    lines = [
        LiveLine(
            resource.key,
            [(time // MILLISECOND, value) for time, value in points[-LIVE_POINTS:]],
            stale_age(resource, points, moment),
        )
        for resource, points in visible
    ]  # fmt: skip
    return msgspec.json.encode(lines).decode()


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
