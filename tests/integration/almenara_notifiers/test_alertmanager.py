"""A real Alertmanager takes the alerts of a real Almenara, and its amtool lists them."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.alert_scenarios import resource
from support.alert_scenarios.laboratory import Laboratory
from support.application import Almenara
from support.paths import TESTS
from support.servers import accepts, free_port, wait_until

pytestmark = pytest.mark.anyio
BUILD = TESTS / "alertmanager" / "build"
CONFIG = "route: {receiver: none}\nreceivers: [{name: none}]\n"
RULE = {
    "name": "disk-full", "severity": "ERROR", "runbook": "https://runbooks.example/disk",
    "when": {"resource": {"kind": "disk", "status": ["full"]}},
    "annotations": {"summary": "The disk {{ name }} is full: {{ state.note }}"},
    "labels": {"team": "storage", "owner.team/name": "a,b"},
}  # fmt: skip
HOSTILE = '<!channel> "quoted" {{ 7 * 7 }} \\ line\nbreak'


class Alertmanager:
    """A running alertmanager, and its amtool."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.port = programs, folder, free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir()
        config = self.folder / "alertmanager.yml"
        config.write_text(CONFIG, "utf-8")
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [self.programs / "alertmanager", f"--config.file={config}",
                 f"--storage.path={self.folder / 'data'}",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--cluster.listen-address="],
                stdout=log, stderr=log,
            )  # fmt: skip
        wait_until(lambda: accepts(self.port), "alertmanager", 60)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def query(self, *matchers: str) -> list[dict[str, Any]]:
        """The active alerts, as amtool lists them."""
        command = [self.programs / "amtool", f"--alertmanager.url={self.url}", "--output=json"]
        listed = subprocess.run(
            [*command, "alert", "query", *matchers], capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
        alerts: list[dict[str, Any]] = json.loads(listed.stdout)
        return alerts


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    built = subprocess.run([BUILD, "--found"], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(built.stderr.strip())
    server = Alertmanager(Path(built.stdout.strip()), tmp_path / "alertmanager")
    server.start()
    yield server
    server.stop()


async def test_alertmanager_takes_alerts_and_their_end(
    alertmanager: Alertmanager, tmp_path: Path
) -> None:
    lab = Laboratory(tmp_path)
    receiver = {"name": "am", "kind": "alertmanager", "settings": {"url": alertmanager.url}}
    route = {"receivers": ["am"], "group_wait": 0.1, "group_interval": 0.2}
    alerting = {"enabled": True, "default_rules": False, "rules": [RULE], "receivers": [receiver],
                "route": route}  # fmt: skip
    with Almenara(tmp_path / "almenara", config={**lab.config, "alerting": alerting}) as almenara:
        note = {"note": HOSTILE}
        await lab.publish(*(
            resource("disk", name, "full", "ERROR", namespace="prod", state=note)
            for name in ("a", "b")
        ))  # fmt: skip
        wait_until(lambda: len(alertmanager.query("alertname=disk-full")) == 2, "both alerts", 60)
        alerts = alertmanager.query("name=a")
        (alert,) = alerts
        assert alert["labels"] == {
            "alertname": "disk-full", "severity": "error", "team": "storage", "kind": "disk",
            "namespace": "prod", "name": "a", "origin": "lab", "owner_team_name": "a,b",
            "fingerprint": alert["labels"]["fingerprint"],
        }  # fmt: skip
        assert alert["annotations"]["summary"] == f"The disk a is full: {' '.join(HOSTILE.split())}"
        assert alert["annotations"]["runbook_url"] == "https://runbooks.example/disk"

        await lab.publish(resource("disk", "a", "ok", namespace="prod"))
        wait_until(
            lambda: [each["labels"]["name"] for each in alertmanager.query()] == ["b"],
            "the end of one",
            60,
        )
        almenara.kill()
        almenara.launch()
        wait_until(almenara.ready, "almenara", 60)
        await lab.publish(resource("disk", "b", "ok", namespace="prod"))
        wait_until(lambda: alertmanager.query() == [], "the end of both", 60)
