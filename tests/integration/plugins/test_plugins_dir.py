"""One-file plugins in a folder: dropped into a running server, saved, broken, taken away."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.application import Almenara
from support.paths import ROOT
from support.servers import wait_until

EXAMPLE = ROOT / "docs" / "examples" / "host.py"

STEADY = """
import asyncio, itertools, time
import almenara
from almenara.signals import Event, now

RUN = time.time_ns()

class Steady:
    async def run(self, publish):
        for number in itertools.count():
            await publish([Event(id=f"{RUN}-{number}", source="steady", type="tick", time=now(),
                                 data={"number": number})])
            await asyncio.sleep(0.02)

@almenara.hookimpl
def almenara_sources():
    return [Steady()]
"""


class Developing(Almenara):
    """`almenara dev` on a plugins directory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "nats://127.0.0.1:1", plugins__disabled="[nats]")
        self.plugins = folder / "plugins"
        self.plugins.mkdir()

    def launch(self) -> None:
        with (self.folder / "almenara.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "almenara", "dev", "--plugins-dir", str(self.plugins)],
                env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip

    def plugin(self, name: str) -> dict[str, Any]:
        return next((each for each in self.get("/api/plugins") if each["name"] == name), {})

    def sources(self) -> list[str]:
        return [each["name"] for each in self.get("/api/sources")]


@pytest.fixture
def developing(tmp_path: Path) -> Iterator[Developing]:
    each = Developing(tmp_path)
    (each.plugins / "steady.py").write_text(STEADY)
    each.start()
    yield each
    each.stop()


def test_example_plugin_dropped_into_folder_shows_its_page(developing: Developing) -> None:
    assert developing.status("/dashboards/host") == 404
    shutil.copy(EXAMPLE, developing.plugins)
    wait_until(lambda: developing.status("/dashboards/host") == 200, "the page of the example")
    wait_until(lambda: developing.get("/api/resources?kind=host.disk"), "a disk")
    page = developing.text("/dashboards/host")
    for words in ("Load per processor", "Disk status changes", 'scope="row"'):
        assert words in page
    assert "Load per processor" in developing.text("/")


def test_saved_plugin_is_reloaded_without_disturbing_others(developing: Developing) -> None:
    shutil.copy(EXAMPLE, developing.plugins)
    wait_until(lambda: "host" in developing.sources(), "the example")
    started = developing.get("/api/health")["started"]
    path = developing.plugins / "host.py"
    path.write_text(path.read_text().replace('title="Disks"', 'title="Platters"'))
    wait_until(lambda: "Platters" in developing.text("/dashboards/host"), "the new title")

    path.write_text("def broken(:\n")
    wait_until(lambda: developing.plugin("host").get("state") == "failed", "its failing")
    assert "SyntaxError" in developing.plugin("host")["error"]
    assert developing.status("/dashboards/host") == 404
    assert "host" not in developing.sources()

    shutil.copy(EXAMPLE, developing.plugins)
    wait_until(lambda: developing.plugin("host").get("state") == "active", "its recovery")
    path.unlink()
    wait_until(lambda: developing.plugin("host") == {}, "its going")

    assert developing.get("/api/health")["started"] == started
    (steady,) = developing.get("/api/sources")
    assert (steady["name"], steady["restarts"]) == ("steady", 0)

    def ticks() -> list[int]:
        return [each["data"]["number"] for each in developing.events("?type=tick")]

    before = len(ticks())
    wait_until(lambda: len(ticks()) > before + 20, "its going on")
    numbers = ticks()
    assert numbers == list(range(len(numbers)))


def test_package_plugin_is_reloaded_with_its_modules(
    developing: Developing,
) -> None:
    package = developing.plugins / "parted"
    package.mkdir()
    (package / "words.py").write_text("WORD = 'first'\n")
    (package / "__init__.py").write_text(
        STEADY.replace("from almenara.signals", "from .words import WORD\nfrom almenara.signals")
        .replace('"tick"', 'f"parted.{WORD}"')
        .replace('"steady"', '"parted"')
    )
    wait_until(lambda: developing.events("?type=parted.first"), "its events")
    (package / "words.py").write_text("WORD = 'second'\n")
    wait_until(lambda: developing.events("?type=parted.second"), "the events of the new part")


def test_name_of_an_installed_plugin_is_reported(developing: Developing) -> None:
    shutil.copy(EXAMPLE, developing.plugins / "http.py")
    wait_until(
        lambda: any("its name is taken" in (each["error"] or "")
                    for each in developing.get("/api/plugins")), "the report of the name"
    )  # fmt: skip
    assert developing.plugin("http")["state"] == "active"


def test_hidden_files_of_a_mounted_folder_are_ignored(tmp_path: Path) -> None:
    developing = Developing(tmp_path)
    data = developing.plugins / "..data"
    data.mkdir()
    (data / "__init__.py").write_text("1 / 0")
    (data / "steady.py").write_text(STEADY)
    (developing.plugins / "steady.py").symlink_to("..data/steady.py")
    (developing.plugins / "_draft.py").write_text("1 / 0")
    (developing.plugins / "notes.txt").write_text("not a plugin")
    with developing:
        names = {each["name"] for each in developing.get("/api/plugins")}
        assert names & {"steady", "..data", "_draft", "notes"} == {"steady"}
