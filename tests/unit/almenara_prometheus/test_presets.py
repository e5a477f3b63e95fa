"""Every mapping of the plugins that read pages of metrics: what it makes of several series."""

import math
import re
from typing import Final

import msgspec
import pytest

from almenara.sdk.exposition import read_page
from almenara_prometheus.mapping import MetricMapper
from almenara_prometheus.presets import PRESETS
from almenara_prometheus.settings import MetricSettings
from almenara_vllm.metrics import ENGINE_GAUGES, HISTOGRAMS, PREFIXES, MetricWindow, make_filter

MAPPINGS: Final = {
    f"{preset} {mapping.sample} {mapping.metric} {sorted(mapping.labels.items())}": mapping
    for preset, mappings in PRESETS.items()
    for mapping in (msgspec.convert(each, MetricSettings) for each in mappings)
}
SHARE: Final = re.compile(r"(?:_|\b)(?:perc|percent|percentage|ratio|utilization|share|hit_rate)\b")
"""Metrics that are parts of a whole: of several, neither a sum nor a total has a meaning."""
STATE: Final = re.compile(r"(?:_start_time_seconds|_timestamp_seconds|_info|_version)\b")
"""Metrics that are the same for all, or moments."""


def make_page(mapping: MetricSettings, values: tuple[float, float]) -> bytes:
    """A page with a series of each of two engines."""
    labels = {"model_name": "m", **mapping.labels}
    lines = []
    for engine, value in enumerate(values):
        text = ",".join(f'{name}="{each}"' for name, each in {**labels, "engine": engine}.items())
        if mapping.quantile is None:
            lines.append(f"{mapping.metric}{{{text}}} {value}")
        else:
            lines += [
                f'{mapping.metric}_bucket{{{text},le="{limit}"}} {value * share}'
                for limit, share in (("1", 0.5), ("2", 1.0), ("+Inf", 1.0))
            ]
    return "\n".join(lines).encode() + b"\n"


def read(mapping: MetricSettings, *pages: tuple[float, float]) -> float:
    """The reading of the last of some pages that are a second apart."""
    mapper = MetricMapper("target", [mapping])
    readings = []
    for moment, values in enumerate(pages):
        readings = mapper.map(read_page(make_page(mapping, values), mapper.filter), float(moment))
    (reading,) = readings
    return reading.value / mapping.scale


@pytest.mark.parametrize("mapping", MAPPINGS.values(), ids=list(MAPPINGS))
def test_series_of_several_engines_are_combined_as_their_meaning_needs(
    mapping: MetricSettings,
) -> None:
    if mapping.quantile is not None:
        # That of all requests together: two thirds of the quantiles' sum would be beyond 2 s.
        value = read(mapping, (0, 0), (100, 300))
        assert 1.0 < value <= 2.0
    elif mapping.rate:
        assert read(mapping, (0, 0), (2, 3)) == pytest.approx(5)
    elif SHARE.search(mapping.metric) or STATE.search(mapping.metric):
        assert mapping.how_to_combine != "sum"
        assert 0.8 <= read(mapping, (0.9, 0.8)) <= 0.9
    else:
        assert mapping.how_to_combine == "sum"
        assert read(mapping, (4, 3)) == 7


def test_resources_of_the_process_are_those_of_each_target() -> None:
    assert all(mapping.name == "{target}" for name, mapping in MAPPINGS.items()
               if name.startswith("process "))  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
def test_shares_of_the_engines_of_vllm_are_never_added(prefix: str) -> None:
    for metric, sample in ENGINE_GAUGES.items():
        lines = (
            f'{prefix}{metric}{{model_name="m",engine="{engine}"}} {value}'
            for engine, value in enumerate((0.9, 0.8))
        )
        page = read_page("\n".join(lines).encode() + b"\n", make_filter())
        (figures,) = MetricWindow(60.0).add(page, 1.0).values()
        expected = 0.9 if SHARE.search(metric) else 1.7
        assert getattr(figures, sample) == pytest.approx(expected)


@pytest.mark.parametrize("metric", HISTOGRAMS)
def test_quantiles_of_vllm_are_those_of_all_engines_together(metric: str) -> None:
    window = MetricWindow(60.0)
    for moment, counts in ((1.0, (0, 0)), (2.0, (100, 300))):
        lines = [
            f'vllm:{metric}_bucket{{model_name="m",engine="{engine}",le="{limit}"}} {count * share}'
            for engine, count in enumerate(counts)
            for limit, share in (("1", 0.5), ("2", 1.0), ("+Inf", 1.0))
        ]
        page = read_page("\n".join(lines).encode() + b"\n", make_filter())
        figures = window.add(page, moment)["m"]
    assert not any(math.isnan(value) for value in figures.quantiles.values())
    assert all(0.9 <= value <= 2.0 for value in figures.quantiles.values())
    assert len(figures.quantiles) == 3
