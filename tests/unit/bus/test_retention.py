import asyncio
from pathlib import Path

import pytest

from almenara.bus import retention
from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.signals import Sample
from support.bus import collect_records, make_event

pytestmark = pytest.mark.anyio


async def test_retention_removes_oldest_events_and_their_text_index_by_size(
    tmp_path: Path,
) -> None:
    settings = StorageSettings(
        dir=tmp_path, retention_size=1_500_000, retention_interval=0.05, retention_batch=100
    )
    async with EmbeddedBus(settings) as bus:
        history = History(bus)
        for start in range(0, 5000, 250):
            await bus.publish(
                [
                    make_event(it, data={"word": f"w{it}", "pad": "x" * 500})
                    for it in range(start, start + 250)
                ],
                "x",
            )
        async with asyncio.timeout(20):
            while (await bus.read(retention.used_bytes)) > settings.retention_size:
                await asyncio.sleep(0.05)
        remaining = await history.events(Filter(), limit=10_000)
        assert 0 < len(remaining) < 5000
        assert await history.count_stored() == len(remaining)
        assert [it.sequence for it in remaining] == list(range(5000, 5000 - len(remaining), -1))
        assert await history.count(Filter(text="w0")) == 0
        assert await history.count(Filter(text="w4999")) == 1
        assert [it.sequence for it in await collect_records(bus, 0, len(remaining))][-1] == 5000


async def test_retention_removes_signals_older_than_retention_age(tmp_path: Path) -> None:
    settings = StorageSettings(dir=tmp_path, retention_age=0.5, retention_interval=0.05)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(1), Sample(kind="k", name="n", metric="m", value=1)], "x")
        async with asyncio.timeout(10):
            while await History(bus).count_stored():
                await asyncio.sleep(0.05)
        await bus.publish([make_event(1)], "x")
        assert await History(bus).count_stored() == 0
        await bus.publish([make_event(2)], "x")
        assert await History(bus).count_stored() == 1
