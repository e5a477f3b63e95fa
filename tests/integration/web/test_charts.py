"""The data of charts over HTTP: stored samples, levels, and wrong requests."""

import json
import urllib.error
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import almenara, asyncio
from almenara.hookspecs import Level, SampleQuery, SeriesPanel
from almenara.signals import Resource, Sample, Severity, now

START = now() // 60_000_000 * 60_000_000 - 1_800_000_000

class Load:
    name = "load"

    async def run(self, publish):
        await publish([
            signal
            for pod, cores in (("web-1", 0.5), ("web-2", 0.25), ("db", 2.0))
            for signal in (
                Resource(kind="pod", name=pod, namespace="shop", status="Running",
                         state={"limit": 4.0}),
                *(Sample(kind="pod", name=pod, namespace="shop", metric=metric,
                         value=value(step), time=START + step * 15_000_000)
                  for step in range(100)
                  if pod != "db" or not 40 <= step < 80
                  for metric, value in (("cpu", lambda step: cores),
                                        ("requests", lambda step: 30.0 * step))),
            )
        ])
        await asyncio.Event().wait()

CPU = SampleQuery(kind="pod", metric="cpu")
LEVELS = [Level(title="limit", path="state.limit"),
          Level(title="high", value=3, severity=Severity.WARN)]

@almenara.hookimpl
def almenara_sources(context):
    return [Load()]

@almenara.hookimpl
def almenara_panels():
    return [
        SeriesPanel(name="cpu", title="CPU", query=CPU, levels=LEVELS, filters=["name", "text"]),
        SeriesPanel(name="total", title="All", query=CPU, combined=True, levels=LEVELS),
        SeriesPanel(name="two", title="Two", query=SampleQuery(kind="pod", metric="cpu", limit=2)),
        SeriesPanel(name="rate", title="Rate",
                    query=SampleQuery(kind="pod", metric="requests", function="rate")),
    ]
"""


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder = tmp_path_factory.mktemp("charts")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "load.py").write_text(PLUGIN)
    with Almenara(folder / "almenara", plugins_dir=str(plugins)) as running:
        wait_until(lambda: len(running.get("/api/samples?metric=cpu")["series"]) == 3, "samples")
        yield running


def lines_of(chart: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in chart["lines"]}


def test_chart_has_the_stored_samples_of_each_resource(almenara: Almenara) -> None:
    chart = almenara.get("/api/charts/load.cpu")
    lines = lines_of(chart)
    assert set(lines) == {"shop/web-1", "shop/web-2", "shop/db"}
    assert len(lines["shop/web-1"]["times"]) == 100
    assert set(lines["shop/web-1"]["values"]) == {0.5}
    assert chart["until"] - chart["since"] == 3_600_000
    levels = {level["title"]: level for level in chart["levels"]}
    limit = {"title": "limit", "value": 4.0, "severity": "INFO", "colors": ""}
    assert levels["limit"] == limit
    assert levels["high"]["severity"] == "WARN"


def test_chart_shows_where_samples_stopped_as_a_gap(almenara: Almenara) -> None:
    chart = almenara.get("/api/charts/load.cpu?name=db")
    line = lines_of(chart)["shop/db"]
    assert line["values"].count(None) == 1
    place = line["values"].index(None)
    pause = line["times"][place + 1] - line["times"][place - 1]
    assert pause == pytest.approx(41 * 15_000, abs=chart["step"])


def test_chart_combines_all_resources_and_adds_up_their_limits(almenara: Almenara) -> None:
    chart = almenara.get("/api/charts/load.total")
    (line,) = chart["lines"]
    assert max(line["values"]) == pytest.approx(2.75)
    assert min(line["values"]) == pytest.approx(0.75)
    assert [level["value"] for level in chart["levels"]] == [12.0, 3.0]


def test_chart_has_the_rate_of_counters(almenara: Almenara) -> None:
    line = lines_of(almenara.get("/api/charts/load.rate?step=1m"))["shop/web-1"]
    assert line["values"][5] == pytest.approx(2.0)


def test_chart_leaves_out_the_lowest_lines_beyond_its_limit(almenara: Almenara) -> None:
    chart = almenara.get("/api/charts/load.two")
    assert list(lines_of(chart)) == ["shop/db", "shop/web-1"]
    assert chart["more"] == 1


def test_chart_takes_filters_and_a_range(almenara: Almenara) -> None:
    since = lines_of(almenara.get("/api/charts/load.cpu?text=web"))["shop/web-1"]["times"][50]
    chart = almenara.get(f"/api/charts/load.cpu?text=web-2&since={iso(since)}")
    assert list(lines_of(chart)) == ["shop/web-2"]
    assert lines_of(chart)["shop/web-2"]["times"][0] >= since - chart["step"]
    assert len(lines_of(chart)["shop/web-2"]["times"]) in (50, 51)


def iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("path", "status", "detail"),
    [
        ("load.cpu?since=tomorrow", 400, "Since"),
        ("load.cpu?since=1h&until=2h", 400, "reversed"),
        ("load.cpu?namspace=x", 400, "namspace"),
        ("load.nothing", 404, "no chart"),
        ("events", 404, "no chart"),
    ],
)
def test_chart_reports_a_wrong_request(
    almenara: Almenara, path: str, status: int, detail: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        almenara.get(f"/api/charts/{path}")
    assert error.value.code == status
    assert detail in json.loads(error.value.read())["detail"]
