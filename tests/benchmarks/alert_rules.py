"""What alert rules cost: ingest with 1,000 rules against none, side by side: `make bench-alerts`.

Each rule counts events of a type of its own; one event in twenty is read by a rule. The cost is
the processor time of the process above that of the same ingest without alerting. The lag is that
at a steady rate: from the time of an event until its alert is on the bus. `--short` measures
little and judges no speed.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from almenara.alerting import ALERT
from almenara.alerting.rules import compile_rules
from almenara.alerting.service import Alerting
from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings, SupervisorSettings
from almenara.config.alert_rules import AlertRule, Condition, EventCondition
from almenara.config.alerting import AlertingSettings
from almenara.signals import Event, Severity, now
from almenara.supervisor import Supervisor

RULES = 1_000
BATCH = 500
RATE = 10_000
"""Events per second that the goal is about."""
STEP = 0.05
"""Seconds between two batches at a steady rate."""
FIRING = f"{ALERT}.firing"
READ_EVERY = 20
"""One event in so many is read by a rule."""


def make_rules(rules: int, count: int) -> AlertingSettings:
    made = [
        AlertRule(
            name=f"rule-{number}",
            when=Condition(events=EventCondition(types=[f"app.{number}.failed"], count=count)),
            for_=5.0 if count > 1 else 0.0,
        )
        for number in range(rules)
    ]
    return AlertingSettings(rules=made)


def make_events(start: int, count: int, subjects: int = 0) -> list[Event]:
    return [
        Event(
            id=str(number), source="bench", time=now(), subject=f"host-{subjects}-{number % 100}",
            type=f"app.{number % RULES}.{'ok' if number % READ_EVERY else 'failed'}",
            severity=Severity.INFO, data={"order": number, "region": "eu", "took": 0.25},
        )
        for number in range(start, start + count)
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def evaluating(
    bus: EmbeddedBus, rules: int, count: int = 5
) -> AsyncIterator[Supervisor | None]:
    """Evaluate rules beside the ingest; nothing where there are none."""
    if not rules:
        yield None
        return
    supervisor = Supervisor(bus, SupervisorSettings())
    alerting = Alerting(compile_rules(make_rules(rules, count), {}), bus, supervisor)
    tasks = [asyncio.create_task(supervisor.run()), asyncio.create_task(alerting.run())]
    try:
        yield supervisor
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def ingest(rules: int, events: int) -> tuple[float, float, int]:
    """Seconds of processor time and of waiting for events in the log, and alerts at the end."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            EmbeddedBus(StorageSettings(dir=Path(folder))) as bus,
            evaluating(bus, rules) as supervisor,
        ):
            batches = [make_events(start, BATCH) for start in range(0, events, BATCH)]
            # The start of the evaluation is not part of the cost of an event.
            while supervisor is not None and await position(bus) == 0:
                await asyncio.sleep(0.02)
            before, started = time.process_time(), time.perf_counter()
            for batch in batches:
                await bus.publish(batch, "bench")
            took, end = time.perf_counter() - started, bus.last_sequence
            if supervisor is not None:
                while await position(bus) < end - BATCH:
                    await asyncio.sleep(0.02)
            used = time.process_time() - before
            alerts = await bus.known_resources("alerts", ALERT)
    return used, took, len(alerts)


async def position(bus: EmbeddedBus) -> int:
    """The position of the evaluator in the log, as it is committed."""
    return int((await bus.load("processor/alerts", "cursor")) or b"0")


async def measure_lag(rules: int, seconds: float) -> list[float]:
    """Seconds from each event that a rule reads until its alert is on the bus, sorted."""
    lags: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with (
            EmbeddedBus(StorageSettings(dir=Path(folder))) as bus,
            evaluating(bus, rules, count=1),
        ):
            while await position(bus) == 0:
                await asyncio.sleep(0.02)

            async def observe() -> None:
                async for records in bus.subscribe(bus.last_sequence):
                    moment = now()
                    lags.extend(
                        (moment - record.signal.time) / 1e6
                        for record in records
                        if isinstance(record.signal, Event) and record.signal.type == FIRING
                    )

            observing = asyncio.create_task(observe())
            size = int(RATE * STEP)
            started = time.perf_counter()
            for turn in range(int(seconds / STEP)):
                events = make_events(turn * size, size, subjects=turn)
                await bus.publish(events, "bench")
                ahead = started + (turn + 1) * STEP - time.perf_counter()
                await asyncio.sleep(max(ahead, 0))
            end = bus.last_sequence
            while await position(bus) < end - BATCH:
                await asyncio.sleep(0.02)
            observing.cancel()
    return sorted(lags)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    short = parser.parse_args().short
    events, rounds = (10_000, 1) if short else (60_000, 5)
    plain, ruled = [], []
    asyncio.run(ingest(0, 2_000))
    for _ in range(rounds):
        plain.append(asyncio.run(ingest(0, events)))
        ruled.append(asyncio.run(ingest(RULES, events)))
    used = [statistics.median(used for used, _, _ in runs) for runs in (plain, ruled)]
    took = [statistics.median(took for _, took, _ in runs) for runs in (plain, ruled)]
    cores = (used[1] - used[0]) / events * RATE
    print(f"{events:,} events, {RULES:,} rules, 1 event in {READ_EVERY} read by a rule")
    print(
        f"processor time   {used[0]:.2f} s without, {used[1]:.2f} s with: x {used[1] / used[0]:.2f}"
    )
    print(f"at {RATE:,} events/s  {cores:.3f} cores above none (goal 0.2)")
    print(f"ingest           {events / took[0]:,.0f}/s without, {events / took[1]:,.0f}/s with")
    lags = asyncio.run(measure_lag(RULES, 2 if short else 20))
    if lags:
        p50, p99 = (lags[min(int(len(lags) * part), len(lags) - 1)] for part in (0.5, 0.99))
        print(
            f"lag at {RATE:,}/s  p50 {p50:.3f} s, p99 {p99:.3f} s of {len(lags):,} alerts (goal 1)"
        )
    alerts = ruled[-1][2]
    print(f"alerts           {alerts}")
    if not alerts or not lags:
        print("no alert was evaluated", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
