"""Alerts of a real Almenara, and a rule tried on its past."""

import json
from pathlib import Path

import pytest
import yaml

from support.application import Almenara
from support.flaky_pods import PLUGIN, RULES
from support.servers import wait_until


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "flaky.py").write_text(PLUGIN, "utf-8")
    return folder


def test_rules_become_alerts_that_the_api_and_history_show(tmp_path: Path, plugins: Path) -> None:
    config = {"alerting": yaml.safe_load(RULES), "plugins_dir": str(plugins)}
    with Almenara(tmp_path / "almenara", config=config) as almenara:

        def has_resolved() -> bool:
            query = "?type=almenara.alert.resolved&subject=crashing/*&limit=1"
            return bool(almenara.get(f"/api/events{query}")["events"])

        wait_until(has_resolved, "a resolved alert", 30)
        alerts = almenara.get("/api/resources?kind=almenara.alert")
        crashing = next(alert for alert in alerts if alert["namespace"] == "crashing")
        marks = almenara.get("/api/charts/chart?metric=cpu&marks=Alerts")["marks"]
        assert {mark["group"] for mark in marks} == {"Alerts"}
        assert any("almenara.alert.firing" in mark["text"] for mark in marks)
        assert crashing["origin"] == "flaky"
        assert crashing["state"]["resource"]["kind"] == "pod"

        def are_running() -> bool:
            sources = almenara.get("/api/resources?kind=almenara.source")
            statuses = {source["name"]: source["status"] for source in sources}
            return statuses.get("flaky") == statuses.get("alerts") == "running"

        wait_until(are_running, "both sources", 30)

        tried = almenara.command("alerts", "test", "crashing", "--since", "1h", "--json")
        assert tried.returncode == 0, tried.stderr
        episodes = [json.loads(line) for line in tried.stdout.splitlines()]
        assert episodes[0]["summary"].startswith("pod prod pod-")
        fired = [event["subject"] for event in almenara.events("?type=almenara.alert.firing")]
        assert {episode["alert"] for episode in episodes} >= {
            subject for subject in fired if subject.startswith("crashing/")
        }

        unknown = almenara.command("alerts", "test", "crashin")
        assert (unknown.returncode, "did you mean crashing?" in unknown.stderr) == (1, True)


def test_without_alerting_nothing_is_published(tmp_path: Path, plugins: Path) -> None:
    config = {
        "alerting": {**yaml.safe_load(RULES), "enabled": False}, "plugins_dir": str(plugins),
    }  # fmt: skip
    with Almenara(tmp_path / "almenara", config=config) as almenara:
        almenara.wait_for_events(20)
        resources = almenara.get("/api/resources")
        assert not [each for each in resources if each["kind"].startswith("almenara.")]
        listed = almenara.command("alerts", "rules")
        assert "crashing" in listed.stdout


def test_config_check_refuses_a_wrong_rule(tmp_path: Path) -> None:
    rule = {"name": "x", "when": {"events": {"types": ["a"], "cout": 3}}}
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump({"alerting": {"rules": [rule]}}), "utf-8")
    checked = Almenara(tmp_path / "almenara").command("config", "check", str(wrong))
    assert checked.returncode == 1
    assert "alerting.rules[0].when.events.cout" in checked.stderr
    assert "did you mean count?" in checked.stderr
