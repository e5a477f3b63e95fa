"""The metrics page: long lists of metrics and series have pages."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from html import unescape
from itertools import chain

import pytest

from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import almenara, asyncio
from almenara.signals import Sample

class Load:
    name = "load"

    async def run(self, publish):
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
            lambda: "metric_429" in running.text("/explore?text=metric_429"), "the last metric"
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
