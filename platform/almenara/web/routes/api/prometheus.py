"""Stored samples in the shape of Prometheus' HTTP API, as a data source for Grafana.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from litestar import Request, get, route
from litestar.datastructures import MultiDict
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from almenara.errors import LimitExceeded
from almenara.promql.evaluation import MAX_STEPS, Evaluator, Labels, Result, Steps, Value, Vector
from almenara.promql.matching import build_match, label_series, label_value
from almenara.promql.parser import parse_duration, parse_query, parse_selector
from almenara.promql.syntax import QueryError, Selector
from almenara.signals import now, parse_time
from almenara.state.sample_history import SeriesMatch, sort_series
from almenara.state.sample_schema import SeriesName, StoredSeries
from almenara.units import DAY, MILLISECOND
from almenara.web.authorization import VIEWER
from almenara.web.routes.api.samples import stored_samples
from almenara.web.services import Services

PREFIX: Final = "/api/v1"
DEFAULT_SPAN: Final = DAY // MILLISECOND
"""Milliseconds of which series and labels are listed where a request names no start."""
LARGEST_TIME: Final = 2**53
MAX_SELECTORS: Final = 20
MAX_LABEL_VALUES: Final = 50_000
QUERY_ROUTE: Final[dict[str, Any]] = {
    "http_method": [HttpMethod.GET, HttpMethod.POST],
    "opt": VIEWER,
    "status_code": 200,
    # Prometheus documents this API.
    "include_in_schema": False,
}
Parameters = MultiDict[Any]

T = TypeVar("T")


class Answer(msgspec.Struct, kw_only=True):
    """A successful response of Prometheus' API."""

    status: str
    data: Any


async def read_parameters(request: Request[Any, Any, Any]) -> Parameters:
    """Return the parameters of an address, and those of a form in the body."""
    parameters = MultiDict(request.query_params.multi_items())
    if request.method == "POST":
        form = await request.form()
        for name, value in form.multi_items():
            if isinstance(value, str):
                parameters.add(name, value)
    return parameters


