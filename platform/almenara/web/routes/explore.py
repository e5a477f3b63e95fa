"""The metrics page: finds series by kind, name or metric, and draws them."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from heapq import nsmallest
from typing import Final, TypeVar

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.response import Redirect

from almenara.clock import clock_at
from almenara.errors import LimitExceeded, Unavailable
from almenara.histograms import SEPARATOR, SUFFIX, split_bucket
from almenara.history.filter import format_moment
from almenara.panels.explorer import FORMATS, NAME, ChartFilters
from almenara.panels.formats import encode_query
from almenara.panels.kinds.chart_reader import HISTOGRAM_STEP
from almenara.panels.time_window import TIME_PARAMETERS, TimeWindow, format_span
from almenara.panels.view import View
from almenara.signals import now
from almenara.state.sample_history import match_patterns, sort_series
from almenara.state.sample_quantiles import parse_quantile
from almenara.state.sample_schema import SeriesName, StoredSeries
from almenara.units import DAY, MILLISECOND
from almenara.web.authorization import VIEWER
from almenara.web.dashboards import chart_address
from almenara.web.filter_form import build_panel_form
from almenara.web.layout import PageRequest, render_page, render_panel, strip_parameters
from almenara.web.paging import PAGE, cut_page, parse_page
from almenara.web.routes.dashboard_editor import editor_address
from almenara.web.services import Services
from almenara.web.state import get_identity
from almenara.web.timed_view import read_time

ADDRESS: Final = "/explore"
RECENT: Final = DAY
"""How old the last sample of a series may be that the page finds."""
METRICS: Final = 200
"""Metrics of a page."""
SERIES: Final = 100
"""Series of a page."""
MAX_METRICS: Final = 50_000
"""Metrics that a search may match."""
MAX_SUGGESTIONS: Final = 500
REMEMBERED_NAMES: Final = 10_000
"""Names of a field after which only the first are remembered."""

T = TypeVar("T")


class FoundMetric(msgspec.Struct, kw_only=True):
    """A metric of a kind of resources."""

    kind: str
    metric: str
    unit: str
    count: int
    """Series that have it."""
    link: str


@get(ADDRESS, name="explore", opt=VIEWER, include_in_schema=False)
async def explore(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Render the metrics that match the search text and, of the chosen one, the chart."""
    panel = services.panels[NAME]
    values = strip_parameters(request, panel.filters | {"text", PAGE, *TIME_PARAMETERS})
    if values != dict(request.query_params):
        return Redirect(ADDRESS + encode_query(values), status_code=303)
    timed = await read_time(services, request)
    view, window = timed.view, timed.window
    problem = ""
    try:
        filters = ChartFilters.from_query(
            {name: text for name, text in values.items() if name in panel.filters}
        )
    except ValueError as error:
        problem, filters = str(error), ChartFilters()
    page = 1
    try:
        page = parse_page(values.get(PAGE, ""))
    except ValueError as error:
        problem = problem or str(error)
    text = values.get("text", "")
    metrics: Sequence[FoundMetric] = ()
    series: Sequence[StoredSeries] = ()
    suggestions: Mapping[str, Sequence[str]] = {}
    try:
        if filters.metric:
            series = await collect_series(view, text, filters, sort_series)
            suggestions = suggest_names(series)
        else:
            metrics, suggestions = await collect_series(
                view, text, filters, partial(list_metrics, text=text)
            )
    except (LimitExceeded, Unavailable) as error:
        problem = problem or str(error)
    others = {name: text for name, text in values.items() if name != PAGE}
    if filters.metric:
        series, paging = cut_page(series, page, SERIES, ADDRESS, others)
    else:
        metrics, paging = cut_page(metrics, page, METRICS, ADDRESS, others)
    content = ""
    has_chart = bool(filters.metric) and not problem
    if has_chart:
        with clock_at(view.moment):
            content = await render_panel(services, view, panel, filters)
    chart = NAME + encode_query(filters.to_query())
    return render_page(
        services,
        request,
        "explore_page.html",
        {
            "text": text,
            "metrics": metrics,
            "series": list_series(series, filters),
            "paging": paging,
            "chosen": filters,
            "has_charts": has_chart,
            "panel": panel,
            "anchor": panel.anchor_for(filters),
            "chart_address": chart_address(panel, filters),
            "chart": chart,
            "content": content,
            "new_dashboard": editor_address(chart),
            "dashboards": [
                (each.settings.title or each.name, editor_address(chart, each.name))
                for each in services.saved_dashboards.visible(get_identity(request))
                if each.is_editable(get_identity(request))
            ],
            "csv_link": make_csv_link(filters, window.position(now())),
            "clear_link": ADDRESS,
            **build_panel_form(
                ADDRESS,
                [name for name in panel.filter_fields if name != "text"],
                values,
                problem or None,
                [panel.filter_fields],
                suggestions,
            ),
        },
        name="explore",
        title="Metrics",
        channels=[panel.channel(filters, window)] if has_chart else [],
        status_code=400 if problem or timed.problem else 200,
    )


