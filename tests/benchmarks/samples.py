"""What stored samples take: `python tests/benchmarks/samples.py [--short]`.

Usage of simulated pods, every 15 seconds: cores in nanocores with the noise of a busy service,
memory in KiB that grows and is freed. Time is moved, so that a day takes a minute. Processor time
is that of this process. Only the bytes of a sample have a goal.
"""

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from almenara.bus import Record
from almenara.bus.embedded import EmbeddedBus
from almenara.config import SampleSettings, StorageSettings
from almenara.signals import Sample
from almenara.state.resources import Resources
from almenara.state.sample_history import SampleHistory, SeriesMatch
from almenara.state.sample_store import SampleStore
from almenara.units import HOUR, MILLISECOND, SECOND

INTERVAL = 15
START = 1_767_225_600 * SECOND
PODS_ON_PAPER = 5_000
GOAL_BYTES = 4.0


class MovedClock:
    """A clock that stands where the samples are."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> int:
        return START + round(self.passed * SECOND)

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def measure_pod(number: int) -> Iterator[tuple[float, float]]:
    """Yield cores and bytes of memory of a pod, measurement after measurement."""
    chance = random.Random(number)
    base, noise = 10 ** chance.uniform(6, 9), chance.uniform(0.02, 0.4)
    phase, memory = chance.random() * 6, chance.randint(20, 2_000) * 1024
    for step in range(10**9):
        cores = base * (1 + 0.3 * math.sin(step / 600 + phase)) * math.exp(chance.gauss(0, noise))
        if chance.random() < 0.6:
            memory = max(memory + round(chance.gauss(0, 60)), 1_000)
        if chance.random() < 0.01:
            memory = round(memory * chance.uniform(0.9, 1.1))
        yield round(cores) / 1e9, memory * 1024.0


async def measure(folder: Path, pods: int, hours: int) -> bool:
    clock = MovedClock()
    async with (
        EmbeddedBus(StorageSettings(dir=folder)) as bus,
        SampleStore(folder, SampleSettings(retention_age=14 * 86400.0), bus, clock=clock) as store,
    ):
        following = asyncio.create_task(store.run())
        await store.caught_up.wait()
        usage = [measure_pod(number) for number in range(pods)]
        ingest = upkeep = 0.0
        count = 0
        for step in range(hours * 3600 // INTERVAL):
            clock.passed = step * INTERVAL
            batch = [
                Record(
                    step + 1,
                    Sample(
                        kind="pod", namespace=f"team-{number % 20}", name=f"web-{number}",
                        metric=metric, value=value, time=clock.now(), origin="kubernetes",
                    ),
                )
                for number in range(pods)
                for metric, value in zip(("cpu", "memory"), next(usage[number]), strict=True)
            ]  # fmt: skip
            started = time.process_time()
            # Not through the bus, whose costs are measured elsewhere.
            store.accept(batch, step + 1)
            ingest += time.process_time() - started
            count += len(batch)
            if step % (300 // INTERVAL) == 0:
                started = time.process_time()
                await store.flush()
                ingest += time.process_time() - started
            if step % (7200 // INTERVAL) == 0:
                started = time.process_time()
                await store.maintain()
                upkeep += time.process_time() - started
        clock.passed += 7200
        await store.flush()
        await store.maintain()
        sizes = await store.read(
            lambda connection: {
                table: connection.execute(
                    f"SELECT coalesce(sum(length(body) + 9), 0), count(*) FROM {table}"
                ).fetchone()
                for table in ("raw", "minutes", "hours")
            }
        )
        history, total = SampleHistory(store, Resources(store)), store.report.bytes_used
        queries = await time_queries(history, pods, hours)
        following.cancel()
    per_sample = sizes["raw"][0] / count
    per_minute = sizes["minutes"][0] / (count * INTERVAL / 60)
    per_hour = sizes["hours"][0] / (count * INTERVAL / 3600)
    print(f"{count:,} samples of {2 * pods} series in {hours} h; file {total / 2**20:.1f} MiB")
    print(f"bytes: {per_sample:.2f} a sample, {per_minute:.2f} a minute, {per_hour:.2f} an hour")
    series, fill = 2 * PODS_ON_PAPER, total / max(sum(size for size, _ in sizes.values()), 1)
    on_paper = (
        series
        * fill
        * (per_sample * 2 * 86400 / INTERVAL + per_minute * 30 * 1440 + per_hour * 30 * 24)
    )
    print(
        f"on paper: {PODS_ON_PAPER:,} pods, cpu and memory every {INTERVAL} s, 2 days of samples"
        f" and 30 days of rollups: {on_paper / 1e9:.2f} GB"
    )
    print(f"processor: {ingest / count * 1e6:.1f} µs a sample to add and flush,"
          f" {upkeep / count * 1e6:.1f} µs to seal")  # fmt: skip
    for name, seconds, points in queries:
        print(f"query {name}: {seconds * 1e3:.0f} ms, {points} points a series")
    return per_sample <= GOAL_BYTES


async def time_queries(
    history: SampleHistory, pods: int, hours: int
) -> list[tuple[str, float, int]]:
    until = (START + hours * HOUR) // MILLISECOND
    results = []
    for name, match, span in (
        ("1 h of one series", SeriesMatch(name="web-1", metric="cpu"), 1),
        (f"1 h of {pods} series", SeriesMatch(metric="cpu"), 1),
        ("a day of one series", SeriesMatch(name="web-1", metric="cpu"), 24),
        (f"a day of {pods} series", SeriesMatch(metric="cpu"), 24),
    ):
        started = time.process_time()
        _, matches = await history.rollups(
            match, since=until - span * 3_600_000, until=until, step=1, moment=until
        )
        took = time.process_time() - started
        assert matches, name
        results.append((name, took, max(len(series.rollups.times) for series in matches)))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    short = parser.parse_args().short
    with tempfile.TemporaryDirectory() as folder:
        pods, hours = (3, 5) if short else (50, 24)
        is_small = asyncio.run(measure(Path(folder), pods, hours))
    return 0 if is_small else 1


if __name__ == "__main__":
    sys.exit(main())
