"""Alerts over `kill -9`: the transitions in the log equal those of one undisturbed evaluation."""

import asyncio
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from almenara.alerting.evaluator import NAME
from support.alert_log import ALERTING, check_transitions
from support.application import Almenara
from support.bus import read_log, read_records
from support.flaky_pods import PLUGIN
from support.replicas import replica, replicated_almenara
from support.seeds import choose_seed
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("ALMENARA_ALERT_KILLS", "2"))
EVENTS_PER_KILL = 60
NEWEST_ALERT = "/api/events?type=almenara.alert.*&limit=1"
PATIENCE = 120.0


async def until(condition: Any, what: str) -> None:
    await asyncio.to_thread(wait_until, condition, what, PATIENCE)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Rules, and a plugin whose pods and requests fail now and then."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "flaky.py").write_text(PLUGIN, "utf-8")
    return {"alerting": ALERTING, "plugins_dir": str(plugins)}


async def test_transitions_equal_those_of_an_undisturbed_evaluation(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    chance = random.Random(choose_seed())
    with Almenara(tmp_path / "almenara", config=config) as almenara:
        for _ in range(KILLS):
            await asyncio.to_thread(almenara.wait_for_events, almenara.stored() + EVENTS_PER_KILL)
            time.sleep(chance.uniform(0, 0.3))
            almenara.kill()
            almenara.launch()
            await until(almenara.ready, "almenara")
        # Timers wait for some seconds after a start.
        before = almenara.get(NEWEST_ALERT)
        await until(lambda: almenara.get(NEWEST_ALERT) != before, "alerts")
    assert len(check_transitions(*await read_log(tmp_path / "almenara" / "var", NAME))) > 10


def holder(application: Almenara) -> str:
    """The replica that evaluates the rules, as far as another one knows; empty for none."""
    try:
        sources = application.get("/api/sources")
    except OSError:
        return ""
    return next((str(each["replica"]) for each in sources if each["name"] == NAME), "")


async def test_state_of_a_processor_survives_takeovers(
    tmp_path: Path, nats_server: NatsServer, config: dict[str, Any]
) -> None:
    replicas = {
        name: replicated_almenara(nats_server, tmp_path / name, name, **config) for name in "ab"
    }
    first = replicas["a"]
    assert first.command("streams", "apply").returncode == 0
    token = first.command("access", "create", "test", "--role", "operator").stdout.strip()
    with first, replicas["b"]:
        await until(lambda: holder(first) in replicas, "a replica that evaluates")
        silence = {"matchers": ["rule=crashing"], "comment": "known", "seconds": 3600}
        headers = {"authorization": f"Bearer {token}"}
        created = httpx.post(f"{first.url}/api/silences", json=silence, headers=headers)
        assert created.status_code == 201, created.text
        for _ in range(max(KILLS // 2, 1)):
            await take_over(replicas)
    async with replica(nats_server, tmp_path / "a" / "var") as bus:
        records, position = await read_records(bus, NAME)
    transitions = check_transitions(records, position)
    assert "almenara.alert.silenced" in {event.type for event in transitions}


async def take_over(replicas: Mapping[str, Almenara]) -> None:
    """Kill the replica that evaluates, and start it again once another one goes on."""
    await until(lambda: holder(replicas["a"]) in replicas, "a replica that evaluates")
    name = holder(replicas["a"])
    (other,) = replicas.keys() - {name}
    killed, taking = replicas[name], replicas[other]
    killed.kill()
    await until(lambda: holder(taking) == other, "the takeover")
    before = taking.get(NEWEST_ALERT)
    await until(lambda: taking.get(NEWEST_ALERT) != before, "alerts after the takeover")
    assert [silence["comment"] for silence in taking.get("/api/silences")] == ["known"]
    killed.launch()
    await until(killed.ready, "the replica that was killed")
