"""Pages of vLLM over a window, and what they explain."""

import math

import pytest
from hypothesis import given, strategies as st

from almenara.sdk.exposition import read_page
from almenara_vllm.explanation import explain
from almenara_vllm.metrics import MetricWindow, ModelFigures, count_adapters, make_filter
from almenara_vllm.settings import VllmServerSettings, VllmSettings
from support.paths import FIXTURES

LABELS = 'model_name="m",engine="0"'
FILTER = make_filter()


def figures_of(window: MetricWindow, at: float, *lines: str) -> ModelFigures:
    page = read_page(("\n".join(lines) + "\n").encode(), FILTER)
    return window.add(page, at)["m"]


def counter(name: str, value: float, more: str = "") -> str:
    return f"vllm:{name}{{{LABELS}{more}}} {value}"


def test_rates_are_of_the_window_alone() -> None:
    window = MetricWindow(20.0)
    figures_of(window, 100.0, counter("generation_tokens_total", 0))
    figures_of(window, 110.0, counter("generation_tokens_total", 1_000))
    latest = figures_of(window, 120.0, counter("generation_tokens_total", 1_000))
    assert latest.increases["generated_tokens"] == 1_000
    assert latest.seconds == 20.0
    later = figures_of(window, 130.0, counter("generation_tokens_total", 1_010))
    assert later.increases["generated_tokens"] == 10


def test_counter_that_restarts_counts_from_zero() -> None:
    window = MetricWindow(60.0)
    figures_of(window, 100.0, counter("num_preemptions_total", 500))
    assert figures_of(window, 110.0, counter("num_preemptions_total", 3)).increases == {
        "preemptions": 3
    }


def test_quantiles_and_means_are_those_of_the_histogram() -> None:
    def lines(fast: int, slow: int) -> list[str]:
        name = "time_to_first_token_seconds"
        return [
            counter(f"{name}_bucket", fast, ',le="0.1"'),
            counter(f"{name}_bucket", fast + slow, ',le="1.0"'),
            counter(f"{name}_bucket", fast + slow, ',le="+Inf"'),
            counter(f"{name}_sum", fast * 0.05 + slow * 0.5),
            counter(f"{name}_count", fast + slow),
        ]

    window = MetricWindow(60.0)
    figures_of(window, 1.0, *lines(0, 0))
    figures = figures_of(window, 2.0, *lines(90, 10))
    assert figures.quantiles["first_token_p50"] == pytest.approx(0.1 * 50 / 90)
    assert figures.quantiles["first_token_p95"] == pytest.approx(0.55)
    assert figures.means["first_token"] == pytest.approx(0.095)


def test_older_names_and_those_of_ray_are_read() -> None:
    window = MetricWindow(60.0)
    page = read_page(
        b'vllm:gpu_cache_usage_perc{model_name="old",engine="0"} 0.5\n'
        b'ray_vllm_num_requests_running{model_name="ray",ReplicaId="r1"} 2\n'
        b'ray_vllm:num_requests_running{model_name="ray",ReplicaId="r2"} 3\n',
        FILTER,
    )
    models = window.add(page, 1.0)
    assert models["old"].kv_cache == 0.5
    assert models["ray"].running == 5


def test_engines_of_replicas_are_told_apart() -> None:
    page = read_page(
        b'ray_vllm_kv_cache_usage_perc{model_name="m",engine="0",ReplicaId="a",WorkerId="w"} 0.9\n'
        b'ray_vllm_kv_cache_usage_perc{model_name="m",engine="0",ReplicaId="b",WorkerId="x"} 0.4\n'
        b'ray_vllm_num_requests_running{model_name="m",engine="0",ReplicaId="a",WorkerId="w"} 2\n'
        b'ray_vllm_num_requests_running{model_name="m",engine="0",ReplicaId="b",WorkerId="x"} 3\n',
        FILTER,
    )
    (model,) = MetricWindow(60.0).add(page, 1.0).values()
    assert set(model.engines) == {"a/0", "b/0"}
    assert (model.running, model.kv_cache) == (5, 0.9)


