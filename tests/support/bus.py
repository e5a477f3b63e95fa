"""Events to publish, and records read back from a bus."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from almenara.bus import Bus, Record
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.retention import used_bytes
from almenara.bus.sealing import BLOCK_EVENTS
from almenara.config import StorageSettings
from almenara.signals import Event, now


def make_event(number: int, **fields: object) -> Event:
    """Return an event whose id and data tell its number; `fields` replace the defaults."""
    defaults = {
        "id": str(number), "source": "test", "type": "t", "time": now(), "data": {"n": number},
    }  # fmt: skip
    return Event(**{**defaults, **fields})  # type: ignore[arg-type]


def make_events(start: int, count: int) -> list[Event]:
    """Return events with consecutive numbers, of five types."""
    return [make_event(number, type=f"t{number % 5}") for number in range(start, start + count)]


async def collect_records(bus: Bus, after: int, count: int) -> list[Record]:
    """Return the records that follow a sequence, once there are `count` of them."""
    records: list[Record] = []
    async with asyncio.timeout(10):
        async for batch in bus.subscribe(after):
            records += batch
            if len(records) >= count:
                return records
    return records


async def read_log(folder: Path, processor: str) -> tuple[list[Record], int]:
    """Every record of the log in a folder, and the position of a processor."""
    async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
        return await read_records(bus, processor)


async def read_records(bus: Bus, processor: str) -> tuple[list[Record], int]:
    """Every record of a log, and the position of a processor."""
    records: list[Record] = []
    async for batch in bus.subscribe(0):
        records += batch
        if records[-1].sequence == bus.last_sequence:
            break
    return records, int((await bus.load_all(f"processor/{processor}"))["cursor"])


async def store_and_seal(settings: StorageSettings, events: Sequence[Event]) -> int:
    """Store events, wait until those beyond `hot_events` are sealed, and return the bytes used."""
    with patch("almenara.bus.sealing.PAUSE", 0.0):
        return await _store_and_seal(settings, events)


async def _store_and_seal(settings: StorageSettings, events: Sequence[Event]) -> int:
    async with EmbeddedBus(settings) as bus:
        for first in range(0, len(events), 500):
            await bus.publish(events[first : first + 500], "nats")
        rows = "SELECT events - sealed_events FROM position"
        most = settings.hot_events + BLOCK_EVENTS
        while (await bus.read(lambda each: each.execute(rows).fetchone()))[0] >= most:
            await asyncio.sleep(0.05)
        return await bus.read(used_bytes)
