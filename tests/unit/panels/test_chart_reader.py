"""The lines of charts: steps, gaps, rates, sums and levels."""

import re
from collections.abc import Sequence

import pytest

from almenara.hookspecs import Level, ResourceQuery, SampleQuery, SeriesPanel
from almenara.panels.bar_chart import draw_bars, tone_of
from almenara.panels.charts import ChartLevel
from almenara.panels.kinds.chart_reader import (
    COMBINED,
    combine_lines,
    make_line,
    mark_gaps,
    merge_lines,
    rates,
)
from almenara.panels.validation import validate_panel
from almenara.signals import Resource, Sample, Signal, now
from almenara.testing.rendering import render_panels

pytestmark = pytest.mark.anyio
KEY = ("node", "", "a")


def test_mark_gaps_breaks_a_line_where_samples_stop_for_several_steps() -> None:
    line = make_line(KEY, [0, 10, 20, 90, 100], [1, 2, 3, 4, 5])
    gapped = mark_gaps(line, 10)
    assert gapped.times == [0, 10, 20, 30, 90, 100]
    assert gapped.values == [1, 2, 3, None, 4, 5]


def test_mark_gaps_keeps_a_line_whose_samples_are_late() -> None:
    line = make_line(KEY, [0, 10, 60, 70], [1, 2, 3, 4])
    assert mark_gaps(line, 10) == line


def test_mark_gaps_finds_a_shorter_pause_among_rollups() -> None:
    times = [0, 60_000, 240_000, 300_000, 360_000]
    assert mark_gaps(make_line(KEY, times, [1] * 5), 60_000).values == [1, 1, None, 1, 1, 1]


def test_rates_count_a_fall_of_a_counter_from_zero() -> None:
    second = 1_000_000
    points = [(0, 10.0), (second, 30.0), (3 * second, 4.0)]
    assert rates(points) == [(second, 20.0), (3 * second, 2.0)]


async def test_combine_lines_adds_what_is_in_the_same_step() -> None:
    lines = [make_line(KEY, [0, 10], [1, 2]), make_line(KEY, [10, 20], [5, 7])]
    combined = await combine_lines(lines, "sum")
    assert (combined.key, combined.times, combined.values) == (COMBINED, [0, 10, 20], [1, 7, 7])
    assert (await combine_lines(lines, "max")).values == [1, 5, 7]


def test_merge_lines_has_each_time_once_in_order() -> None:
    merged = merge_lines(make_line(KEY, [10, 30], [1, 3]), make_line(KEY, [20, 30], [2, 4]))
    assert (merged.times, merged.values) == ([10, 20, 30], [1, 2, 4])


async def figure(panel: SeriesPanel, signals: Sequence[Signal], **query: str) -> str:
    return (await render_panels("p", [panel], None, signals, query))["p.s"]


def samples(name: str, value: float) -> list[Signal]:
    moment = now()
    return [
        Resource(kind="pod", namespace="shop", name=name, state={"limit": 2.0}),
        *(
            Sample(kind="pod", namespace="shop", name=name, metric="cpu", value=value + step,
                   time=moment - (5 - step) * 1_000_000)
            for step in range(5)
        ),
    ]  # fmt: skip


async def test_panel_with_select_draws_those_resources_alone() -> None:
    async def select(data: object, filters: object) -> list[Resource]:
        return [
            resource
            for resource in data.resources(ResourceQuery(kind="pod"))  # type: ignore[attr-defined]
            if resource.name == filters["workload"]  # type: ignore[index]
        ]

    panel = SeriesPanel(
        name="s", title="S", query=SampleQuery(kind="pod", metric="cpu"), select=select,
        filters=["workload"],
    )  # fmt: skip
    text = await figure(panel, [*samples("web", 1), *samples("db", 7)], workload="db")
    assert "shop/db" in text
    assert "shop/web" not in text


async def test_picture_carries_the_newest_samples_for_the_browser() -> None:
    panel = SeriesPanel(name="s", title="S", query=SampleQuery(kind="pod", metric="cpu"))
    text = await figure(panel, samples("web", 1))
    assert "data-live=" in text
    assert "&#34;web&#34;" in text
    assert text.count(".0]") == 5


async def test_lines_are_named_by_what_tells_them_apart() -> None:
    signals: list[Signal] = [
        Sample(kind="ns", namespace=f"eu/{name}", name="pods", metric="cpu", value=1.0)
        for name in ("shop", "bank")
    ]
    for names, expected in (
        ("resource", ["eu/bank/pods", "eu/shop/pods"]),
        ("name", ["pods", "pods"]),
        ("namespace", ["eu/bank", "eu/shop"]),
    ):
        query = SampleQuery(kind="ns", metric="cpu")
        panel = SeriesPanel(name="s", title="S", query=query, line_names=names)  # type: ignore[arg-type]
        text = await figure(panel, signals)
        assert re.findall(r'class="line-name">([^<]*)<', text) == expected


def level(value: float, severity: str, colors: str) -> ChartLevel:
    return ChartLevel(title="l", value=value, severity=severity, colors=colors)


def test_levels_color_bars_on_one_side() -> None:
    below = [level(0.99, "ERROR", "below"), level(0.999, "WARN", "below")]
    assert [tone_of(value, below) for value in (1.0, 0.999, 0.995, 0.99, 0.98, 0.0)] == [
        "ok", "ok", "WARN", "WARN", "ERROR", "ERROR",
    ]  # fmt: skip
    above = [level(10.0, "WARN", "above"), level(5.0, "ERROR", "")]
    assert [tone_of(value, above) for value in (3.0, 10.0, 11.0)] == ["ok", "ok", "WARN"]
    assert tone_of(3.0, [level(5.0, "ERROR", "")]) == ""


def test_bars_of_zero_are_visible_and_gaps_have_none() -> None:
    paths = dict(draw_bars([(0, 1.0), (20, 0.0)], 0, 40, 10, 1.0, [level(0.5, "WARN", "below")]))
    assert paths == {"ok": "M0.0 24v-24.0h120.0v24.0z", "WARN": "M300.0 24v-1.5h120.0v1.5z"}


def test_values_of_buckets_are_counts() -> None:
    query = SampleQuery(kind="pod", metric="latency", function="buckets")
    panel = SeriesPanel(name="s", title="S", query=query, format="seconds", style="heatmap")
    assert (panel.format, panel.value_format) == ("seconds", "number")
    p99 = SampleQuery(kind="pod", metric="latency", function="p99")
    lines = SeriesPanel(name="s", title="S", query=p99, format="seconds")
    assert lines.value_format == "seconds"


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (Level(title="L"), "needs either a value or a path"),
        (Level(title="L", value=1, path="state.x"), "needs either a value or a path"),
        (Level(title="L", path="name"), "must begin with state. or sample."),
    ],
)
def test_panel_with_a_wrong_level_is_refused(level: Level, message: str) -> None:
    query = SampleQuery(kind="pod", metric="cpu")
    with pytest.raises(ValueError, match=message):
        validate_panel("p", SeriesPanel(name="s", title="S", query=query, levels=[level]))
