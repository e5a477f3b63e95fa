import math
import time
from typing import Any

import pytest

from almenara.sdk.exposition import MetricFilter, read_page
from almenara.sdk.histograms import increase, quantile
from almenara_prometheus.mapping import MetricMapper
from almenara_prometheus.presets import PRESETS
from almenara_prometheus.settings import MetricSettings, TargetSettings

PAGE = b"""\
# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{route="/a",code="200"} 100
requests_total{route="/a",code="500"} 5
requests_total{route="/b",code="200"} 7
# TYPE memory gauge
memory 1.5e6
"""


def mapped(mapping: MetricSettings, *pages: bytes) -> dict[str, float]:
    mapper = MetricMapper("it", [mapping])
    values: dict[str, float] = {}
    for number, page in enumerate(pages):
        readings = mapper.map(read_page(page, mapper.filter), number * 10.0)
        values = {reading.name: reading.value for reading in readings}
    return values


def test_series_with_the_same_name_are_added_up() -> None:
    mapping = MetricSettings(metric="requests_total", sample="requests", name="{route}")
    assert mapped(mapping, PAGE) == {"/a": 105, "/b": 7}


ENGINES = b'kv_cache_perc{engine="0"} 0.6\nkv_cache_perc{engine="1"} 0.7\n'


@pytest.mark.parametrize(
    ("combine", "value"), [(None, 0.7), ("max", 0.7), ("min", 0.6), ("mean", 0.65), ("sum", 1.3)]
)
def test_combine_says_how_series_become_one_value(combine: Any, value: float) -> None:
    mapping = MetricSettings(metric="kv_cache_perc", sample="kv_cache", combine=combine)
    assert mapped(mapping, ENGINES)["it"] == pytest.approx(value)


def test_combine_applies_to_rates() -> None:
    mapping = MetricSettings(metric="hits_total", sample="hits", rate=True, combine="max")
    before = b'hits_total{host="a"} 0\nhits_total{host="b"} 0\n'
    after = b'hits_total{host="a"} 10\nhits_total{host="b"} 30\n'
    assert mapped(mapping, before, after) == {"it": 3}


@pytest.mark.parametrize("prefix", ["vllm:", "ray_vllm_", "ray_vllm:"])
def test_kv_cache_of_two_vllm_engines_is_not_added_up(prefix: str) -> None:
    target = TargetSettings(name="v", url="http://x/metrics", presets=["vllm"])
    mapper = MetricMapper("v", target.mappings)
    page = "".join(
        f'{prefix}kv_cache_usage_perc{{engine="{engine}",model_name="m"}} {usage}\n'
        for engine, usage in ((0, 0.6), (1, 0.7))
    )
    (reading,) = mapper.map(read_page(page.encode(), mapper.filter), 0.0)
    assert (reading.name, reading.value) == ("m", 0.7)


def test_series_twice_on_a_page_counts_once_and_is_a_problem() -> None:
    page = read_page(b'x{a="1",b="2"} 5\nx{b="2",a="1"} 5\n')
    assert [series.value for series in page.series] == [5]
    assert page.problems == ["x is on the page twice with the same labels"]


def test_only_mapped_lines_are_parsed() -> None:
    body = b'other{ broken\n# HELP x X.\nx 1\n  x{a="b"} 2\nx_total 3\nxy 4\n\nx\t5 6\n'
    page = read_page(body, MetricFilter(["x"]))
    assert [series.value for series in page.series] == [1, 2]
    assert page.lines == 6
    assert page.is_readable


def test_malformed_mapped_line_is_named_by_its_number_on_the_page() -> None:
    page = read_page(b"# c\nother 1\nx 1\nx{ 2\n", MetricFilter(["x"]))
    assert page.problems[0].startswith("line 4: ")


def test_labels_select_series() -> None:
    mapping = MetricSettings(
        metric="requests_total", sample="r", name="{target}", labels={"code": "500"}, scale=2
    )
    assert mapped(mapping, PAGE) == {"it": 10}


def test_counter_becomes_increase_per_second_and_may_reset() -> None:
    mapping = MetricSettings(metric="requests_total", sample="r", name="{route}", rate=True)
    assert mapped(mapping, PAGE) == {}
    later = PAGE.replace(b" 100\n", b" 200\n")
    assert mapped(mapping, PAGE, later) == {"/a": 10, "/b": 0}
    restarted = b'requests_total{route="/a",code="200"} 20\n'
    assert mapped(mapping, PAGE, restarted) == {"/a": 2}


def test_new_or_missing_series_makes_no_peak_in_a_sum() -> None:
    hits = MetricSettings(metric="hits_total", sample="hits", rate=True)

    def page(**hosts: int) -> bytes:
        lines = [f'hits_total{{host="{host}"}} {count}\n' for host, count in hosts.items()]
        return "".join(lines).encode()

    assert mapped(hits, page(a=1_000_000, b=500), page(a=1_000_010)) == {"it": 1}
    assert mapped(hits, page(a=100), page(a=110, b=900_000)) == {"it": 1}
    assert mapped(hits, page(a=1), page(a=1, b=5), page(a=1, b=25)) == {"it": 2}

    def histogram(**hosts: tuple[int, int]) -> bytes:
        return "".join(
            f'took_bucket{{host="{host}",le="{limit}"}} {count}\n'
            for host, (quick, every) in hosts.items()
            for limit, count in (("0.1", quick), ("1", every), ("+Inf", every))
        ).encode()

    took = MetricSettings(metric="took", sample="p95", quantile=0.95)
    first = histogram(a=(0, 1000), b=(10, 10))
    assert mapped(took, first, histogram(a=(100, 1100)))["it"] < 0.1
    assert mapped(took, first, histogram(a=(100, 1100), b=(10, 10), c=(0, 9000)))["it"] < 0.1


