"""What sealing older events costs publishers: `python tests/benchmarks/sealing.py`.

Publishes to the same database, in turns without sealing and while sealing is under way all the
time, and compares the latencies. `--short` measures little.
"""

import argparse
import asyncio
import gc
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from formats import make_events

from almenara.bus.embedded import EmbeddedBus
from almenara.bus.upkeep import Upkeep
from almenara.config import StorageSettings
from almenara.signals import Event

ROUNDS = 5
ALL_ROWS = 10**9


async def fill(folder: Path, events: Sequence[Event]) -> None:
    async with EmbeddedBus(StorageSettings(dir=folder, hot_events=ALL_ROWS)) as bus:
        for first in range(0, len(events), 500):
            await bus.publish(events[first : first + 500], "nats")


async def publish(
    folder: Path, hot_events: int, batches: Sequence[Sequence[Event]], interval: float
) -> tuple[list[float], int]:
    """Return the seconds of each publish, and how many events were sealed meanwhile."""
    settings = StorageSettings(dir=folder, hot_events=hot_events, retention_interval=0.5)
    sealed = "SELECT sealed_events FROM position"
    async with EmbeddedBus(settings) as bus:
        # The first second has the start of sealing and cold pages.
        await asyncio.sleep(1)
        (before,) = await bus.read(lambda connection: connection.execute(sealed).fetchone())
        took: list[float] = []
        due = time.perf_counter()
        for batch in batches:
            due += interval
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            started = time.perf_counter()
            await bus.publish(batch, "nats")
            took.append(time.perf_counter() - started)
        (after,) = await bus.read(lambda connection: connection.execute(sealed).fetchone())
        return took, after - before


def record_steps(took: list[float]) -> AbstractContextManager[object]:
    """Add the processor seconds of each step that the writer does between batches."""
    run_step = Upkeep.run_step

    def recorded(upkeep: Upkeep, connection: sqlite3.Connection) -> bool:
        started = time.thread_time()
        was_done = run_step(upkeep, connection)
        took.append(time.thread_time() - started)
        return was_done

    return patch.object(Upkeep, "run_step", recorded)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


async def measure(stored: int, publishes: int, size: int, interval: float) -> None:
    number = stored + 2 * ROUNDS * publishes * size
    events = [event for _, event in make_events(number)]
    with tempfile.TemporaryDirectory() as folder:
        await fill(Path(folder), events[:stored])
        # As `almenara serve` does: the events of the benchmark are not collected again and again.
        gc.freeze()
        took: dict[str, list[float]] = {"without sealing": [], "while sealing": []}
        position, sealed = stored, 0
        steps: list[float] = []
        for _ in range(ROUNDS):
            for name, hot_events in (("without sealing", ALL_ROWS), ("while sealing", 0)):
                batches = [
                    events[first : first + size]
                    for first in range(position, position + publishes * size, size)
                ]
                position += publishes * size
                with record_steps(steps):
                    seconds, count = await publish(Path(folder), hot_events, batches, interval)
                took[name] += seconds
                sealed += count
    print(
        f"{len(took['while sealing'])} publishes of {size} events, one each {interval * 1e3:g} ms"
    )
    for name, values in took.items():
        print(
            f"{name:16} mean {statistics.mean(values) * 1e3:6.2f} ms,"
            f" p50 {percentile(values, 0.5) * 1e3:6.2f}, p99 {percentile(values, 0.99) * 1e3:6.2f},"
            f" longest {max(values) * 1e3:6.2f}"
        )
    without, during = (percentile(values, 0.99) for values in took.values())
    print(f"p99 {during / without:.2f} times as long; {sealed:,} events sealed meanwhile")
    print(
        f"{len(steps):,} steps: processor p99 {percentile(steps, 0.99) * 1e3:.1f} ms,"
        f" longest {max(steps) * 1e3:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="measure little")
    if parser.parse_args().short:
        asyncio.run(measure(6_000, 20, 10, 0.005))
        return
    asyncio.run(measure(300_000, 400, 10, 0.02))
    asyncio.run(measure(300_000, 100, 500, 0.1))


if __name__ == "__main__":
    main()
