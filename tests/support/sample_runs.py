"""A sample store that follows a bus, and the plain list of samples that it must answer as."""

import asyncio
import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import SampleSettings, StorageSettings
from almenara.signals import Sample, Signal
from almenara.state.resources import Resources
from almenara.state.rollups import add_floats
from almenara.state.sample_history import SampleHistory, SeriesMatch
from almenara.state.sample_restore import restore_samples
from almenara.state.sample_schema import SLOT, WINDOW
from almenara.state.sample_store import SampleStore
from almenara.units import MILLISECOND
from support.moved_clock import MovedClock

START = 1_767_225_600_000
"""Milliseconds; the start of a window and a day."""


@dataclasses.dataclass
class Run:
    """A store on a bus, and the resources that feed it."""

    bus: EmbeddedBus
    store: SampleStore
    resources: Resources
    clock: MovedClock

    @property
    def history(self) -> SampleHistory:
        return SampleHistory(self.store, self.resources)

    @property
    def moment(self) -> int:
        return self.clock.now() // MILLISECOND

    async def publish(self, *signals: Signal, origin: str = "test") -> None:
        await self.bus.publish(signals, origin)
        async with asyncio.timeout(20):
            while self.resources.sequence < self.bus.last_sequence:
                await asyncio.sleep(0.001)

    async def rollups(
        self, since: int, until: int, step: int, **names: str
    ) -> dict[str, dict[int, tuple[float, float, float, int, float | None]]]:
        _, matches = await self.history.rollups(
            SeriesMatch(**names), since=since, until=until, step=step, moment=self.moment
        )
        return {
            series.name.name: {
                time: (low, high, total, count, increase)
                for time, low, high, total, count, increase in zip(
                    series.rollups.times,
                    series.rollups.lows,
                    series.rollups.highs,
                    series.rollups.totals,
                    series.rollups.counts,
                    series.rollups.increases or [None] * len(series.rollups.times),
                    strict=True,
                )
            }
            for series in matches
        }


@contextlib.asynccontextmanager
async def running(
    folder: Path, clock: MovedClock, chosen: SampleSettings | None = None
) -> AsyncIterator[Run]:
    chosen = chosen or SampleSettings()
    async with (
        EmbeddedBus(StorageSettings(dir=folder)) as bus,
        SampleStore(folder, chosen, bus, clock=clock) as store,
    ):
        resources = Resources(store)
        after = bus.last_sequence
        await resources.rebuild(bus)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(resources.follow(bus, after)),
                group.create_task(store.run()),
            ]
            await restore_samples(resources, store)
            try:
                yield Run(bus, store, resources, clock)
            finally:
                for task in tasks:
                    task.cancel()


def make_sample(time: int, value: float, name: str = "web", **fields: str) -> Sample:
    names = {"kind": "pod", "namespace": "shop", "metric": "cpu", "origin": "test", **fields}
    return Sample(name=name, value=value, time=time * MILLISECOND, **names)


class PlainSamples:
    """Every sample in a list."""

    def __init__(self) -> None:
        self.slots: dict[str, dict[int, tuple[int, float]]] = defaultdict(dict)

    def add(self, samples: list[Sample]) -> None:
        for sample in samples:
            time = sample.time // MILLISECOND
            self.slots[sample.name][time // SLOT] = (time, sample.value)

    def rollups(
        self, name: str, since: int, until: int, step: int
    ) -> dict[int, tuple[float, float, float, int, float]]:
        buckets = defaultdict[int, list[float]](list)
        rises = defaultdict[int, float](float)
        previous: tuple[int, float] | None = None
        for time, value in sorted(self.slots[name].values()):
            start = time // step * step
            if since <= time < until or (since <= start < until and time < until):
                buckets[start].append(value)
                if previous is not None and time - previous[0] <= WINDOW:
                    rises[start] += value - previous[1] if value >= previous[1] else value
            previous = time, value
        return {
            start: (min(values), max(values), add_floats(values), len(values), rises[start])
            for start, values in buckets.items()
        }


async def compare(run: Run, plain: PlainSamples, since: int, length: int, step: int) -> None:
    until = since + length
    resolution, step = run.history.resolve(since, until, step, run.moment)
    answer = await run.rollups(since, until, step)
    # A bucket of the rollups is answered as a whole.
    since, until = (
        since // step * step,
        -(-until // (resolution.width or 1)) * (resolution.width or 1),
    )
    for name in ("counter", "gauge"):
        expected = plain.rollups(name, since, until, step)
        actual = answer.get(name, {})
        assert sorted(actual) == sorted(expected)
        for start, (low, high, total, count, rise) in expected.items():
            assert actual[start][:2] == (low, high)
            assert actual[start][2] == pytest.approx(total, rel=1e-9)
            assert actual[start][3] == count
            if name == "counter" and actual[start][4] is not None:
                assert actual[start][4] == pytest.approx(rise, rel=1e-9)
    assert len(answer) <= 2
