"""A system clock that is wrong for a while removes nothing from history."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.units import DAY, HOUR, MINUTE, SECOND
from support.bus import make_event
from support.seeds import choose_seed

pytestmark = pytest.mark.anyio

JUMPS = {"a minute": MINUTE, "an hour": HOUR, "45 days": 45 * DAY, "a year": 365 * DAY}


class WrongClock:
    """The clock of this machine with a date that is wrong by `offset` microseconds."""

    def __init__(self) -> None:
        self.offset = 0

    def now(self) -> int:
        return time.time_ns() // 1_000 + self.offset

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def wait_for_retention(bus: EmbeddedBus, history: History, runs: int = 5) -> None:
    """Let retention run a few times; it is due with each commit here."""
    for _ in range(runs):
        before = bus.counters.commits
        await bus.save("test", "wait", b"")
        assert bus.counters.commits == before + 1
        await asyncio.sleep(bus.settings.retention_interval * 1.5)
        await history.count_stored()


@pytest.mark.parametrize("direction", [1, -1], ids=["ahead", "back"])
@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("retention_age", [3600.0, 30 * 86400.0], ids=["1 h", "30 days"])
async def test_clock_jump_removes_nothing(
    tmp_path: Path, jump: str, direction: int, retention_age: float
) -> None:
    clock = WrongClock()
    settings = StorageSettings(
        dir=tmp_path, retention_age=retention_age, retention_interval=0.01, retention_batch=10
    )
    published = 0
    async with EmbeddedBus(settings, clock=clock) as bus:
        history = History(bus)
        for is_wrong in (False, True, False, True, False):
            clock.offset = direction * JUMPS[jump] if is_wrong else 0
            await bus.publish([make_event(published + each) for each in range(20)], "x")
            published += 20
            await wait_for_retention(bus, history)
            if is_wrong and JUMPS[jump] > MINUTE:
                assert any("system clock" in each for each in bus.warnings)
        assert bus.warnings == []
        assert await history.count_stored() == published
    # Before the time is synchronized: a start with a wrong date, and one with the right one after.
    for offset in (direction * JUMPS[jump], 0):
        clock.offset = offset
        async with EmbeddedBus(settings, clock=clock) as bus:
            history = History(bus)
            await wait_for_retention(bus, history)
            assert await history.count_stored() == published
            assert len(await history.events(Filter(), limit=1_000)) == published


async def test_retention_is_exact_under_random_clock_jumps(tmp_path: Path) -> None:
    seed = choose_seed()
    chance = random.Random(seed)
    clock = WrongClock()
    settings = StorageSettings(
        dir=tmp_path, retention_age=1.5, sample_retention_age=1.5, retention_interval=0.02,
    )  # fmt: skip
    written: dict[str, float] = {}
    async with EmbeddedBus(settings, clock=clock) as bus:
        history = History(bus)
        start = time.monotonic()
        while (moment := time.monotonic()) < start + 5:
            if chance.random() < 0.3:
                clock.offset = chance.choice((-1, 0, 1)) * chance.choice([*JUMPS.values(), SECOND])
            number = str(len(written))
            await bus.publish([make_event(0, id=number)], "x")
            written[number] = moment
            queried = time.monotonic()
            stored = {each.signal.id for each in await history.events(Filter(), limit=1_000)}  # type: ignore[union-attr]
            # What is younger than the retention age is there; a second is what a step may make up.
            young = {
                each for each, at in written.items() if at > queried - settings.retention_age + 1
            }
            assert young <= stored, f"seed {seed}"
            await asyncio.sleep(0.02)
        assert bus.counters.removed > 0, "retention goes on by elapsed time"
