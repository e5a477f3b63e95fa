"""Alerts over `kill -9`: the transitions in the log equal those of one undisturbed evaluation."""

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from almenara.alerting.evaluator import NAME, Evaluator
from almenara.alerting.service import read_rules
from almenara.bus import Record
from almenara.config import Settings, decode_settings
from almenara.plugins import PluginRegistry
from almenara.processors.fold import Fold
from almenara.signals import Event
from support.application import Almenara
from support.bus import read_log
from support.flaky_pods import PLUGIN, RULES
from support.seeds import choose_seed
from support.servers import wait_until

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("ALMENARA_ALERT_KILLS", "2"))
EVENTS_PER_KILL = 60
ALERTING = yaml.safe_load(RULES)


def evaluate_again(records: list[Record], end: int) -> list[Event]:
    """The events that an undisturbed evaluation derives of the log up to a position."""
    settings = decode_settings(Settings, {"alerting": ALERTING}, place="")
    fold = Fold(Evaluator(read_rules(settings, PluginRegistry())), NAME, {})
    derived = [
        signal for record in records if record.sequence <= end for signal in fold.accept(record)
    ]
    assert fold.take_failures() == []
    return [signal for signal in derived if isinstance(signal, Event)]


def identity(event: Event) -> list[Any]:
    data = event.data
    if isinstance(data, msgspec.Raw):
        data = msgspec.json.decode(data)
    names = ("since", "started", "ended", "annotations", "value", "inhibited_by")
    return [event.id, event.type, event.subject, event.time, *(data.get(name) for name in names)]


async def test_transitions_equal_those_of_an_undisturbed_evaluation(tmp_path: Path) -> None:
    chance = random.Random(choose_seed())
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "flaky.py").write_text(PLUGIN, "utf-8")
    config = {"alerting": ALERTING, "plugins_dir": str(plugins)}
    with Almenara(tmp_path / "almenara", config=config) as almenara:
        for _ in range(KILLS):
            await asyncio.to_thread(almenara.wait_for_events, almenara.stored() + EVENTS_PER_KILL)
            time.sleep(chance.uniform(0, 0.3))
            almenara.kill()
            almenara.launch()
            await asyncio.to_thread(wait_until, almenara.ready, "almenara", 60)
        # Timers wait for some seconds after a start.
        newest = "/api/events?type=almenara.alert.*&limit=1"
        before = almenara.get(newest)
        await asyncio.to_thread(wait_until, lambda: almenara.get(newest) != before, "alerts", 60)
    records, position = await read_log(tmp_path / "almenara" / "var", NAME)
    stored = [
        record.signal
        for record in records
        if isinstance(record.signal, Event) and record.signal.type.startswith("almenara.alert.")
    ]
    expected = evaluate_again(records, position)
    assert len(stored) > 10
    assert [identity(event) for event in stored] == [identity(event) for event in expected]
