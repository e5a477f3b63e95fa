"""A real Alertmanager notifies the intake of alerts that fire, repeat and resolve."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from support.application import Almenara
from support.paths import TESTS
from support.servers import accepts, free_port, wait_until

BUILD = TESTS / "alertmanager" / "build"


@pytest.fixture
def almenara(tmp_path: Path) -> Iterator[Almenara]:
    config = {"plugins": {"disabled": ["nats"]}, "intake": {"am": {"kind": "alertmanager"}}}
    with Almenara(tmp_path / "almenara", config=config) as running:
        yield running


@pytest.fixture
def alertmanager(almenara: Almenara, tmp_path: Path) -> Iterator[str]:
    """The address of an Alertmanager that notifies the intake with its token."""
    built = subprocess.run([BUILD, "--found"], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(built.stderr.strip())
    token, value = create_token("am", Role.INTAKE, [], 3600, created_by="test", intake="am")
    AccessStore(almenara.folder / "var").add_token(token)
    (tmp_path / "token").write_text(value)
    authorization = {"credentials_file": str(tmp_path / "token")}
    webhook = {
        "url": f"{almenara.url}/intake/alertmanager",
        "http_config": {"authorization": authorization},
    }
    route = {"receiver": "almenara", "group_by": ["alertname"], "group_wait": "100ms",
             "group_interval": "200ms", "repeat_interval": "1s"}  # fmt: skip
    config = {"route": route, "receivers": [{"name": "almenara", "webhook_configs": [webhook]}]}
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (tmp_path / "alertmanager.log").open("wb") as log:
        process = subprocess.Popen(
            [Path(built.stdout.strip()) / "alertmanager",
             f"--config.file={tmp_path / 'alertmanager.yml'}",
             f"--storage.path={tmp_path / 'data'}",
             f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="],
            stdout=log, stderr=log,
        )  # fmt: skip
    wait_until(lambda: accepts(port), "the alertmanager", 60)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


def post_alert(address: str, ends: datetime) -> None:
    alert = {
        "labels": {"alertname": "Down", "severity": "critical", "instance": "a"},
        "annotations": {"summary": "it is down <b>"},
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": ends.isoformat(),
    }
    httpx.post(f"{address}/api/v2/alerts", json=[alert], timeout=30).raise_for_status()


def list_events(almenara: Almenara) -> list[dict[str, Any]]:
    return almenara.events("?origin=intake/am")


def test_alerts_of_a_real_alertmanager_are_events(almenara: Almenara, alertmanager: str) -> None:
    post_alert(alertmanager, datetime.now(UTC) + timedelta(hours=1))
    wait_until(lambda: len(list_events(almenara)) == 1, "the alert", 60)
    (firing,) = list_events(almenara)
    assert (firing["type"], firing["subject"]) == ("alertmanager.alert.firing", "Down")
    assert firing["severity"] == "FATAL"
    assert firing["data"]["annotations"] == {"summary": "it is down <b>"}

    def received() -> int:
        states = almenara.get("/api/sources")
        return int(next(each["events"] for each in states if each["name"] == "intake/am"))

    wait_until(lambda: received() >= 2, "a repeated notification", 60)
    almenara.kill()
    post_alert(alertmanager, datetime.now(UTC) - timedelta(seconds=1))
    almenara.launch()
    wait_until(almenara.ready, "almenara", 120)
    wait_until(lambda: len(list_events(almenara)) == 2, "the end of the alert", 120)
    resolved = list_events(almenara)[1]
    assert (resolved["type"], resolved["severity"]) == ("alertmanager.alert.resolved", "INFO")
    assert resolved["correlation"] == firing["correlation"]
