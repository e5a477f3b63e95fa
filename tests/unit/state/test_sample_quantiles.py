"""Histograms of stored samples: names of buckets, quantiles, and the buckets of a heat map."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from almenara.histograms import bucket_metric, bucket_prefix, split_bucket
from almenara.promql.evaluation import quantiles_of
from almenara.promql.matching import build_match, label_series, label_value
from almenara.promql.parser import parse_query, parse_selector
from almenara.promql.syntax import Quantile, QueryError
from almenara.state.rollups import roll_up
from almenara.state.sample_codec import Points
from almenara.state.sample_history import SeriesRollups
from almenara.state.sample_quantiles import (
    bucket_points,
    join_buckets,
    parse_quantile,
    quantile_points,
)
from almenara.state.sample_schema import SeriesName

LIMITS = (0.1, 0.5, 1.0, math.inf)
STEP = 60_000


def histogram(values: Sequence[Sequence[float]]) -> list[SeriesRollups]:
    """The buckets of one histogram whose step `n` counted `values[n]`."""
    series = []
    for limit in LIMITS:
        counts, total = [0.0], 0.0
        for step in values:
            total += sum(value <= limit for value in step)
            counts.append(total)
        times = [STEP * place for place in range(len(counts))]
        name = SeriesName(bucket_metric("latency", limit), "api", "", "a", "o")
        series.append(SeriesRollups(name, "s", roll_up(Points(times, counts), STEP)))
    return series


@given(st.floats(allow_nan=False), st.text("abc_:", min_size=1, max_size=8))
def test_bucket_metric_splits_into_what_it_was_made_of(limit: float, metric: str) -> None:
    name = bucket_metric(metric, limit)
    assert name.startswith(bucket_prefix(metric))
    split = split_bucket(name)
    assert split is not None
    assert split[0] == f"{metric}_bucket"
    assert float(split[1]) == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize("metric", ["latency", "latency_bucket", "a:b", "x_bucket:", "x_bucket:y"])
def test_split_bucket_leaves_other_metrics_alone(metric: str) -> None:
    assert split_bucket(metric) is None


def test_quantile_is_of_what_each_step_counted() -> None:
    (joined,) = join_buckets(histogram([[0.05] * 10, [], [0.7] * 10]))
    assert joined.name == SeriesName("latency", "api", "", "a", "o")
    points = dict(quantile_points(joined, 0.5))
    assert points == {STEP: pytest.approx(0.05), 3 * STEP: pytest.approx(0.75)}


def test_bucket_points_count_each_value_in_its_bucket_alone() -> None:
    joined = join_buckets(histogram([[0.05, 0.2, 0.3, 5.0]]))
    counts = {limit: points[1][1] for limit, points in bucket_points(joined).items()}
    assert counts == {0.1: 1.0, 0.5: 2.0, 1.0: 0.0, math.inf: 1.0}


@pytest.mark.parametrize(
    ("function", "share"), [("p50", 0.5), ("p99.9", 0.999), ("p", None), ("mean", None)]
)
def test_parse_quantile_reads_percentiles(function: str, share: float | None) -> None:
    expected = None if share is None else pytest.approx(share)
    assert parse_quantile(function) == expected


def test_series_of_a_bucket_has_its_limit_as_a_label() -> None:
    name = SeriesName("latency_bucket:0.5", "api", "", "a", "o")
    assert label_series(name) == {
        "__name__": "latency_bucket", "le": "0.5", "kind": "api", "name": "a", "origin": "o",
    }  # fmt: skip
    assert label_value(name, "le") == "0.5"
    assert label_value(name, "unknown") == ""


@pytest.mark.parametrize(
    ("selector", "is_selected"),
    [
        ("latency_bucket", True),
        ('latency_bucket{le="0.5"}', True),
        ('latency_bucket{le="1"}', False),
        ('latency_bucket{le=~"0.*"}', True),
        ("late_bucket", False),
    ],
)
def test_selector_matches_buckets_by_name_and_limit(selector: str, is_selected: bool) -> None:
    match = build_match(parse_selector(selector))
    name = SeriesName("latency_bucket:0.5", "api", "", "a", "o")
    assert match.test is not None
    assert match.metric is None
    assert (name.metric.startswith(match.prefix or "") and match.test(name)) == is_selected


def test_parse_query_reads_a_quantile_of_a_histogram() -> None:
    query = parse_query("histogram_quantile(0.95, sum by (le) (rate(latency_bucket[5m])))")
    assert isinstance(query, Quantile)
    assert query.share == 0.95


@pytest.mark.parametrize("text", ["2, x", "x, x", "0.5", "0.5 x"])
def test_parse_query_refuses_a_wrong_quantile(text: str) -> None:
    with pytest.raises(QueryError):
        parse_query(f"histogram_quantile({text})")


def test_quantiles_of_buckets_are_none_where_a_step_has_no_count() -> None:
    buckets = {0.1: [5.0, None, 0.0], math.inf: [10.0, None, 0.0]}
    assert quantiles_of(0.5, buckets) == [pytest.approx(0.1), None, None]
