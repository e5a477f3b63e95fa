"""Events to publish, and records read back from a bus."""

import asyncio

from almenara.bus import Bus, Record
from almenara.signals import Event, now


def make_event(number: int, **fields: object) -> Event:
    """Return an event whose id and data tell its number; `fields` replace the defaults."""
    defaults = {
        "id": str(number), "source": "test", "type": "t", "time": now(), "data": {"n": number},
    }  # fmt: skip
    return Event(**{**defaults, **fields})  # type: ignore[arg-type]


async def collect_records(bus: Bus, after: int, count: int) -> list[Record]:
    """Return the records that follow a sequence, once there are `count` of them."""
    records: list[Record] = []
    async with asyncio.timeout(10):
        async for batch in bus.subscribe(after):
            records += batch
            if len(records) >= count:
                return records
    return records
