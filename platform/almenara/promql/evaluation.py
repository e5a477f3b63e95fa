"""Evaluates queries over stored samples.

Two things differ from Prometheus. `rate` and `increase` count from the sample before the range and
extrapolate nothing, as VictoriaMetrics does; a rate is by the time from that sample to the last.
And where a query goes back further than single samples, or has long steps, rollups answer it: a
selector has the mean of a minute or an hour, and a range is at least as long as that.
"""

import asyncio
import math
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

import msgspec

from almenara.histograms import parse_limit, quantile
from almenara.promql.matching import build_match, label_series
from almenara.promql.syntax import (
    LIMIT_LABEL,
    METRIC_LABEL,
    QUANTILE,
    Aggregation,
    AggregationName,
    Binary,
    BinaryOperator,
    Call,
    Expression,
    FunctionName,
    Number,
    Quantile,
    QueryError,
    QueryTooLargeError,
    Selector,
)
from almenara.state.rollups import add_floats, known_rise
from almenara.state.sample_codec import Rollups
from almenara.state.sample_history import SampleHistory

LOOKBACK: Final = 300_000
"""Milliseconds for which a sample is the current value."""
MAX_STEPS: Final = 11_000
MAX_VALUES: Final = 300_000
"""Values that a query returns, over all its series."""

