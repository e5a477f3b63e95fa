"""Stored samples as JSON and as CSV."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Parameter

from almenara.errors import Unavailable
from almenara.panels.time_window import parse_time_window
from almenara.promql.parser import parse_duration
from almenara.promql.syntax import QueryError
from almenara.signals import now
from almenara.state.sample_history import (
    FUNCTIONS,
    Function,
    SampleHistory,
    SeriesMatch,
    SeriesRollups,
    compute,
    match_patterns,
)
from almenara.state.sample_quantiles import (
    QUANTILE,
    parse_quantile,
    quantile_points,
    read_histograms,
)
from almenara.state.sample_schema import SeriesName
from almenara.units import MILLISECOND
from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.problems import BadParameterError
from almenara.web.routes.api.export import encode_csv_line, escape_formula
from almenara.web.routes.api.models import format_api_time
from almenara.web.routes.api.parameters import (
    QUERY_PROBLEMS,
    TIMES,
    OriginParameter,
    SinceParameter,
    UntilParameter,
    check_parameters,
    refuse_time,
)
from almenara.web.services import Services

DEFAULT_LIMIT: Final = 100
LARGEST_LIMIT: Final = 1_000
NAMES: Final = ("metric", "kind", "namespace", "name", "origin")
PARAMETERS: Final = frozenset((*NAMES, "since", "until", "step", "function", "limit"))
COLUMNS: Final = ("time", *NAMES, "unit", "value")


def _text(description: str, example: str) -> Any:
    return Parameter(description=description, examples=[Example(value=example)])


MetricParameter = Annotated[str | None, _text("Metric; `*` matches any part of the name", "cpu")]
KindParameter = Annotated[str | None, _text("Kind of the resource, as a pattern", "kubernetes.pod")]
NamespaceParameter = Annotated[str | None, _text("Namespace, as a pattern", "shop")]
NameParameter = Annotated[str | None, _text("Name of the resource, as a pattern", "web-*")]
StepParameter = Annotated[str | None, _text(
    "Time between two points, such as `30s`; longer where there would be more than about 600",
    "1m")]  # fmt: skip
FunctionParameter = Annotated[str, Parameter(
    description="What is returned of the samples of a step; `rate` is the increase of a counter a"
    " second, and series that are no counters are left out; `p50` to `p99.99` is a quantile of a"
    " histogram, whose metric is named without `_bucket` and limit",
    schema_extra={"anyOf": [{"enum": [*FUNCTIONS]}, {"pattern": QUANTILE.pattern}]},
    examples=[Example(value="mean")])]  # fmt: skip
LimitParameter = Annotated[int, Parameter(
    ge=1, le=LARGEST_LIMIT, description="Maximum number of series",
    examples=[Example(value=DEFAULT_LIMIT)])]  # fmt: skip


class SeriesItem(msgspec.Struct, kw_only=True):
    """The points of a series."""

    metric: str
    kind: str
    namespace: str
    name: str
    origin: str
    unit: str
    points: list[tuple[int, float | None]]
    """Start of the step in milliseconds since the Unix epoch, and value. A step without samples is
    missing; a value beyond the range of floats is null."""


class SampleAnswer(msgspec.Struct, kw_only=True):
    """Series of samples in steps of time."""

    since: str | None
    until: str | None
    step: float
    """Seconds from one point to the next."""
    function: str
    series: list[SeriesItem]
    more: int
    """Series that match and are beyond the limit."""


@get("/api/samples", opt=VIEWER, tags=["samples"], responses=QUERY_PROBLEMS)
async def samples(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    metric: MetricParameter = None,
    kind: KindParameter = None,
    namespace: NamespaceParameter = None,
    name: NameParameter = None,
    origin: OriginParameter = None,
    since: SinceParameter = None,
    until: UntilParameter = None,
    step: StepParameter = None,
    function: FunctionParameter = "mean",
    limit: LimitParameter = DEFAULT_LIMIT,
) -> SampleAnswer:
    """Return stored samples in steps, one series for each metric of each resource. Without `since`
    they are those of the last hour."""
    return await _answer(request, services, limit)


@get("/api/samples.csv", opt=VIEWER, tags=["samples"], responses=QUERY_PROBLEMS,
     media_type="text/csv")  # fmt: skip
async def samples_csv(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    metric: MetricParameter = None,
    kind: KindParameter = None,
    namespace: NamespaceParameter = None,
    name: NameParameter = None,
    origin: OriginParameter = None,
    since: SinceParameter = None,
    until: UntilParameter = None,
    step: StepParameter = None,
    function: FunctionParameter = "mean",
    limit: LimitParameter = DEFAULT_LIMIT,
) -> Response[str]:
    """Return the same as a table with a line for each point. A cell that could be a formula gets a
    leading `'`."""
    answer = await _answer(request, services, limit)
    lines = [encode_csv_line(COLUMNS)]
    for series in answer.series:
        names = [
            escape_formula(text)
            for text in (*(getattr(series, field) for field in NAMES), series.unit)
        ]
        lines += [
            encode_csv_line(
                [
                    format_api_time(time * MILLISECOND) or "",
                    *names,
                    "" if value is None else repr(value),
                ]
            )
            for time, value in series.points
        ]
    return Response(
        b"".join(lines).decode(),
        # The framework adds the charset.
        media_type="text/csv",
        headers={"content-disposition": 'attachment; filename="samples.csv"'},
    )


def stored_samples(request: Request[Any, Any, Any], services: Services) -> SampleHistory:
    """Return the samples that the caller may see. Raises `Unavailable`."""
    history = scoped_view(services, request).samples
    if history is None:
        raise Unavailable("Samples are not stored here.")
    return history


async def _answer(request: Request[Any, Any, Any], services: Services, limit: int) -> SampleAnswer:
    check_parameters(request, PARAMETERS)
    query = request.query_params
    function = query.get("function", "mean")
    share = parse_quantile(function)
    moment = now()
    since, until = _parse_span(query, moment)
    read: dict[str, int] = {
        "since": since // MILLISECOND,
        "until": -(-until // MILLISECOND),
        "step": _parse_step(query.get("step")),
        "moment": moment // MILLISECOND,
    }
    history, match = stored_samples(request, services), build_pattern_match(query)
    if share is None:
        plain = _parse_function(function)
        step, all_series = await history.rollups(match, **read)
        items = [item for each in all_series if (item := _build_item(each, plain)) is not None]
    else:
        if match.metric is None:
            raise BadParameterError(detail="a quantile needs the metric of one histogram")
        step, histograms = await read_histograms(history, match, **read)
        items = [
            _make_item(each.name, each.unit, quantile_points(each, share)) for each in histograms
        ]
    return SampleAnswer(
        since=format_api_time(since),
        until=format_api_time(until),
        step=step / 1000,
        function=function,
        series=items[:limit],
        more=max(len(items) - limit, 0),
    )


def build_pattern_match(query: Mapping[str, str]) -> SeriesMatch:
    """Return what the names of an address match, each a plain name or a pattern."""
    return match_patterns({field: query.get(field, "") for field in NAMES})


def _parse_span(query: Mapping[str, str], moment: int) -> tuple[int, int]:
    times = {name: text for name in TIMES if (text := query.get(name))}
    parsed = parse_time_window(times, now=moment)
    if parsed.problem:
        raise refuse_time(parsed.problem, parsed.window, TIMES)
    return parsed.window.bounds(moment)


def _parse_step(text: str | None) -> int:
    if not text:
        return 0
    try:
        return parse_duration(text)
    except QueryError as error:
        raise BadParameterError(detail=f"step: {error}") from None


def _parse_function(text: str) -> Function:
    for function in FUNCTIONS:
        if function == text:
            return function
    raise BadParameterError(
        detail=f"function must be one of {', '.join(FUNCTIONS)} or a quantile such as p95, and is"
        f" {text[:60]!r}"
    )


def _build_item(series: SeriesRollups, function: Function) -> SeriesItem | None:
    points = compute(series.rollups, function)
    return None if points is None else _make_item(series.name, series.unit, points)


def _make_item(name: SeriesName, unit: str, points: Sequence[tuple[int, float]]) -> SeriesItem:
    return SeriesItem(
        metric=name.metric, kind=name.kind, namespace=name.namespace, name=name.name,
        origin=name.origin, unit=unit,
        # JSON has no infinity.
        points=[(time, value if -1e309 < value < 1e309 else None) for time, value in points],
    )  # fmt: skip
