"""A store with more series than a query may be about: pages and lists go on."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from support.application import Almenara
from support.servers import wait_until

MANY = 60_000
PLUGIN = f"""
import almenara, asyncio
from almenara.signals import Sample

class Load:
    name = "load"

    async def run(self, publish):
        for first in range(0, {MANY}, 5_000):
            await publish([
                Sample(kind="pod", namespace="shop", name=f"pod-{{number:05}}", value=1.0,
                       metric="cpu" if number % 2 else "memory")
                for number in range(first, first + 5_000)
            ])
        await publish([Sample(kind="node", name="a", metric="load", value=1.0)])
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_sources(context):
    return [Load()]
"""


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder = tmp_path_factory.mktemp("many")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "load.py").write_text(PLUGIN)
    with Almenara(
        folder / "almenara", plugins_dir=str(plugins), plugins__disabled="[nats]"
    ) as running:
        wait_until(lambda: running.get("/api/samples?metric=load")["series"], "the samples", 60)
        yield running


def refuse(almenara: Almenara, path: str) -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(almenara.url + path, timeout=30)
    return raised.value.code, raised.value.read().decode()


def test_metrics_page_lists_metrics_of_all_series(almenara: Almenara) -> None:
    page = almenara.text("/explore")
    assert re.findall(r">(cpu|memory|load)</a></th>", page) == ["load", "cpu", "memory"]
    assert page.count("30,000") == 2 or page.count("30000") == 2
    page = almenara.text("/explore?text=pod-00017")
    assert re.findall(r">(cpu|memory|load)</a></th>", page) == ["cpu"]
    page = almenara.text("/explore?metric=cpu&kind=pod&text=pod-0001")
    assert re.findall(r">(pod-\d+)</a></th>", page) == [f"pod-0001{n}" for n in (1, 3, 5, 7, 9)]


def test_metric_browser_lists_labels_and_values(almenara: Almenara) -> None:
    labels = almenara.get("/api/v1/labels")["data"]
    assert labels == ["__name__", "kind", "name", "namespace", "origin"]
    for label, values in (("kind", ["node", "pod"]), ("__name__", ["cpu", "load", "memory"])):
        assert almenara.get(f"/api/v1/label/{label}/values")["data"] == values
    status, body = refuse(almenara, "/api/v1/label/name/values")
    assert status in (400, 422, 503)
    assert "more than 50,000 values; narrow it with match[]" in json.loads(body)["error"]
    match = quote('cpu{name=~"pod-0000.+"}')
    assert almenara.get(f"/api/v1/label/name/values?match[]={match}")["data"] == [
        f"pod-0000{number}" for number in (1, 3, 5, 7, 9)
    ]
    (series,) = almenara.get("/api/v1/series?match[]=load")["data"]
    assert series["name"] == "a"
