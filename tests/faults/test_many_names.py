"""Sources that never use a name twice, beyond the limits of names and resources.

`ALMENARA_NAMES=300000` is the long form, with a million resources; it takes about two minutes.
"""

import asyncio
import os
import random
from pathlib import Path
from typing import Final

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.signals import Event, Resource
from almenara.state.resources import Resources

pytestmark = pytest.mark.anyio

NAMES: Final = int(os.environ.get("ALMENARA_NAMES", "6000"))
RESOURCES: Final = NAMES * 10 // 3
BATCH: Final = 500


async def wait_for_warning(bus: EmbeddedBus, setting: str) -> None:
    async with asyncio.timeout(60):
        while not any(setting in warning for warning in bus.warnings):
            await asyncio.sleep(0.02)


async def test_events_of_many_names_are_stored_once_and_searchable(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, max_names=NAMES // 3, retention_interval=0.1)
    async with EmbeddedBus(settings) as bus:
        for start in range(0, NAMES, BATCH):
            batch = [
                Event(id=str(number), source="s", type=f"type-{number}", time=number)
                for number in range(start, min(start + BATCH, NAMES))
            ]
            await bus.publish(batch, "careless")
            await bus.publish(batch[:20], "careless")
        await wait_for_warning(bus, "max_names")
    async with EmbeddedBus(settings) as bus:
        history = History(bus)
        assert await history.count(Filter()) == NAMES
        (newest,) = await history.events(Filter(), limit=1)
        assert isinstance(newest.signal, Event)
        assert newest.signal.type == f"type-{NAMES - 1}"
        for number in random.Random(1).sample(range(NAMES), 50):
            events = await history.events(Filter(type=f"type-{number}"))
            assert [event.signal.id for event in events if isinstance(event.signal, Event)] == [
                str(number)
            ]


async def test_many_resources_are_known_up_to_limit_and_excess_is_reported(tmp_path: Path) -> None:
    settings = StorageSettings(
        dir=tmp_path, max_resources=RESOURCES - BATCH, retention_interval=0.1
    )
    async with EmbeddedBus(settings) as bus:
        for start in range(0, RESOURCES, BATCH):
            await bus.publish(
                [
                    Resource(kind="pod", name=f"pod-{number}", status="ok")
                    for number in range(start, start + BATCH)
                ],
                "careless",
            )
        await bus.publish([Resource(kind="pod", name="other", status="ok")], "careful")
        await wait_for_warning(bus, "max_resources")
    async with EmbeddedBus(settings) as bus:
        known = await bus.known_resources("careless")
        assert {name for _, _, name in known} == {
            f"pod-{number}" for number in range(RESOURCES - BATCH)
        }
        assert [name for _, _, name in await bus.known_resources("careful")] == ["other"]
        resources = Resources()
        await resources.rebuild(bus)
        assert resources.get("pod", "", "other") is not None
