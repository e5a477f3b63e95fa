"""The figures we hold ourselves to: `make bench [BENCH="ingest memory"]`.

Speeds are ratios to the same work without Almenara, measured side by side in one run. `--short`
measures little and judges no speed: it fails only where something breaks. `--against FOLDER`
measures another checkout in the same run, benchmark by benchmark:

    git worktree add ../before v0.1.0
    python tests/benchmarks/run.py --against ../before start memory
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import queue
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import nats
import uvloop
from nats.js.api import ConsumerConfig, StreamConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from neighbours import measure_invalid
from results import SHORT, Result, Size, print_table
from source_costs import find_ingest_span, measure_backlog, measure_checks, measure_page

from almenara.bus.embedded import EmbeddedBus
from almenara.bus.readers import FairQueue, PendingQuery
from almenara.bus.validation import check_signal
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.signals import Event, Severity, now
from support.application import Almenara
from support.bus import store_and_seal
from support.servers import NatsServer, wait_until

BATCH = 500
STEMS = ("lay", "do", "view", "mit", "run", "take", "plan", "set", "write", "build", "work", "load")
WORDS = [f"{prefix}{stem}" for prefix in ("re", "un", "over", "sub") for stem in STEMS]


def make_payload(number: int) -> bytes:
    return json.dumps(
        {
            "event_type": "DELIBERATION_STARTED",
            "story_id": f"US-{number % 500}",
            "task_id": f"task-{number:06d}",
            "role": "DEV",
            "num_agents": 3,
            "agents": ["agent-dev-001", "agent-dev-002", "agent-dev-003"],
            "timestamp": "2026-10-17T10:00:05Z",
        }
    ).encode()


async def fill_stream(server: NatsServer, messages: int) -> None:
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    await jetstream.add_stream(StreamConfig(name="LOAD", subjects=["load.>"]))
    for start in range(0, messages, BATCH):
        await asyncio.gather(
            *(
                jetstream.publish("load.x", make_payload(number))
                for number in range(start, min(start + BATCH, messages))
            )
        )
    await client.close()


async def acknowledge_only(server: NatsServer, messages: int) -> float:
    """Messages a second of a bare nats-py consumer that acknowledges and does nothing else."""
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    config = ConsumerConfig(max_ack_pending=10_000)
    subscription = await jetstream.pull_subscribe("load.>", durable="bare", config=config)
    started, done = time.perf_counter(), 0
    while done < messages:
        batch = await subscription.fetch(BATCH, timeout=5)
        for message in batch:
            await message.ack()
        done += len(batch)
    took = time.perf_counter() - started
    await client.close()
    return messages / took


def measure_ingest(folder: Path, size: Size) -> Iterator[Result]:
    """Durable ingest with deduplication and text index against only acknowledging."""
    with NatsServer(folder / "nats") as server:
        asyncio.run(fill_stream(server, size.messages))
        bare = asyncio.run(acknowledge_only(server, size.messages))
        with Almenara(folder / "almenara", server.url) as almenara:
            wait_until(lambda: almenara.stored() >= size.messages, "all messages", 120)
            assert almenara.get("/api/health")["events_stored"] == size.messages
            started, ended = find_ingest_span(folder / "almenara" / "var" / "almenara.db", almenara)
    rate = size.messages / (ended - started)
    yield Result("durable ingest", f"{rate:,.0f}/s", f"{bare:,.0f}/s only acknowledging",
                 rate / bare, "at least 0.35")  # fmt: skip


def measure_memory(folder: Path, size: Size) -> Iterator[Result]:
    """Resident memory at rest, a NATS connection included."""
    with (
        NatsServer(folder / "nats") as server,
        Almenara(folder / "almenara", server.url) as almenara,
    ):
        wait_until(lambda: almenara.get("/api/sources")[0]["status"] == "running", "running")
        almenara.text("/")
        time.sleep(size.rest)
        assert almenara.process is not None
        status = Path(f"/proc/{almenara.process.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line) / 1024
    yield Result("idle memory", f"{resident:.0f} MiB", "80 MiB", resident / 80, "at most 1")


def measure_start(folder: Path, size: Size) -> Iterator[Result]:
    """Time from starting the process to being ready."""
    took = []
    with NatsServer(folder / "nats") as server:
        for number in range(size.starts):
            almenara = Almenara(folder / f"almenara-{number}", server.url)
            started = time.perf_counter()
            with almenara:
                took.append(time.perf_counter() - started)
    median = statistics.median(took)
    yield Result("start to ready", f"{median:.2f} s", "1.5 s", median / 1.5, "at most 1")


ROW = (
    "SELECT e.sequence, e.id, s.text, o.text, t.text, e.subject, e.time, e.severity, e.correlation,"
    " e.attributes, e.problem, e.raw, e.data FROM"
)
NAMED = (
    " JOIN names s ON s.number = e.source JOIN names o ON o.number = e.origin"
    " JOIN names t ON t.number = e.type WHERE"
)
NEWEST = " AND e.sequence < ? ORDER BY e.sequence DESC LIMIT 100"
PAGES = (
    ("newest", Filter(), f"{ROW} events e{NAMED} 1{NEWEST}", ()),
    ("type and severity", Filter(type="type-7", severity=Severity.WARN),
     f"{ROW} events e{NAMED} t.text = ? AND e.severity >= 13{NEWEST}", ("type-7",)),
    ("correlation", Filter(correlation="US-77"),
     f"{ROW} events e{NAMED} e.correlation = ?{NEWEST}", ("US-77",)),
    ("text", Filter(text='"US-77"', severity=Severity.ERROR),
     f"{ROW} events_text f CROSS JOIN events e ON e.sequence = f.rowid{NAMED}"
     " f.events_text MATCH ? AND e.severity >= 17 AND f.rowid < ? ORDER BY f.rowid DESC LIMIT 100",
     ('"us 77"',)),
    ("subject pattern", Filter(subject="subject.7*"),
     f"{ROW} events e{NAMED} e.subject GLOB ?{NEWEST}", ("subject.7*",)),
)  # fmt: skip


def measure_queries(folder: Path, size: Size) -> Iterator[Result]:
    """Pages of history over millions of events against the same queries in bare sqlite3."""

    async def build_and_query() -> dict[str, tuple[float, float]]:
        settings = StorageSettings(dir=folder, deduplication_window=10_000, hot_events=size.queried)
        async with EmbeddedBus(settings) as bus:
            base = now()
            for first in range(0, size.queried, 20_000):
                numbers = range(first, min(first + 20_000, size.queried))
                await bus.publish([make_event(number, base) for number in numbers], "x")
            history, connection = History(bus), sqlite3.connect(bus.path)
            return {
                name: await compare(history, connection, query, statement, parameters, size)
                for name, query, statement, parameters in PAGES
            }

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pages = runner.run(build_and_query())
    pages["all pages"] = tuple(map(sum, zip(*pages.values(), strict=True)))  # type: ignore[assignment]
    for name, (ours, bare) in pages.items():
        yield Result(f"query {name}, {size.queried:,} events", f"{ours * 1e3:.2f} ms",
                     f"{bare * 1e3:.2f} ms in bare sqlite3", ours / bare,
                     "at most 1.5" if name == "all pages" else "")  # fmt: skip


async def compare(
    history: History,
    connection: sqlite3.Connection,
    filters: Filter,
    statement: str,
    parameters: tuple[str, ...],
    size: Size,
) -> tuple[float, float]:
    """Median seconds of a page through history and of the statement alone."""
    ours: list[float] = []
    bare: list[float] = []

    async def query(before: int) -> list[int]:
        started = time.perf_counter()
        events = await history.events(filters, before=before, limit=100)
        ours.append(time.perf_counter() - started)
        return [event.sequence for event in events]

    async def query_bare(before: int) -> list[int]:
        started = time.perf_counter()
        rows = connection.execute(statement, (*parameters, before)).fetchall()
        bare.append(time.perf_counter() - started)
        return [row[0] for row in rows]

    for number in range(size.pages):
        before = size.queried - number * (size.queried // size.pages // 2)
        # The second of the two finds the pages in the processor's caches, so they take turns.
        first, second = (query, query_bare) if number % 2 else (query_bare, query)
        assert await first(before) == await second(before)
    return statistics.median(ours), statistics.median(bare)


def make_event(number: int, base: int) -> Event:
    return Event(
        id=str(number),
        source=f"source-{number % 5}",
        type=f"type-{number % 20}",
        subject=f"subject.{number % 100}",
        time=base + number,
        severity=Severity.ERROR if number % 3 == 0 else Severity.INFO,
        correlation=f"US-{number % 500}",
        data={"story_id": f"US-{number % 500}", "number": number},
    )


def measure_validation(folder: Path, size: Size) -> Iterator[Result]:
    """What checking every field of every signal takes of storing them."""
    base = now()
    events = [make_event(number, base) for number in range(size.stored)]

    async def store() -> float:
        async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
            started = time.perf_counter()
            for first in range(0, size.stored, BATCH):
                await bus.publish(events[first : first + BATCH], "nats")
            return time.perf_counter() - started

    stored = asyncio.run(store())
    started = time.perf_counter()
    for event in events:
        check_signal(event)
    checked = time.perf_counter() - started
    yield Result("validation", f"{checked / size.stored * 1e6:.2f} µs an event",
                 f"{stored / size.stored * 1e6:.1f} µs to store it", checked / stored,
                 "at most 0.03")  # fmt: skip


def measure_fairness(folder: Path, size: Size) -> Iterator[Result]:
    """What taking turns between callers takes of a page of history."""

    async def read() -> tuple[float, float]:
        async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
            base = now()
            await bus.publish([make_event(number, base) for number in range(5_000)], "nats")
            history = History(bus)
            pages = []
            for _ in range(size.pages):
                started = time.perf_counter()
                await history.events(Filter(), limit=100)
                pages.append(time.perf_counter() - started)
            fair, plain = FairQueue(3, 100), queue.SimpleQueue[PendingQuery]()
            result = asyncio.get_running_loop().create_future()
            query = PendingQuery(lambda connection: None, result, "user", math.inf)
            spent = []
            for _ in range(size.pages * 10):
                started = time.perf_counter()
                fair.put(query)
                taken = fair.get()
                assert taken is query
                fair.done(query)
                middle = time.perf_counter()
                plain.put(query)
                plain.get()
                spent.append(middle - started - (time.perf_counter() - middle))
            return statistics.median(spent), statistics.median(pages)

    fairness, page = asyncio.run(read())
    yield Result("fairness", f"{fairness * 1e6:.2f} µs a query", f"{page * 1e6:.0f} µs a page",
                 fairness / page, "at most 0.03")  # fmt: skip


def measure_disk(folder: Path, size: Size) -> Iterator[Result]:
    """What an event of a fleet takes on the disk, with indices, text search and its id: as a row,
    and in a sealed block."""
    numbers = random.Random(1)
    events = [
        Event(
            id=str(uuid.UUID(int=numbers.getrandbits(128))),
            source="nats",
            type="deliberation.started",
            subject=f"planning.us-{number % 500}",
            time=now(),
            severity=Severity.INFO,
            correlation=f"US-{number % 500}",
            data={
                **json.loads(make_payload(number)),
                "reason": " ".join(numbers.choices(WORDS, k=12)),
            },
        )
        for number in range(size.stored)
    ]
    payload = sum(len(json.dumps(event.data)) for event in events) / size.stored

    for name, hot_events in (("as rows", size.stored), ("sealed", 0)):
        settings = StorageSettings(
            dir=folder / name, hot_events=hot_events, retention_interval=0.05,
            deduplication_window=1_000,
        )  # fmt: skip
        stored = asyncio.run(store_and_seal(settings, events)) / size.stored
        yield Result(f"on disk {name}", f"{stored:.0f} B an event", f"{payload:.0f} B of JSON",
                     stored / payload)  # fmt: skip


ISOLATION_PLUGIN = """
import almenara, asyncio, time
from almenara.signals import Event, now

