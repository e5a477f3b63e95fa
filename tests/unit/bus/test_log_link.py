"""The link of a replica to the shared log: when the replica is ready."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from almenara.bus.shared import SharedBus
from almenara.config import StorageSettings
from support.bus import make_event
from support.memory_log import LogView, MemoryLog
from support.nats_source import until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def open_replica(folder: Path, view: LogView) -> AsyncIterator[SharedBus]:
    settings = StorageSettings(dir=folder, write_retry_interval=0.1)
    async with SharedBus(settings, view, start_patience=0.0) as bus:
        yield bus


async def test_replica_stays_ready_while_the_log_has_no_leader(tmp_path: Path) -> None:
    view = LogView(MemoryLog())
    async with open_replica(tmp_path, view) as bus:
        await until(lambda: bus.not_ready is None, "the start")
        await bus.publish([make_event(1)], "test")
        view.lose_leader()
        before = view.attempts
        while view.attempts < before + 5:
            assert bus.not_ready is None
            await asyncio.sleep(0)
        view.elect_leader()
        await bus.publish([make_event(2)], "test")
        assert bus.not_ready is None


async def test_new_replica_is_not_ready_while_the_log_has_no_leader(tmp_path: Path) -> None:
    view = LogView(MemoryLog())
    view.lose_leader()
    async with open_replica(tmp_path, view) as bus:
        await until(lambda: view.attempts > 2, "some attempts")
        assert bus.not_ready is not None


async def test_replica_that_lags_after_an_interruption_is_not_ready(tmp_path: Path) -> None:
    log = MemoryLog()
    view, other = LogView(log), LogView(log)
    async with (
        open_replica(tmp_path / "a", view) as bus,
        open_replica(tmp_path / "b", other) as second,
    ):
        await bus.publish([make_event(1)], "test")
        view.lose_leader()
        view.limit(len(log.messages))
        await second.publish([make_event(2)], "test")
        assert bus.not_ready is None
        view.elect_leader()
        await until(lambda: bus.not_ready is not None, "the lag")
        # The log delivers, and has a message that this replica does not get.
        for _ in range(100):
            await asyncio.sleep(0)
            assert bus.not_ready is not None
        view.limit(None)
        await until(lambda: bus.not_ready is None, "the end of the lag")
        assert bus.last_sequence == second.last_sequence
