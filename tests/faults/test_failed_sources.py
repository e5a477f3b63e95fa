"""What a source has published is unknown, and not healthy, while the source itself does not run."""

import json
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from support.application import Almenara
from support.servers import wait_until

PLUGIN = """
import asyncio, pathlib, time
import almenara
from almenara.hookspecs import Column, NumberPanel, ResourceQuery, SampleQuery, StatusPanel
from almenara.signals import Resource, Sample

FLAG = pathlib.Path({flag!r})

class Source:
    name = "lab"

    async def run(self, publish, report):
        while True:
            if FLAG.exists():
                {fault}
            report.recovered()
            await publish([Resource(kind="lab.thing", name="one", status="ok"),
                           Sample(kind="lab.thing", name="one", metric="load", value=12.0)])
            await asyncio.sleep(0.2)

@almenara.hookimpl
def almenara_sources(): return [Source()]

@almenara.hookimpl
def almenara_panels():
    return [StatusPanel(name="things", title="Things", query=ResourceQuery(kind="lab.thing")),
            NumberPanel(name="load", title="Load",
                        query=SampleQuery(kind="lab.thing", metric="load"))]
"""
FAULTS = {"raises": "raise OSError('no answer')", "blocks": "time.sleep(0.1); continue"}


@pytest.mark.parametrize("fault", FAULTS)
def test_resources_of_a_failed_source_are_unknown_until_it_runs_again(
    tmp_path: Path, fault: str
) -> None:
    plugins, flag = tmp_path / "plugins", tmp_path / "flag"
    plugins.mkdir()
    (plugins / "lab.py").write_text(PLUGIN.format(flag=str(flag), fault=FAULTS[fault]))
    settings = {
        "plugins_dir": str(plugins), "plugins__disabled": "[nats]",
        "supervisor__blocked_after": "1", "supervisor__backoff_limit": "1",
    }  # fmt: skip
    with Almenara(tmp_path / "almenara", **settings) as almenara:

        def resource() -> Any:
            return next(iter(almenara.get("/api/resources?kind=lab.thing")), {})

        wait_until(lambda: resource().get("status") == "ok", "a healthy resource")
        assert ">ok<" in almenara.text("/panels/lab.things")
        assert ">12<" in almenara.text("/panels/lab.load")
        address = f"{almenara.url.replace('http', 'ws')}/live?panel=lab.things"
        with connect(address, origin=almenara.url) as socket:  # type: ignore[arg-type]
            assert "ok" in receive(socket, "one")
            flag.touch()
            wait_until(lambda: resource()["status"] == "unknown", "an unknown resource", 30)
            frame = receive(socket, "unknown")
            assert ">ok<" not in frame
            assert resource()["state"]["last_status"] == "ok"
            assert ">ok<" not in almenara.text("/panels/lab.things")
            assert "No data for" in almenara.text("/panels/lab.load")
            flag.unlink()
            wait_until(lambda: resource()["status"] == "ok", "a healthy resource again", 30)
            assert "ok" in receive(socket, ">ok<")
        assert ">12<" in almenara.text("/panels/lab.load")


def receive(socket: Any, expected: str) -> str:
    """Return the first frame with a text."""
    while True:
        content = str(json.loads(socket.recv(timeout=30)).get("content", ""))
        if expected in content:
            return content


TEXTS = """
import asyncio, json, os
import almenara

class Source:
    name = "lab"

    async def run(self, publish, report):
        report.lag(2**80)
        report.degraded(json.loads('"half of a pair: \\\\ud83d"'))
        await asyncio.sleep({seconds})
        raise ValueError(os.fsdecode(b"caf\\xe9.toml") + " is not a log")

@almenara.hookimpl
def almenara_sources(): return [Source()]
"""


@pytest.mark.parametrize("isolation", ["task", "thread", "process"])
@pytest.mark.parametrize(
    ("seconds", "status", "error"),
    [
        (3600, "degraded", "half of a pair: ?"),
        (0, "backing_off", "ValueError: caf?.toml is not a log"),
    ],
    ids=["degraded", "raised"],
)
def test_texts_that_cannot_be_encoded_harm_no_one(
    tmp_path: Path, isolation: str, seconds: int, status: str, error: str
) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "lab.py").write_text(TEXTS.format(seconds=seconds))
    settings = {
        "plugins_dir": str(plugins), "plugins__disabled": "[nats]", "alerting__enabled": "true",
        "supervisor__backoff": "30", "supervisor__backoff_limit": "30",
        "supervisor__sources": json.dumps({"lab": {"isolation": isolation}}),
    }  # fmt: skip
    with Almenara(tmp_path / "almenara", **settings) as almenara:

        def source() -> Any:
            resources = almenara.get("/api/resources?kind=almenara.source")
            return next((each for each in resources if each["name"] == "lab"), {})

        # The rules read it, and so does every replica.
        wait_until(lambda: source().get("status") == status, "the source as a resource", 60)
        assert source()["state"]["reason"] == error
        assert almenara.get("/api/health")["sources"]["lab"] == status
        assert error in almenara.text("/sources")
        sequence = almenara.get("/api/health")["last_sequence"]
        almenara.stop()
        assert not list((tmp_path / "almenara").rglob("resources.db.*damaged*"))
        almenara.launch()
        wait_until(almenara.ready, "almenara", 60)
        assert almenara.get("/api/health")["last_sequence"] >= sequence
