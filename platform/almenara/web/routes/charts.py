"""The data of charts: what a browser draws a panel from."""

from collections.abc import Mapping
from typing import Final

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from almenara.clock import clock_at
from almenara.panels.charts import Window
from almenara.panels.panel import Panel
from almenara.panels.time_window import DEFAULT_SPAN, TIME_PARAMETERS, TimeWindow, parse_time_window
from almenara.promql.parser import parse_duration
from almenara.promql.syntax import QueryError
from almenara.signals import now
from almenara.units import MILLISECOND, SECOND
from almenara.web.authorization import VIEWER
from almenara.web.layout import PageRequest
from almenara.web.problems import BadParameterError
from almenara.web.routes.api.parameters import check_parameters, refuse_time
from almenara.web.services import Services
from almenara.web.timed_view import read_time

OWN_PARAMETERS: Final = frozenset(("step", "marks"))
MARKS_SEPARATOR: Final = "|"
"""Between the titles in `marks`."""


@get("/api/charts/{name:str}", opt=VIEWER, include_in_schema=False)
async def chart(
    request: PageRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Response[bytes]:
    """Return the lines of a chart with its filters, in the time window of its page."""
    panel = services.panels.get(name)
    if panel is None or panel.read_chart is None:
        raise NotFoundException(f"There is no chart {name[:80]!r}.")
    check_parameters(request, panel.filters | OWN_PARAMETERS | set(TIME_PARAMETERS))
    query = request.query_params
    # Samples are stored for longer than the states of resources: what the view is limited to does
    # not limit the chart.
    parsed = parse_time_window(query, now=now())
    if parsed.problem:
        raise refuse_time(parsed.problem, parsed.window, TIME_PARAMETERS)
    timed = await read_time(services, request)
    window = make_window(parsed.window, query, panel, now())
    with clock_at(timed.view.moment):
        try:
            filters = panel.parse_filters(query)
        except ValueError as error:
            raise BadParameterError(detail=str(error)) from None
        data = await panel.read_chart(timed.view, filters, window)
    return Response(
        msgspec.json.encode(data),
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def make_window(times: TimeWindow, query: Mapping[str, str], panel: Panel, moment: int) -> Window:
    """Return from when until when a chart is drawn: as its page or, where the page shows what it
    does by default, as long as the panel declares. Raises `BadParameterError`."""
    try:
        step = parse_duration(query["step"]) * MILLISECOND if query.get("step") else 0
    except QueryError as error:
        raise BadParameterError(detail=str(error)) from None
    since, until = times.bounds(moment)
    if times.since is None and times.span == DEFAULT_SPAN:
        since = until - round(panel.chart_span * SECOND)
    marks = frozenset(query.get("marks", "").split(MARKS_SEPARATOR)) & panel.chart_marks.keys()
    return Window(since, until, step, marks)
