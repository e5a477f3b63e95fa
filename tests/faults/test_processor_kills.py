"""A processor over `kill -9`: what it derives equals one undisturbed run over the same log."""

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from almenara.bus import Record
from almenara.processors.fold import Fold
from almenara.signals import Event
from support.application import Almenara
from support.bus import read_log
from support.seeds import choose_seed
from support.servers import wait_until

pytestmark = pytest.mark.anyio

KILLS = int(os.environ.get("ALMENARA_PROCESSOR_KILLS", "2"))
EVENTS_PER_KILL = 200

PLUGIN = '''
import itertools

import almenara
from almenara.hookspecs import Subscription
from almenara.sdk import add_to_window, now, sleep
from almenara.signals import Event, Resource


class Requests:
    """Publishes failing and succeeding requests of ten users, for ever."""

    name = "requests"

    def __init__(self, context):
        self.context = context

    async def run(self, publish):
        start = int(await self.context.load("next") or b"0")
        for number in itertools.count(start, 20):
            await publish([
                Event(
                    id=str(each), source="requests", type="request", subject=f"user-{each % 10}",
                    time=now(), data={"ok": each * 7919 % 13 > 4},
                )
                for each in range(number, number + 20)
            ])
            await self.context.save("next", str(number + 20).encode())
            await sleep(0.01)


class Failures:
    """Derives an event when a user has failed three times in a second, and when that ends."""

    name = "failures"
    subscription = Subscription(events=("request",))

    def on_signal(self, signal, step):
        if signal.data["ok"]:
            return
        user = signal.subject
        step.set_timer(user, step.time + 100_000)
        if add_to_window(step, user, 1.0).count >= 3 and not step.state.get("high " + user, bool):
            step.state.set("high " + user, True)
            yield self.event("high", user, step)

    def on_timer(self, key, step):
        if step.state.get("high " + key, bool):
            step.state.delete("high " + key)
            yield self.event("low", key, step)

    def event(self, status, user, step):
        return Event(
            id=step.event_id(user), source="failures", type=f"failures.{status}", subject=user,
            time=step.time,
        )


@almenara.hookimpl
def almenara_sources(settings, context):
    return [Requests(context)]


@almenara.hookimpl
def almenara_processors(settings, context):
    return [Failures()]
'''


def fold_again(records: list[Record], end: int) -> list[Event]:
    """The events that an undisturbed processor derives of the log up to a position."""
    namespace: dict[str, Any] = {}
    exec(compile(PLUGIN, "plugin", "exec"), namespace)
    fold = Fold(namespace["Failures"](), "failures", {})
    derived = [
        signal for record in records if record.sequence <= end for signal in fold.accept(record)
    ]
    assert fold.take_failures() == []
    return [signal for signal in derived if isinstance(signal, Event)]


async def test_derived_events_equal_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    chance = random.Random(choose_seed())
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "requests.py").write_text(PLUGIN, "utf-8")
    with Almenara(tmp_path / "almenara", plugins_dir=str(plugins)) as almenara:
        for _ in range(KILLS):
            await asyncio.to_thread(almenara.wait_for_events, almenara.stored() + EVENTS_PER_KILL)
            time.sleep(chance.uniform(0, 0.3))
            almenara.kill()
            almenara.launch()
            await asyncio.to_thread(wait_until, almenara.ready, "almenara", 60)
        # Timers wait for some seconds after a start.
        await asyncio.to_thread(almenara.wait_for_events, almenara.stored() + EVENTS_PER_KILL)
        newest = "/api/events?type=failures.low&limit=1"
        before = almenara.get(newest)
        await asyncio.to_thread(
            wait_until, lambda: almenara.get(newest) != before, "a timer of the last run", 60
        )
    records, position = await read_log(tmp_path / "almenara" / "var", "failures")
    stored = [
        record.signal
        for record in records
        if isinstance(record.signal, Event) and record.signal.source == "failures"
    ]
    expected = fold_again(records, position)
    assert {event.type for event in stored} == {"failures.high", "failures.low"}
    assert [identity(event) for event in stored] == [identity(event) for event in expected]


def identity(event: Event) -> bytes:
    return msgspec.json.encode([event.id, event.type, event.subject, event.time])