def test_counter_is_matched_by_its_name_on_the_page() -> None:
    page = b"# TYPE nginx_connections_accepted counter\nnginx_connections_accepted 5\n"
    mapping = MetricSettings(metric="nginx_connections_accepted", sample="accepted")
    assert mapped(mapping, page) == {"it": 5}
    assert mapped(mapping, page + b"bad{ 2\n") == {"it": 5}


@pytest.mark.parametrize("value", [b"+Inf", b"-Inf", b"NaN", b"1e308"])
def test_value_that_is_not_finite_is_not_a_reading(value: bytes) -> None:
    ten = b"x 10\n"
    for mapping in (
        MetricSettings(metric="x", sample="x", scale=10),
        MetricSettings(metric="x", sample="x", rate=True, scale=1000),
    ):
        assert mapped(mapping, b"x 1\n", b"x " + value + b"\n") == {}
        assert mapped(mapping, b"x " + value + b"\n", ten, ten)


def test_quantile_is_of_what_was_counted_between_two_pages() -> None:
    before = {0.1: 100.0, 1.0: 100.0, math.inf: 100.0}
    after = {0.1: 100.0, 1.0: 200.0, math.inf: 200.0}
    assert quantile(0.5, increase(before, after)) == pytest.approx(0.55)
    assert quantile(0.5, increase(after, after)) is None
    assert quantile(0.99, {1.0: 1.0, math.inf: 100.0}) == 1.0
    assert quantile(0.5, increase(after, before)) == pytest.approx(0.05)


def test_presets_read_the_page_of_a_vllm_server() -> None:
    target = TargetSettings(name="vllm-a", url="http://x/metrics", presets=list(PRESETS))
    mapper = MetricMapper(target.name, target.mappings)

    def page(requests: int) -> bytes:
        model = 'model_name="m/one"'
        return f"""
vllm:num_requests_running{{engine="0",{model}}} 3.0
vllm:num_requests_waiting{{engine="0",{model}}} 1.0
vllm:num_requests_waiting_by_reason{{engine="0",{model},reason="capacity"}} 1.0
vllm:num_requests_waiting_by_reason{{engine="0",{model},reason="deferred"}} 0.0
vllm:engine_sleep_state{{engine="0",{model},sleep_state="awake"}} 0.0
vllm:engine_sleep_state{{engine="0",{model},sleep_state="weights_offloaded"}} 1.0
vllm:engine_sleep_state{{engine="1",{model},sleep_state="awake"}} 1.0
vllm:request_success_total{{engine="0",finished_reason="stop",{model}}} {requests * 2}.0
vllm:request_success_total{{engine="0",finished_reason="length",{model}}} {requests}.0
vllm:prompt_tokens_by_source_total{{engine="0",{model},source="local_cache_hit"}} {requests}.0
vllm:spec_decode_num_draft_tokens_total{{engine="0",{model}}} {requests * 4}.0
vllm:spec_decode_num_accepted_tokens_total{{engine="0",{model}}} {requests * 3}.0
vllm:kv_cache_usage_perc{{engine="0",{model}}} 0.25
vllm:generation_tokens_total{{engine="0",{model}}} {requests * 100}.0
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.1",{model}}} {requests}.0
vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.2",{model}}} {requests * 2}.0
vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf",{model}}} {requests * 2}.0
process_resident_memory_bytes 5e8
""".encode()

    mapper.map(read_page(page(10), mapper.filter), 0.0)
    values = {
        (reading.mapping.kind, reading.name, reading.mapping.sample): reading.value
        for reading in mapper.map(read_page(page(20), mapper.filter), 10.0)
    }
    assert values[("vllm.model", "m/one", "running")] == 3
    assert values[("vllm.model", "m/one", "kv_cache")] == 0.25
    assert values[("vllm.model", "m/one", "generated_tokens")] == 100
    model = {sample: value for (kind, _, sample), value in values.items() if kind == "vllm.model"}
    assert (model["waiting"], model["waiting_capacity"], model["waiting_deferred"]) == (1, 1, 0)
    assert (model["engines_awake"], model["engines_offloaded"]) == (1, 1)
    assert (model["requests"], model["finished_stop"], model["finished_length"]) == (3, 2, 1)
    assert model["prompt_tokens_cached"] == 1
    assert (model["draft_tokens"], model["accepted_draft_tokens"]) == (4, 3)
    assert values[("vllm.model", "m/one", "first_token_p95")] == pytest.approx(0.19)
    assert values[("process", "vllm-a", "memory")] == 5e8


def test_unmapped_lines_of_a_large_page_are_not_parsed() -> None:
    line = 'other_seconds_bucket{{route="/{number}",method="GET",le="0.5"}} {number}.0\n'
    body = "".join(line.format(number=number) for number in range(5_000)).encode() + b"x 1\n"

    def measure(only: MetricFilter | None) -> float:
        started = time.process_time()
        assert read_page(body, only).lines == 5_001
        return time.process_time() - started

    assert measure(None) > 4 * min(measure(MetricFilter(["x"])) for _ in range(3))
