"""A real VictoriaMetrics stores what a real Almenara sends, each sample once."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.application import Almenara
from support.counting_plugin import expected_samples, write_plugin
from support.paths import TESTS
from support.servers import free_port, wait_until

BUILD = TESTS / "victoria_metrics" / "build"
TOTAL = 10_000


class VictoriaMetrics:
    """A server with a folder of its own, that requires a password."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder, self.port = program, folder, free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self.program, f"-storageDataPath={self.folder}", "-retentionPeriod=100y",
             f"-httpListenAddr=127.0.0.1:{self.port}", "-httpAuth.username=almenara",
             "-httpAuth.password=right",
             # A request whose response is lost when the server stops is sent again.
             "-dedup.minScrapeInterval=1ms"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(lambda: self.get("/-/healthy") is not None, "VictoriaMetrics", 60)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def get(self, path: str) -> bytes | None:
        passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
        passwords.add_password(None, self.url, "almenara", "right", is_authenticated=True)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
        try:
            with opener.open(self.url + path, timeout=10) as response:
                return bytes(response.read())
        except OSError:
            return None

    def export(self) -> list[dict[str, Any]]:
        """Every stored series, with its samples."""
        self.get("/internal/force_flush")
        lines = self.get("/api/v1/export?match[]=test_count") or b""
        return [json.loads(line) for line in lines.splitlines()]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    built = subprocess.run([BUILD, "--found"], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(built.stderr.strip())
    server = VictoriaMetrics(Path(built.stdout.strip()), tmp_path / "victoria-metrics")
    server.start()
    yield server
    server.stop()


def test_victoria_metrics_stores_every_sample(database: VictoriaMetrics, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong")
    receiver = {
        "url": f"{database.url}/api/v1/write", "metrics": ["test.*"], "labels": {"cluster": "eu"},
        "username": "almenara", "password": {"file": str(password)},
    }  # fmt: skip
    config = {
        "plugins_dir": str(write_plugin(tmp_path / "plugins")),
        "plugins": {"counter": {"total": TOTAL}},
        "samples": {"remote_write": [receiver]},
    }
    almenara = Almenara(tmp_path / "almenara", config=config).start()

    def stored() -> int:
        return sum(len(series["values"]) for series in database.export())

    try:
        wait_until(lambda: "status 401" in almenara.text("/api/sources"), "a wrong password")
        password.write_text("right")
        wait_until(lambda: stored() > 500, "the first samples")
        database.stop()
        wait_until(lambda: "connection" in almenara.text("/api/sources"), "a report")
        database.start()
        wait_until(lambda: stored() >= TOTAL, "every sample")
    finally:
        almenara.stop()
    series = database.export()
    assert {frozenset(each["metric"].items()) for each in series} == {
        frozenset(
            {"__name__": "test_count", "cluster": "eu", "kind": "k", "name": f"s{number}",
             "origin": "counter"}.items()
        )
        for number in range(7)
    }  # fmt: skip
    received = [
        ((each["metric"]["name"], time), value)
        for each in series
        for time, value in zip(each["timestamps"], each["values"], strict=True)
    ]
    assert len(received) == TOTAL
    assert dict(received) == pytest.approx(expected_samples(TOTAL), rel=1e-9)
