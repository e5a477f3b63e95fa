"""The data of charts: what a browser draws a panel from."""

from collections.abc import Mapping
from typing import Final

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from almenara.history import Filter
from almenara.panels.charts import Window
from almenara.panels.panel import Panel
from almenara.promql.parser import parse_duration
from almenara.promql.syntax import QueryError
from almenara.signals import now
from almenara.units import MILLISECOND, SECOND
from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.layout import PageRequest
from almenara.web.problems import BadParameterError
from almenara.web.routes.api.parameters import check_parameters
from almenara.web.services import Services

WINDOW: Final = frozenset(("since", "until", "step", "marks"))
MARKS_SEPARATOR: Final = "|"
"""Between the titles in `marks`."""


@get("/api/charts/{name:str}", opt=VIEWER, include_in_schema=False)
async def chart(
    request: PageRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Response[bytes]:
    """Return the lines of a chart with its filters, from `since` until `until`."""
    panel = services.panels.get(name)
    if panel is None or panel.read_chart is None:
        raise NotFoundException(f"There is no chart {name[:80]!r}.")
    check_parameters(request, panel.filters | WINDOW)
    query = request.query_params
    window = parse_window(query, panel, now())
    try:
        filters = panel.parse_filters(query)
    except ValueError as error:
        raise BadParameterError(detail=str(error)) from None
    data = await panel.read_chart(scoped_view(services, request), filters, window)
    return Response(
        msgspec.json.encode(data),
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def parse_window(query: Mapping[str, str], panel: Panel, moment: int) -> Window:
    """Return the times of a request; without any, the last ones up to now, as long as the panel
    declares. Raises `BadParameterError`."""
    try:
        times = Filter.from_query(
            {name: text for name in ("since", "until") if (text := query.get(name))}
        )
        step = parse_duration(query["step"]) * MILLISECOND if query.get("step") else 0
    except (ValueError, QueryError) as error:
        raise BadParameterError(detail=str(error)) from None
    until = moment if times.until is None else times.until
    since = until - round(panel.chart_span * SECOND) if times.since is None else times.since
    if since >= until:
        raise BadParameterError(detail="the time range is empty: since is not before until")
    marks = frozenset(query.get("marks", "").split(MARKS_SEPARATOR)) & panel.chart_marks.keys()
    return Window(since, until, step, marks)