@given(
    st.lists(st.text(alphabet='vllm:_{}="0123456789.eNaInf\n kdtpquesr', max_size=120), max_size=3)
)
def test_any_page_is_read(pages: list[str]) -> None:
    window = MetricWindow(10.0)
    for number, text in enumerate(pages):
        for figures in window.add(read_page(text.encode(), FILTER), float(number + 1)).values():
            values = [*figures.gauges.values(), *figures.quantiles.values()]
            assert all(math.isfinite(value) for value in values)


def test_recorded_pages_of_a_server_under_load_are_read() -> None:
    """Pages of vLLM 0.32 with a tiny model of random weights: idle, and twice under load."""
    window = MetricWindow(600.0)
    for number, name in enumerate(("idle", "load-1", "load-2")):
        body = (FIXTURES / "vllm-0.32" / f"{name}.txt").read_bytes()
        page = read_page(body, FILTER)
        assert page.problems == []
        (model,) = window.add(page, 10.0 + number * 30).values()
    assert (model.running, model.waiting) == (4, 2)
    assert model.gauges["waiting_capacity"] == 2
    assert model.gauges["engines_awake"] == 1
    assert model.kv_cache == pytest.approx(0.179, abs=0.001)
    assert model.increases["requests"] == 225
    assert model.increases["finished_length"] == 225
    assert model.increases["generated_tokens"] == 27_291
    assert set(model.means) >= {"queue", "prefill", "decode", "first_token", "request"}
    parts = sum(model.means[phase] for phase in ("queue", "prefill", "decode"))
    assert parts == pytest.approx(model.means["request"], rel=0.1)
    for metric in ("first_token", "between_tokens", "request"):
        quantiles = [model.quantiles[f"{metric}_{share}"] for share in ("p50", "p95", "p99")]
        assert quantiles == sorted(quantiles)
    assert 0 < (model.share("cache_hits", "cache_queries") or 0) < 1


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ({"preemptions": 0.5, "kv_cache": 0.97}, "Cache pressure: 30 preemptions a minute"),
        ({"waiting": 4, "waiting_capacity": 4, "queue_mean": 2.0, "first_token_mean": 2.5},
         "Queueing: 4 requests wait for capacity, 2.0 s of the 2.5 s"),
        ({"waiting": 1, "waiting_deferred": 1}, "deferred"),
        ({"waiting": 1, "queue_mean": 0.01, "first_token_mean": 2.5}, ""),
        ({"prompt_length_mean": 9000, "prefill_mean": 4.0, "decode_mean": 1.0,
          "cache_hit_rate": 0.02}, "Long prompts: 9,000 tokens"),
        ({"prompt_length_mean": 900, "prefill_mean": 0.8, "decode_mean": 1.0,
          "cache_hit_rate": 0.02}, "Cold cache: 2% of the prompt tokens"),
        ({"prompt_length_mean": 900, "prefill_mean": 0.1, "decode_mean": 1.0,
          "cache_hit_rate": 0.02}, ""),
        ({"kv_cache": 0.95}, "preemptions are near"),
        ({"kv_cache": 0.2, "decode_mean": 1.0}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_explanation_names_the_cause(samples: dict[str, float], expected: str) -> None:
    text = explain(samples.get)
    assert expected in text
    assert bool(text) == bool(expected)


def test_settings_refuse_a_path_and_repeated_names() -> None:
    with pytest.raises(ValueError, match="has a path"):
        VllmServerSettings(name="a", url="http://vllm:8000/metrics")
    server = VllmServerSettings(name="a", url="http://vllm:8000")
    with pytest.raises(ValueError, match="unique"):
        VllmSettings(servers=[server, server])


def test_newest_series_names_the_adapters_with_requests() -> None:
    page = read_page(
        b'vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b",'
        b'waiting_lora_adapters=""} 10\n'
        b'vllm:lora_requests_info{max_lora="4",running_lora_adapters="a",'
        b'waiting_lora_adapters="c"} 20\n',
        make_filter(),
    )
    assert count_adapters(page.series) == {"adapters_running": 1.0, "adapters_waiting": 1.0}
    assert count_adapters([]) == {}