BATCHES, SINGLES, SIZE = {batches}, {singles}, 500

class Measured:
    name = "measured"
    rate_limit = 1e9

    async def run(self, publish):
        took = []
        for number in range(SINGLES):
            started = time.perf_counter()
            await publish([Event(id=f"one-{{number}}", source="b", type="one", time=now())])
            took.append(time.perf_counter() - started)
        batches = [
            [Event(id=f"{{batch}}-{{number}}", source="b", type="t", time=now(),
                   subject=f"s.{{number % 9}}",
                   data={{"story_id": f"US-{{number}}", "role": "DEV", "num_agents": 3}})
             for number in range(SIZE)]
            for batch in range(BATCHES)
        ]
        started = time.perf_counter()
        for batch in batches:
            await publish(batch)
        rate = BATCHES * SIZE / (time.perf_counter() - started)
        data = {{"rate": rate, "single": sorted(took)[SINGLES // 2]}}
        await publish([Event(id="figures", source="b", type="figures", time=now(), data=data)])
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_sources(): return [Measured()]
"""


def measure_through(folder: Path, isolation: str, size: Size) -> tuple[float, float]:
    """Signals a second, and median seconds for one alone, through an isolation."""
    plugins = folder / "plugins"
    plugins.mkdir(parents=True)
    text = ISOLATION_PLUGIN.format(batches=size.batches, singles=size.singles)
    (plugins / "measured.py").write_text(text)
    with Almenara(
        folder / "almenara", "nats://127.0.0.1:9", plugins_dir=str(plugins),
        plugins__disabled="[nats]", supervisor__isolation=isolation,
    ) as almenara:  # fmt: skip
        wait_until(lambda: almenara.get("/api/events?type=figures")["events"], "figures", 120)
        (event,) = almenara.get("/api/events?type=figures")["events"]
    return event["data"]["rate"], event["data"]["single"]


def measure_isolation(folder: Path, size: Size) -> Iterator[Result]:
    """What it costs to isolate a source in a thread or a process, against a task."""
    task_rate, task_single = measure_through(folder / "task", "task", size)
    for isolation in ("thread", "process"):
        rate, single = measure_through(folder / isolation, isolation, size)
        yield Result(f"isolation {isolation}, batches of 500", f"{rate:,.0f}/s",
                     f"{task_rate:,.0f}/s as a task", rate / task_rate)  # fmt: skip
        yield Result(f"isolation {isolation}, one signal", f"{single * 1e3:.2f} ms",
                     f"{task_single * 1e3:.2f} ms as a task", single / task_single)  # fmt: skip


BENCHMARKS: dict[str, Callable[[Path, Size], Iterator[Result]]] = {
    "ingest": measure_ingest,
    "memory": measure_memory,
    "start": measure_start,
    "boundary": measure_isolation,
    "invalid": measure_invalid,
    "disk": measure_disk,
    "validation": measure_validation,
    "fairness": measure_fairness,
    "query": measure_queries,
    "checks": measure_checks,
    "page": measure_page,
    "backlog": measure_backlog,
}


IN_PROCESS = {"disk", "validation", "fairness", "query", "page"}
"""Benchmarks that import the code they measure, so that they can't measure another checkout."""


@contextlib.contextmanager
def use_checkout(checkout: Path) -> Iterator[None]:
    """Start Almenara from the code of another checkout, with the libraries of this one."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "almenara"
        path = f"{checkout.resolve()}/platform:{checkout.resolve()}/plugins"
        program.write_text(
            f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" -m almenara "$@"\n'
        )
        program.chmod(0o755)
        os.environ["ALMENARA_COMMAND"] = str(program)
        try:
            yield
        finally:
            del os.environ["ALMENARA_COMMAND"]


def measure(name: str, size: Size) -> list[Result]:
    print(f"measuring {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return list(BENCHMARKS[name](Path(folder), size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="measure little, judge no speed")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all by default")
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}")
    size = SHORT if options.short else Size()
    results: list[Result] = []
    others: dict[str, Result] = {}
    for name in options.names or BENCHMARKS:
        if options.against is not None and name not in IN_PROCESS:
            with use_checkout(options.against):
                others |= {result.name: result for result in measure(name, size)}
        results += measure(name, size)
    print_table(results, others)


if __name__ == "__main__":
    main()