@route(f"{PREFIX}/query", **QUERY_ROUTE)
async def query(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Answer:
    """Evaluate a query at one moment."""
    parameters = await read_parameters(request)
    expression = parse_query(_required(parameters, "query"))
    moment = now() // MILLISECOND
    at = parse_timestamp("time", parameters.get("time"), moment)
    evaluator = Evaluator(stored_samples(request, services), Steps(at, at, 1), moment)
    if isinstance(expression, Selector) and expression.range:
        return _success(
            {
                "resultType": "matrix",
                "result": [
                    {
                        "metric": dict(labels),
                        "values": [[time / 1000, format_value(value)] for time, value in samples],
                    }
                    for labels, samples in await evaluator.read_range(expression)
                ],
            }
        )
    result = await evaluator.evaluate(expression)
    if not isinstance(result, Vector):
        return _success({"resultType": "scalar", "result": [at / 1000, format_value(result)]})
    return _success(
        {
            "resultType": "vector",
            "result": [
                {"metric": dict(labels), "value": [at / 1000, format_value(values[0])]}
                for labels, values in result.series
                if values[0] is not None
            ],
        }
    )


@route(f"{PREFIX}/query_range", **QUERY_ROUTE)
async def query_range(
    request: Request[Any, Any, Any], services: NamedDependency[Services]
) -> Answer:
    """Evaluate a query at several moments."""
    parameters = await read_parameters(request)
    expression = parse_query(_required(parameters, "query"))
    steps = parse_steps(parameters)
    evaluator = Evaluator(stored_samples(request, services), steps, now() // MILLISECOND)
    result = await evaluator.evaluate(expression)
    return _success({"resultType": "matrix", "result": build_matrix(result, steps.moments())})


@route(f"{PREFIX}/series", **QUERY_ROUTE)
async def series(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Answer:
    """List the labels of the series that match."""
    parameters = await read_parameters(request)
    if not parameters.getall("match[]", []):
        raise QueryError("match[] is missing; it is a selector of series, such as cpu")
    names: set[SeriesName] = set()
    for found in await _collect(request, services, parameters, sort_series):
        names.update(series.name for series in found)
    return _success([label_series(name) for name in sorted(names)])


@route(f"{PREFIX}/labels", **QUERY_ROUTE)
async def labels(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Answer:
    """List the names of labels."""
    parameters = await read_parameters(request)
    return _success(
        sorted(set().union(*await _collect(request, services, parameters, list_labels)))
    )


@get(f"{PREFIX}/label/{{label:str}}/values", opt=VIEWER, include_in_schema=False)
async def label_values(
    request: Request[Any, Any, Any], services: NamedDependency[Services], label: FromPath[str]
) -> Answer:
    """List the values of a label."""
    parameters = await read_parameters(request)
    list_values = partial(list_label_values, label)
    return _success(
        sorted(set().union(*await _collect(request, services, parameters, list_values)))
    )


PROMETHEUS: Final[list[HTTPRouteHandler]] = [query, query_range, series, labels, label_values]


async def _collect(
    request: Request[Any, Any, Any],
    services: Services,
    parameters: Parameters,
    summarize: Callable[[Iterable[StoredSeries]], T],
) -> list[T]:
    """Return what a function makes of the series that each selector of a request matches, between
    its start and end."""
    moment = now() // MILLISECOND
    until = parse_timestamp("end", parameters.get("end"), moment)
    since = parse_timestamp("start", parameters.get("start"), until - DEFAULT_SPAN)
    check_order(since, until)
    selectors = parameters.getall("match[]", [])
    if len(selectors) > MAX_SELECTORS:
        raise QueryError(f"more than {MAX_SELECTORS} match[]")
    matches = [build_match(parse_selector(str(text))) for text in selectors] or [SeriesMatch()]
    history = stored_samples(request, services)
    return [await history.collect(match, since, until + 1, summarize) for match in matches]


def list_labels(all_series: Iterable[StoredSeries]) -> set[str]:
    """Return the names of the labels of series."""
    return {label for series in all_series for label in label_series(series.name)}


def list_label_values(label: str, all_series: Iterable[StoredSeries]) -> set[str]:
    """Return the values of a label of series. Raises `LimitExceeded` where they are too many."""
    values: set[str] = set()
    for series in all_series:
        if value := label_value(series.name, label):
            values.add(value)
            if len(values) > MAX_LABEL_VALUES:
                raise LimitExceeded(
                    f"the label has more than {MAX_LABEL_VALUES:,} values; narrow it with match[]"
                )
    return values


def parse_timestamp(name: str, text: str | None, default: int) -> int:
    """Return the milliseconds of seconds since the epoch or an RFC 3339 time."""
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        try:
            return parse_time(text) // MILLISECOND
        except ValueError:
            raise QueryError(
                f"{name} must be seconds since the epoch or an RFC 3339 time, and is {text[:60]!r}"
            ) from None
    if not abs(seconds) * 1000 < LARGEST_TIME:
        raise QueryError(f"{name} is out of range")
    return round(seconds * 1000)


def check_order(start: int, end: int) -> None:
    """Raise `QueryError`, with the range in order, for one that ends before it starts."""
    if end < start:
        raise QueryError(
            "The range is reversed: end is before start. The nearest valid request:"
            f" use start={end / 1000:.3f}&end={start / 1000:.3f}."
        )


def parse_steps(parameters: Parameters) -> Steps:
    """Return the moments of a range query. Raises `QueryError`."""
    start = parse_timestamp("start", _required(parameters, "start"), 0)
    end = parse_timestamp("end", _required(parameters, "end"), 0)
    step = parse_duration(_required(parameters, "step"))
    if step <= 0:
        raise QueryError("step must be longer than 0")
    check_order(start, end)
    if (end - start) // step >= MAX_STEPS:
        raise QueryError(
            f"the query has more than {MAX_STEPS:,} steps; use a longer step or a shorter range"
        )
    return Steps(start, end, step)


def build_matrix(result: Result, moments: Sequence[int]) -> list[dict[str, Any]]:
    """Return the series of a result; a number has its value at each step."""
    rows: list[tuple[Labels, list[Value]]] = (
        result.series if isinstance(result, Vector) else [((), [result] * len(moments))]
    )
    return [
        {
            "metric": dict(labels),
            "values": [
                [moment / 1000, format_value(value)]
                for moment, value in zip(moments, values, strict=True)
                if value is not None
            ],
        }
        for labels, values in rows
    ]


def format_value(value: Value) -> str:
    """Return a value as Prometheus writes it."""
    if value is None or math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    return text.removesuffix(".0")


def _required(parameters: Parameters, name: str) -> str:
    text = parameters.get(name)
    if not text:
        raise QueryError(f"the parameter {name} is missing")
    return str(text)


def _success(data: Any) -> Answer:
    return Answer(status="success", data=data)
