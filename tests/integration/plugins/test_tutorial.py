"""The tutorial, followed to the letter in an empty folder, and the contract's documentation."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from almenara import hookspecs
from almenara.plugins.reference import render_contract_reference
from support.paths import ROOT
from support.servers import free_port, wait_until

DOCS = ROOT / "docs" / "plugins"
BLOCK = re.compile(r"^```(?P<kind>\w+)(?: (?P<how>[^\n]+))?\n(?P<text>.*?)^```", re.M | re.S)


class Reader:
    """A reader who types the commands of the tutorial."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.environment = {
            **{k: v for k, v in os.environ.items() if "ALMENARA" not in k},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ALMENARA_SERVER__PORT": str(self.port),
        }

    def follow(self, kind: str, how: str, text: str) -> None:
        if how.startswith(("file=", "append=")):
            action, _, name = how.partition("=")
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a" if action == "append" else "w") as file:
                file.write(text)
        elif how == "background":
            self.stop()
            self.server = subprocess.Popen(
                ["sh", "-c", f"exec {text}"], cwd=self.folder, env=self.environment
            )
            wait_until(lambda: self.get("/api/sources") is not None, "almenara", 30)
        else:
            assert kind == "shell", f"a block of the tutorial that no test runs: {kind} {how}"
            subprocess.run(
                ["sh", "-ec", text], cwd=self.folder, env=self.environment, check=True, timeout=60
            )

    def get(self, path: str) -> Any:
        try:
            address = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(address, timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        return json.loads(text) if path.startswith("/api") else text

    def stop(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(20)
            self.server = None


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    each = Reader(tmp_path)
    yield each
    each.stop()


def waiting(reader: Reader) -> float | None:
    page = reader.get("/panels/inbox.waiting") or ""
    match = re.search(r'class="figure big">([\d,]+)<', page)
    return float(match[1]) if match else None


def late(reader: Reader) -> set[str]:
    match = reader.get("/api/resources?kind=inbox.file") or []
    return {each["name"] for each in match if each["status"] == "late"}


def late_files(reader: Reader) -> list[str]:
    """The file of each event about a late file."""
    return [each["subject"] for each in reader.get("/api/events?type=inbox.file.late")["events"]]


def test_tutorial_works_as_written(reader: Reader) -> None:
    blocks = [(each["kind"], each["how"] or "", each["text"]) for each in
              BLOCK.finditer((DOCS / "tutorial.md").read_text())]  # fmt: skip
    checks = {
        "touch inbox/a inbox/b inbox/c\n": lambda: waiting(reader) == 3,
        "almenara dev --config almenara.yaml\n": lambda: late(reader) == set("abc"),
        "touch inbox/d inbox/e inbox/f\n": lambda: set(late_files(reader)) >= set("def"),
    }
    for kind, how, text in blocks:
        reader.follow(kind, how, text)
        if text in checks:
            wait_until(checks.pop(text), f"what follows {text}", 20)
    assert not checks
    page = reader.get("/dashboards/inbox")
    assert "Files waiting" in page
    assert page.count("inbox.file.late") >= 3
    assert len(late_files(reader)) == len(set(late_files(reader)))
    (source,) = reader.get("/api/sources")
    assert (source["name"], source["status"], source["error"]) == ("inbox", "running", None)
    assert (reader.folder / "almenara-postbox" / "pyproject.toml").is_file()


def test_every_hook_and_type_is_documented() -> None:
    reference = render_contract_reference()
    for name, thing in vars(hookspecs).items():
        if name.startswith("almenara_") or (
            inspect.isclass(thing) and thing.__module__ == hookspecs.__name__
        ):
            assert f"### `{name}`" in reference
            assert inspect.getdoc(thing)


def test_minimal_plugin_is_short_and_runs(
    tmp_path: Path,
) -> None:
    shown = inspect.getdoc(hookspecs) or ""
    begin = shown.index("    import almenara")
    code = re.sub(r"^    ", "", shown[begin : shown.index("\n\nHooks receive")], flags=re.M)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    plugin = tmp_path / "disk.py"
    plugin.write_text(code)
    from almenara.testing.rules import RULES, examine

    results = {rule: examine(str(plugin), None, rule) for rule in RULES}
    assert all(each.verdict != "failed" for each in results.values()), results
