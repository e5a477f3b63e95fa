"""Resources over the API come in pages, each with the address of the next."""

import json
import urllib.request
from pathlib import Path

import pytest

from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import almenara, asyncio
from almenara.signals import Resource
class Things:
    name = "things"
    async def run(self, publish):
        await publish([Resource(kind=kind, namespace="a/b", name=f"thing {number:02}")
                       for kind in ("x.one", "x.two") for number in range(25)])
        await asyncio.Event().wait()
@almenara.hookimpl
def almenara_sources(context): return [Things()]
"""


@pytest.mark.parametrize(
    ("path", "count"), [("/api/resources", 50), ("/api/resources?kind=x.two", 25)]
)
def test_resource_pages_reach_every_resource_once(tmp_path: Path, path: str, count: int) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "things.py").write_text(PLUGIN)
    with Almenara(tmp_path / "almenara", plugins_dir=str(tmp_path / "plugins")) as almenara:
        wait_until(lambda: len(almenara.get("/api/resources")) == 50, "the resources")
        names: list[tuple[str, str]] = []
        address = f"{path}{'&' if '?' in path else '?'}limit=10"
        pages = 0
        while address:
            with urllib.request.urlopen(almenara.url + address, timeout=10) as response:
                page = json.load(response)
                link = response.headers.get("Link", "")
            names += [(each["kind"], each["name"]) for each in page]
            pages += 1
            address = link.partition(">")[0].removeprefix("<")
        assert len(names) == len(set(names)) == count
        assert names == sorted(names)
        assert pages == -(-count // 10)
        assert almenara.status("/api/resources?after=pod") == 400
        assert almenara.status("/api/resources?limit=0") == 400
