"""Totals and histograms over a log ten times as long: `python tests/benchmarks/counts.py`.

A ratio of 1 means that the number of events makes no difference. `--short` measures little.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.scope import Grant, build_scope
from almenara.signals import Event, Severity, now
from almenara.units import DAY, HOUR, MINUTE, SECOND

BATCH = 5_000
SPAN = 30 * MINUTE
"""The time that the events spread over, however many: as many more a second."""
ROUNDS = 25
SHOP = build_scope([Grant(namespaces=("shop",))], access_log=False)


def make_event(number: int, count: int, end: int) -> Event:
    return Event(
        id=str(number),
        source=f"source-{number % 5}",
        origin=f"nats/S{number % 4}",
        type=f"type-{number % 30}",
        time=end - SPAN + number * SPAN // count,
        severity=Severity.ERROR if number % 9 == 0 else Severity.INFO,
        attributes={"namespace": "shop" if number % 4 else "fleet"},
        data={"number": number},
    )


def make_queries(end: int) -> dict[str, Callable[[History], Awaitable[Any]]]:
    def histogram(chosen: Filter, span: int, width: int) -> Callable[[History], Awaitable[Any]]:
        since = (end - span) // width * width
        return lambda history: history.buckets(chosen, since=since, until=end, width=width)

    everything, typed = Filter(), Filter(type="type-7", severity=Severity.ERROR)
    return {
        "histogram of 30 minutes": histogram(everything, SPAN, 30 * SECOND),
        "histogram of a type": histogram(typed, SPAN, 30 * SECOND),
        "histogram of 30 days": histogram(everything, 30 * DAY, DAY),
        "histogram within a namespace": lambda history: histogram(everything, SPAN, 30 * SECOND)(
            history.within(SHOP)
        ),
        "count of all": lambda history: history.count(everything),
        "count of a type": lambda history: history.count(Filter(type="type-7")),
        "errors of the last hour": lambda history: history.count(
            Filter(severity=Severity.ERROR, since=end - HOUR)
        ),
    }


async def measure(folder: Path, count: int) -> dict[str, float]:
    """Median seconds of each query over a log of `count` events."""
    end = now() // (10 * SECOND) * 10 * SECOND
    took: dict[str, float] = {}
    async with EmbeddedBus(StorageSettings(dir=folder, deduplication_window=BATCH)) as bus:
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            await bus.publish([make_event(number, count, end) for number in numbers], "x")
        history = History(bus)
        assert await history.count(Filter()) == count
        for name, query in make_queries(end).items():
            times = []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                await query(history)
                times.append(time.perf_counter() - started)
            took[name] = statistics.median(times)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="measure little")
    few = 2_000 if parser.parse_args().short else 100_000
    results = []
    for count in (few, 10 * few):
        with tempfile.TemporaryDirectory() as folder:
            results.append(asyncio.run(measure(Path(folder), count)))
    print(f"{'':30}{few:>12,}{10 * few:>12,}  ratio")
    for name, before in results[0].items():
        after = results[1][name]
        print(f"{name:30}{before * 1e3:>9.2f} ms{after * 1e3:>9.2f} ms{after / before:>7.2f}")


if __name__ == "__main__":
    main()
