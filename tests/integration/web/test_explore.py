"""The metrics page: long lists of metrics and series have pages."""

import csv
import io
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from html import unescape
from itertools import chain
from urllib.parse import parse_qsl, urlsplit

import pytest

from almenara.signals import format_time, now, parse_time
from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import almenara, asyncio
from almenara.signals import Sample, now

class Load:
    name = "load"

    async def run(self, publish):
        await publish([
            Sample(kind="web", name="shop", metric=f"lat_bucket:{limit}",
                   value=float(count * (20 - step)), time=now() - (step * 300 + 60) * 1_000_000)
            for step in reversed(range(20))
            for limit, count in (("0.1", 50), ("+Inf", 100))
        ])
        await publish([
            Sample(kind="pod", name=f"pod-{number:03}", metric="cpu", value=1.0)
            for number in range(230)
        ])
        await publish([
            Sample(kind="pod", name="pod-000", metric=f"metric_{number:03}", value=1.0)
            for number in range(430)
        ])
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_sources(context):
    return [Load()]
"""


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder = tmp_path_factory.mktemp("explore")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "load.py").write_text(PLUGIN)
    with Almenara(
        folder / "almenara", plugins_dir=str(plugins), plugins__disabled="[nats]"
    ) as running:
        wait_until(
            lambda: ">metric_429</a>" in running.text("/explore?text=metric_429"), "the last metric"
        )
        yield running


def read_pages(almenara: Almenara, address: str, pattern: str) -> list[list[str]]:
    """Follow the links to the next page from an address, as without JavaScript."""
    pages = []
    while address:
        page = almenara.text(address)
        pages.append(re.findall(pattern, page))
        following = re.search(r'<a rel="next" href="([^"]+)"', page)
        address = unescape(following[1]) if following else ""
    return pages


def test_pages_of_series_have_each_once(almenara: Almenara) -> None:
    pages = read_pages(almenara, "/explore?metric=cpu&kind=pod", r">(pod-\d+)</a></th>")
    assert [len(page) for page in pages] == [100, 100, 30]
    assert [*chain(*pages)] == [f"pod-{number:03}" for number in range(230)]
    second = almenara.text("/explore?metric=cpu&kind=pod&page=2")
    assert "101 to 200 of 230" in second
    assert '<a rel="prev" href="/explore?metric=cpu&amp;kind=pod">' in second


def test_pages_of_metrics_have_each_once(almenara: Almenara) -> None:
    pages = read_pages(almenara, "/explore?text=metric_", r">(metric_\d+)</a></th>")
    assert [len(page) for page in pages] == [200, 200, 30]
    assert [*chain(*pages)] == [f"metric_{number:03}" for number in range(430)]


def test_links_to_pages_stay_in_the_time_window(almenara: Almenara) -> None:
    page = almenara.text("/explore?metric=cpu&range=6h&page=2")
    assert '<a rel="next" href="/explore?metric=cpu&amp;range=6h&amp;page=3">' in page
    # Another window starts at the first page.
    assert re.search(r'href="/explore\?metric=cpu&amp;range=24h"', page)


def test_page_that_is_not_a_number_is_refused(almenara: Almenara) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{almenara.url}/explore?page=two", timeout=10)
    assert raised.value.code == 400
    assert "is not the number of a page" in raised.value.read().decode()


def read_table(almenara: Almenara, address: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The parameters of the link to the table on a page, and the rows of that."""
    link = re.search(r'href="(/api/samples\.csv[^"]*)"', almenara.text(address))
    assert link is not None
    path = unescape(link[1])
    rows = [*csv.DictReader(io.StringIO(almenara.text(path)))]
    return dict(parse_qsl(urlsplit(path).query)), rows


@pytest.mark.parametrize("function", ["max", "p50", "rate"])
def test_table_has_the_points_of_the_chart(almenara: Almenara, function: str) -> None:
    metric = "lat" if function == "p50" else "lat_bucket:0.1"
    at = format_time(now())
    for times in ("", "&range=2h", f"&range=30m&at={at}"):
        query = f"metric={metric}&kind=web&function={function}{times}"
        chart = almenara.get(f"/api/charts/chart?{query}")
        parameters, rows = read_table(almenara, f"/explore?{query}")
        (line,) = chart["lines"]
        points = [
            (time, value)
            for time, value in zip(line["times"], line["values"], strict=True)
            if value is not None
        ]
        assert len(points) > 3
        assert [(parse_time(row["time"]) // 1_000, float(row["value"])) for row in rows] == points
        if "at=" in times:
            assert parameters["until"] == at
            assert parse_time(at) - parse_time(parameters["since"]) == 1_800_000_000
        else:
            assert parameters["since"] == ("2h" if times else "1h")
            assert "until" not in parameters


def test_buckets_have_no_table(almenara: Almenara) -> None:
    page = almenara.text("/explore?metric=lat&kind=web&function=buckets")
    assert "/api/samples.csv" not in page
    assert "Add this chart to" in page
