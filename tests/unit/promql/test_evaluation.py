"""Evaluation of queries, compared with plain arithmetic."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from almenara.promql.evaluation import ARITHMETIC, Aggregate, compute_steps
from almenara.promql.matching import build_match
from almenara.promql.parser import parse_selector
from almenara.promql.syntax import AGGREGATIONS, QueryError
from almenara.state.rollups import measure_spans, roll_up, single_rollups
from almenara.state.sample_codec import Points
from almenara.state.sample_schema import SeriesName

SAMPLES = st.lists(
    st.tuples(st.integers(0, 600), st.integers(0, 100)), min_size=1, max_size=40,
    unique_by=lambda pair: pair[0],
).map(sorted)  # fmt: skip
POD = SeriesName("cpu", "kubernetes.pod", "shop", "web-1", "kubernetes")


@given(SAMPLES, st.integers(1, 200), st.integers(1, 120))
def test_functions_of_a_range_are_plain_arithmetic(
    samples: list[tuple[int, int]], span: int, step: int
) -> None:
    points = Points([time for time, _ in samples], [float(value) for _, value in samples])
    rises = {
        time: 0.0 if number == 0 else float(value - before if value >= before else value)
        for number, ((time, value), (_, before)) in enumerate(
            zip(samples, [samples[0], *samples], strict=False)
        )
    }
    rollups, moments = single_rollups(points, None), range(0, 700, step)
    inside = [
        [(time, float(value)) for time, value in samples if moment - span < time <= moment]
        for moment in moments
    ]
    expected = {
        "last_over_time": [values[-1][1] if values else None for values in inside],
        "min_over_time": [min((v for _, v in values), default=None) for values in inside],
        "max_over_time": [max((v for _, v in values), default=None) for values in inside],
        "sum_over_time": [sum(v for _, v in values) if values else None for values in inside],
        "count_over_time": [float(len(values)) if values else None for values in inside],
        "avg_over_time": [
            sum(v for _, v in values) / len(values) if values else None for values in inside
        ],
        # By how much the first sample rose is unknown, so it alone has no increase.
        "increase": [
            sum(rises[time] for time, _ in values)
            if values and values[-1][0] != samples[0][0] else None
            for values in inside
        ],
    }  # fmt: skip
    pauses = {time: time - before for (before, _), (time, _) in itertools.pairwise(samples)}
    # By the time from the sample before the range to the last one.
    expected["rate"] = [
        None if value is None else value * 1000 / sum(pauses.get(time, 0) for time, _ in values)
        for value, values in zip(expected["increase"], inside, strict=True)
    ]
    for function, values in expected.items():
        assert compute_steps(rollups, 0, function, span, moments) == pytest.approx(  # type: ignore[arg-type]
            values, nan_ok=True
        )


def test_rollup_counts_once_it_has_ended_and_a_range_is_at_least_as_long() -> None:
    times = [15_000 * number for number in range(12)]
    points = Points(times, [float(number) for number in range(12)])
    rollups = roll_up(points, 60_000)
    rollups.spans = measure_spans(rollups, 60_000)
    moments = range(0, 300_000, 30_000)
    assert compute_steps(rollups, 60_000, "last_over_time", 60_000, moments) == [
        None, None, 1.5, 1.5, 5.5, 5.5, 9.5, 9.5, None, None,
    ]  # fmt: skip
    assert compute_steps(rollups, 60_000, "rate", 1_000, range(120_000, 121_000, 1_000)) == [4 / 60]


def test_increase_of_one_sample_counts_from_the_one_before_the_range() -> None:
    points = Points([60_000], [5.0])
    for before, expected in (((0, 3.0), 2.0), (None, None), ((-7_200_000, 3.0), None)):
        rollups = single_rollups(points, before)
        assert compute_steps(rollups, 0, "increase", 60_000, [60_000]) == [expected]


def test_sums_beyond_the_range_of_floats_are_infinite() -> None:
    rollups = single_rollups(Points([0, 1_000, 2_000], [1.7e308, 1.7e308, -1.7e308]), None)
    for function in ("sum_over_time", "avg_over_time"):
        assert compute_steps(rollups, 0, function, 5_000, [1_000]) == [math.inf]  # type: ignore[arg-type]
    assert compute_steps(rollups, 0, "max_over_time", 5_000, [2_000]) == [1.7e308]
    minutes = roll_up(Points([0, 1_000, 60_000, 61_000], [1.7e308] * 2 + [-1.7e308] * 2), 60_000)
    (total,) = compute_steps(minutes, 60_000, "sum_over_time", 120_000, [120_000])
    assert total is not None
    assert math.isnan(total)


def test_aggregates_ignore_missing_values() -> None:
    results = []
    for name in AGGREGATIONS:
        aggregate = Aggregate(name)
        for values in ([1.0, None, 7.0], [None, None, 1.0], [3.0, None, 4.0]):
            aggregate.add(values)
        results.append(aggregate.finish())
    assert results == [
        [4.0, None, 12.0], [2.0, None, 4.0], [1.0, None, 1.0], [3.0, None, 7.0], [2.0, None, 3.0],
    ]  # fmt: skip


def test_arithmetic_follows_floating_point() -> None:
    assert ARITHMETIC["/"](1.0, 0.0) == math.inf
    assert ARITHMETIC["/"](-1.0, 0.0) == -math.inf
    assert ARITHMETIC["/"](1.0, -0.0) == -math.inf
    assert math.isnan(ARITHMETIC["/"](0.0, 0.0))
    assert math.isnan(ARITHMETIC["%"](1.0, 0.0))
    assert ARITHMETIC["%"](7.0, 4.0) == 3.0


@pytest.mark.parametrize(
    ("selector", "is_match"),
    [
        ("cpu", True),
        ("memory", False),
        ('cpu{kind="kubernetes.pod",namespace!="shop"}', False),
        ('{name=~"web-.+|db"}', True),
        ('{name=~"web"}', False),
        ('{name!~"web-[0-9]"}', False),
        ('{__name__=~"c.*", namespace="shop"}', True),
        ('cpu{team=""}', True),
        ('cpu{team="a"}', False),
        ('cpu{name="web-1",name="web-2"}', False),
    ],
)
def test_selector_matches_labels_as_prometheus_does(selector: str, is_match: bool) -> None:
    match = build_match(parse_selector(selector))
    is_equal = all(POD[place] == value for place, value in match.equal())
    assert (is_equal and (match.test is None or match.test(POD))) == is_match


def test_wrong_expression_is_refused_and_a_costly_one_is_not_slow() -> None:
    with pytest.raises(QueryError, match="is wrong: missing"):
        build_match(parse_selector('{name=~"("}'))
    match = build_match(parse_selector('{name=~"(a+)+b"}'))
    assert match.test is not None
    assert not match.test(SeriesName("cpu", "pod", "", "a" * 250, "x"))


@pytest.mark.parametrize(("operator", "expected"), [("min", 1.0), ("max", 3.0)])
def test_extreme_leaves_out_what_is_no_number(operator: Any, expected: float) -> None:
    for values in itertools.permutations((math.nan, 1.0, 3.0)):
        aggregate = Aggregate(operator)
        for value in values:
            aggregate.add([value])
        assert aggregate.finish() == [expected]
    aggregate = Aggregate(operator)
    aggregate.add([math.nan])
    assert math.isnan(aggregate.finish()[0])  # type: ignore[arg-type]
