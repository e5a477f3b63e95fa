"""The list of metrics."""

from almenara.state.sample_schema import SeriesName, StoredSeries
from almenara.web.routes.explore import group_series


def make_series(metric: str, name: str = "chat") -> StoredSeries:
    return StoredSeries(SeriesName(metric, "vllm.model", "", name, "vllm"), "s")


def test_group_series_lists_the_buckets_of_a_histogram_once() -> None:
    metrics = ("latency_bucket:0.1", "latency_bucket:+Inf", "latency_mean", "queue:length")
    series = [make_series(metric) for metric in metrics]

    listed = [(row.metric, row.count, row.link) for row in group_series(series)]

    assert listed == [
        ("latency_bucket:", 2, "/explore?text=vllm.model+latency_bucket%3A"),
        ("latency_mean", 1, "/explore?metric=latency_mean&kind=vllm.model&format=seconds"),
        ("queue:length", 1, "/explore?metric=queue%3Alength&kind=vllm.model&format=seconds"),
    ]
    buckets = group_series(series[:2], "vllm.model latency_bucket:")
    assert [row.metric for row in buckets] == ["latency_bucket:+Inf", "latency_bucket:0.1"]