async def collect_series(
    view: View, text: str, filters: ChartFilters, summarize: Callable[[Iterable[StoredSeries]], T]
) -> T:
    """Return what a function makes of the series with a recent sample that have every word of a
    text in their names, and that the filters select. Raises `LimitExceeded` and `Unavailable`."""
    if view.samples is None:
        raise Unavailable("Samples are not stored here.")
    words = text.casefold().split()

    def test(name: SeriesName) -> bool:
        joined = " ".join(name).casefold()
        return all(word in joined for word in words)

    moment = view.moment or now()
    since, until = (moment - RECENT) // MILLISECOND, moment // MILLISECOND + 1
    names = {"kind": filters.kind, "namespace": filters.namespace, "name": filters.name}
    match = match_patterns(names, test if words else None)
    if filters.metric:
        match = msgspec.structs.replace(match, metric=filters.metric)
    return await view.samples.collect(match, since, until, summarize)


def list_metrics(
    matching: Iterable[StoredSeries], text: str
) -> tuple[list[FoundMetric], Mapping[str, Sequence[str]]]:
    """Return the metrics of series, and the values that the form completes."""
    suggestions = Suggestions()
    return group_series(suggestions.read(matching), text), suggestions.sort()


def group_series(matching: Iterable[StoredSeries], text: str = "") -> list[FoundMetric]:
    """Return the metrics of series by kind and name, each with the address of its chart. Raises
    `LimitExceeded` where they are too many.

    The buckets of a histogram are one, with the address of a search that lists them, unless the
    text is such a search.
    """
    has_buckets = f"{SUFFIX}{SEPARATOR}" in text
    counts: Counter[tuple[str, str, str]] = Counter()
    for series in matching:
        counts[series.name.kind, _name_metric(series.name.metric, has_buckets), series.unit] += 1
        if len(counts) > MAX_METRICS:
            raise LimitExceeded(
                f"more than {MAX_METRICS:,} metrics match; search for a part of their names"
            )
    return [
        FoundMetric(
            kind=kind,
            metric=metric,
            unit=unit,
            count=count,
            link=ADDRESS
            + encode_query(
                {"text": f"{kind} {metric}"}
                if metric.endswith(SEPARATOR)
                else chart_query(kind, metric, unit)
            ),
        )
        for (kind, metric, unit), count in sorted(counts.items())
    ]


def _name_metric(metric: str, has_buckets: bool) -> str:
    """Return the name under which a metric is listed: without the limit of a bucket."""
    bucket = None if has_buckets else split_bucket(metric)
    return metric if bucket is None else bucket[0] + SEPARATOR


def chart_query(kind: str, metric: str, unit: str) -> dict[str, str]:
    """Return the filters of the chart of a metric."""
    filters = ChartFilters(metric=metric, kind=kind, format=FORMATS.get(unit, "number"))
    return filters.to_query()


def list_series(matching: Sequence[StoredSeries], filters: ChartFilters) -> list[dict[str, str]]:
    """Return a row for each series, with the address of the chart of it alone."""
    rows = []
    for series in matching:
        alone = msgspec.structs.replace(
            filters, kind=series.name.kind, namespace=series.name.namespace, name=series.name.name
        )
        rows.append(
            {
                "kind": series.name.kind,
                "namespace": series.name.namespace,
                "name": series.name.name,
                "origin": series.name.origin,
                "unit": series.unit,
                "link": ADDRESS + encode_query(alone.to_query()),
            }
        )
    return rows


def make_csv_link(filters: ChartFilters, window: TimeWindow) -> str:
    """Return the address of the samples of a chart as a table, each series on its own; empty for
    buckets, which are no series of their own there."""
    if filters.function == "buckets":
        return ""
    query = {
        "metric": filters.metric,
        "kind": filters.kind,
        "namespace": filters.namespace,
        "name": filters.name,
        "function": filters.function,
    }
    if window.until is not None:
        since, until = window.bounds(window.until)
        query |= {"since": format_moment(since), "until": format_moment(until)}
    elif window.since is not None:
        query["since"] = format_moment(window.since)
    else:
        # It is the time up to when the table is downloaded, as the chart goes on.
        query["since"] = format_span(window.span)
    if parse_quantile(filters.function) is not None:
        query["step"] = format_span(HISTOGRAM_STEP * MILLISECOND)
    return "/api/samples.csv" + encode_query({name: text for name, text in query.items() if text})


class Suggestions:
    """The values of the form's fields: the first ones in the series that pass through."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {
            field: set() for field in ("metric", "kind", "namespace", "name")
        }

    def read(self, matching: Iterable[StoredSeries]) -> Iterator[StoredSeries]:
        """Yield series unchanged."""
        fields = [(SeriesName._fields.index(field), names) for field, names in self._names.items()]
        for series in matching:
            for place, names in fields:
                names.add(series.name[place])
                if len(names) > REMEMBERED_NAMES:
                    names.intersection_update(nsmallest(MAX_SUGGESTIONS + 1, names))
            yield series

    def sort(self) -> Mapping[str, Sequence[str]]:
        """Return the values of each field."""
        return {
            field: sorted(names - {""})[:MAX_SUGGESTIONS] for field, names in self._names.items()
        }


def suggest_names(matching: Iterable[StoredSeries]) -> Mapping[str, Sequence[str]]:
    """Return the values that the form completes."""
    suggestions = Suggestions()
    deque(suggestions.read(matching), maxlen=0)
    return suggestions.sort()