Value = float | None
"""A value at a step; None where there is no sample."""
Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted."""


class Steps(msgspec.Struct, frozen=True):
    """The moments at which a query is evaluated, in milliseconds."""

    start: int
    end: int
    step: int

    def moments(self, offset: int = 0) -> range:
        """Return the moments, moved back by an offset."""
        return range(self.start - offset, self.end - offset + 1, self.step)


Series = list[tuple[Labels, list[Value]]]


class Vector(msgspec.Struct, frozen=True):
    """Series with a value for each step."""

    series: Series


Result = Vector | float


class Evaluator:
    """Evaluates one query of a viewer."""

    def __init__(self, samples: SampleHistory, steps: Steps, moment: int) -> None:
        self._samples, self._steps, self._moment = samples, steps, moment
        self._values = 0

    async def evaluate(self, expression: Expression) -> Result:
        """Return the value of an expression.

        Raises `QueryError`, `LimitExceeded` and `Unavailable`.
        """
        match expression:
            case Number():
                return expression.value
            case Selector() | Call():
                _check_range(expression)
                return await self._collect(expression)
            case Aggregation():
                return await self._aggregate(expression)
            case Quantile():
                return await self._compute_quantile(expression)
            case Binary():
                left = await self.evaluate(expression.left)
                right = await self.evaluate(expression.right)
                return await self._combine(expression.operator, left, right)

    async def read_range(self, selector: Selector) -> list[tuple[Labels, list[tuple[int, float]]]]:
        """Return the samples in the range of a selector before the first moment.

        Times are in milliseconds. Raises what `evaluate` raises.
        """
        until = self._steps.start - selector.offset

        def read(rollups: Rollups, width: int) -> list[tuple[int, float]]:
            return [
                (time + width, total / count)
                for time, total, count in zip(
                    rollups.times, rollups.totals, rollups.counts, strict=True
                )
                if until - selector.range < time + width <= until
            ]

        series: list[tuple[Labels, list[tuple[int, float]]]] = []
        async for group in self._samples.evaluate(
            build_match(selector), read, since=until - selector.range, until=until + 1, step=1,
            moment=self._moment,
        ):  # fmt: skip
            for name, samples in group:
                if samples:
                    self._count_values(len(samples))
                    series.append((sort_labels(label_series(name)), samples))
        return series

    async def _select(self, expression: Selector | Call) -> AsyncIterator[Series]:
        """Yield the series of a selector or of a function of one, some at a time."""
        if isinstance(expression, Call):
            selector, function = expression.selector, expression.function
            span = selector.range
        else:
            selector, function, span = expression, "last_over_time", LOOKBACK
        moments = self._steps.moments(selector.offset)

        def compute(rollups: Rollups, width: int) -> list[Value]:
            return compute_steps(rollups, width, function, span, moments)

        async for group in self._samples.evaluate(
            build_match(selector),
            compute,
            since=moments[0] - span,
            until=moments[-1] + 1,
            step=self._steps.step if len(moments) > 1 else 1,
            moment=self._moment,
        ):
            yield [
                (sort_labels(label_series(name)), values)
                for name, values in group
                if any(value is not None for value in values)
            ]

    async def _collect(self, expression: Selector | Call) -> Vector:
        series: Series = []
        async for group in self._select(expression):
            self._count_values(sum(len(values) for _, values in group))
            series += group
        if isinstance(expression, Call) and expression.function != "last_over_time":
            return _without_names(Vector(series))
        return Vector(series)

    def _count_values(self, count: int) -> None:
        self._values += count
        if self._values > MAX_VALUES:
            raise QueryTooLargeError(
                f"the query returns more than {MAX_VALUES:,} values; narrow it to fewer series, use"
                " a longer step, or aggregate"
            )

    async def _aggregate(self, aggregation: Aggregation) -> Vector:
        """Add one group of series after the other, so that many need no more memory than few."""
        groups: dict[Labels, Aggregate] = {}
        operand = aggregation.operand
        if isinstance(operand, Selector | Call):
            _check_range(operand)
            async for series in self._select(operand):
                _add(groups, series, aggregation)
        else:
            result = await self.evaluate(operand)
            if not isinstance(result, Vector):
                raise QueryError(f"{aggregation.operator} needs series and not a number")
            for pair in result.series:
                _add(groups, [pair], aggregation)
                await asyncio.sleep(0)
        return Vector([(labels, group.finish()) for labels, group in groups.items()])

    async def _compute_quantile(self, expression: Quantile) -> Vector:
        """Group the buckets of each histogram, and compute the quantile at each step."""
        result = await self.evaluate(expression.operand)
        if not isinstance(result, Vector):
            raise QueryError(f"{QUANTILE} needs series and not a number")
        groups: dict[Labels, dict[float, list[Value]]] = {}
        for labels, values in result.series:
            limit = parse_limit(dict(labels).get(LIMIT_LABEL, ""))
            if limit is not None:
                key = tuple(pair for pair in labels if pair[0] not in (LIMIT_LABEL, METRIC_LABEL))
                groups.setdefault(key, {})[limit] = values
        series: Series = []
        for key, buckets in groups.items():
            series.append((key, quantiles_of(expression.share, buckets)))
            await asyncio.sleep(0)
        return Vector(series)

    async def _combine(self, operator: BinaryOperator, left: Result, right: Result) -> Result:
        if isinstance(left, Vector) and isinstance(right, Vector):
            raise QueryError(
                "arithmetic of series with series is not supported; one side must be a number"
            )
        calculate = ARITHMETIC[operator]
        if isinstance(left, Vector):
            vector, number = left, right
            change: Callable[[float], float] = lambda value: calculate(value, number)  # type: ignore[arg-type] # noqa: E731
        elif isinstance(right, Vector):
            vector, number = right, left
            change = lambda value: calculate(number, value)  # noqa: E731
        else:
            return calculate(left, right)
        series = []
        for labels, values in vector.series:
            series.append((labels, [None if value is None else change(value) for value in values]))
            await asyncio.sleep(0)
        return _without_names(Vector(series))


def quantiles_of(share: float, buckets: Mapping[float, list[Value]]) -> list[Value]:
    """Return a quantile at each step, of values by the limit of their bucket."""
    return [
        quantile(
            share,
            {
                limit: value
                for limit, value in zip(buckets, values, strict=True)
                if value is not None and not math.isnan(value)
            },
        )
        for values in zip(*buckets.values(), strict=True)
    ]


def compute_steps(
    rollups: Rollups, width: int, function: FunctionName, span: int, moments: Sequence[int]
) -> list[Value]:
    """Return the value of a function over the `span` milliseconds before each moment.

    A rollup counts where its end is in that range.
    """
    ends = [start + width for start in rollups.times] if width else rollups.times
    span = max(span, width)
    compute = OVER_TIME[function]
    values: list[Value] = []
    for moment in moments:
        first, end = bisect_right(ends, moment - span), bisect_right(ends, moment)
        if first == end:
            values.append(None)
            continue
        values.append(compute(rollups, first, end))
    return values


def _increase(rollups: Rollups, first: int, end: int) -> Value:
    # Of the very first sample of a series it is unknown by how much it rose.
    is_unknown = end == 1 and rollups.counts[0] == 1 and not rollups.is_first_known
    if rollups.increases is None or is_unknown:
        return None
    return add_floats(rollups.increases[first:end])


def _rate(rollups: Rollups, first: int, end: int) -> Value:
    if rollups.increases is None:
        return None
    rise, span = known_rise(rollups, first, end)
    return rise * 1000 / span if span else None


def _mean(rollups: Rollups, first: int, end: int) -> Value:
    return add_floats(rollups.totals[first:end]) / sum(rollups.counts[first:end])


def _last(rollups: Rollups, first: int, end: int) -> Value:
    return rollups.totals[end - 1] / rollups.counts[end - 1]


OVER_TIME: Final[Mapping[FunctionName, Callable[[Rollups, int, int], Value]]] = {
    "rate": _rate,
    "increase": _increase,
    "avg_over_time": _mean,
    "min_over_time": lambda rollups, first, end: min(rollups.lows[first:end]),
    "max_over_time": lambda rollups, first, end: max(rollups.highs[first:end]),
    "sum_over_time": lambda rollups, first, end: add_floats(rollups.totals[first:end]),
    "count_over_time": lambda rollups, first, end: float(sum(rollups.counts[first:end])),
    "last_over_time": _last,
}


class Aggregate:
    """Series that are added to one."""

    def __init__(self, operator: AggregationName) -> None:
        self._operator = operator
        self._values: list[Value] = []
        self._counts: list[int] = []

    def add(self, values: Sequence[Value]) -> None:
        """Add a series; a missing value changes nothing."""
        if not self._values:
            self._values = list(values)
            self._counts = [int(value is not None) for value in values]
            return
        merge = MERGE[self._operator]
        self._values = [
            other if value is None else value if other is None else merge(value, other)
            for value, other in zip(self._values, values, strict=True)
        ]
        self._counts = [
            count + (value is not None) for count, value in zip(self._counts, values, strict=True)
        ]

    def finish(self) -> list[Value]:
        """Return the aggregate at each step; None where no series has a value."""
        if self._operator == "count":
            return [float(count) if count else None for count in self._counts]
        if self._operator == "avg":
            return [
                None if value is None else value / count
                for value, count in zip(self._values, self._counts, strict=True)
            ]
        return self._values


def _merge_sum(one: float, other: float) -> float:
    return one + other


def _choose(choose: Callable[[float, float], float], one: float, other: float) -> float:
    """Return one of two values; what is no number only where both are not, as Prometheus does."""
    if math.isnan(one):
        return other
    return one if math.isnan(other) else choose(one, other)


MERGE: Final[Mapping[AggregationName, Callable[[float, float], float]]] = {
    "sum": _merge_sum,
    "avg": _merge_sum,
    "count": _merge_sum,
    "min": lambda one, other: _choose(min, one, other),
    "max": lambda one, other: _choose(max, one, other),
}


def _add(groups: dict[Labels, Aggregate], series: Series, aggregation: Aggregation) -> None:
    for labels, values in series:
        key = _group(labels, aggregation)
        group = groups.get(key)
        if group is None:
            group = groups[key] = Aggregate(aggregation.operator)
        group.add(values)


def _check_range(expression: Selector | Call) -> None:
    if isinstance(expression, Selector) and expression.range:
        raise QueryError(
            "a selector with a range needs a function, such as rate(requests_total[5m])"
        )


def sort_labels(labels: Mapping[str, str]) -> Labels:
    """Return labels as a key."""
    return tuple(sorted(labels.items()))


def _divide(left: float, right: float) -> float:
    if right:
        return left / right
    return (
        math.nan
        if not left or math.isnan(left)
        else math.copysign(math.inf, left * (math.copysign(1.0, right)))
    )


def _remainder(left: float, right: float) -> float:
    return math.fmod(left, right) if right and math.isfinite(left) else math.nan


ARITHMETIC: Final[Mapping[BinaryOperator, Callable[[float, float], float]]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": _divide,
    "%": _remainder,
}


def _group(labels: Labels, aggregation: Aggregation) -> Labels:
    if aggregation.is_without:
        left_out = {METRIC_LABEL, *aggregation.labels}
        return tuple(pair for pair in labels if pair[0] not in left_out)
    return tuple(pair for pair in labels if pair[0] in aggregation.labels)


def _without_names(vector: Vector) -> Vector:
    series = [
        (tuple(pair for pair in labels if pair[0] != METRIC_LABEL), values)
        for labels, values in vector.series
    ]
    if len({labels for labels, _ in series}) < len(series):
        raise QueryError(
            "several series have the same labels without the name of the metric; name one metric,"
            " or aggregate"
        )
    return Vector(series)
