"""The figures we hold ourselves to, each on one line: `make bench [BENCH="ingest memory"]`.

Speeds are ratios to the same work done without us, side by side in one run.
"""

import asyncio
import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import nats
import uvloop
from nats.js.api import ConsumerConfig, StreamConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from almenara.bus.embedded import EmbeddedBus
from almenara.config import Isolation, Settings, StorageSettings
from almenara.history import Filter, History
from almenara.plugins import PluginRegistry, plugins_in_folder
from almenara.plugins.host import PluginHost
from almenara.signals import Event, Severity, now
from almenara.supervisor import Supervisor
from support.application import Almenara
from support.servers import NatsServer, wait_until

MESSAGES = 60_000
EVENTS = int(os.environ.get("BENCH_EVENTS", "5000000"))
BATCH = 500
REPEATS = 200
ON_DISK = 200_000
STEMS = ("lay", "do", "view", "mit", "run", "take", "plan", "set", "write", "build", "work", "load")
WORDS = [f"{it}{stem}" for it in ("re", "un", "over", "sub") for stem in STEMS]


def payload(number: int) -> bytes:
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


async def fill(server: NatsServer) -> None:
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    await jetstream.add_stream(StreamConfig(name="LOAD", subjects=["load.>"]))
    for start in range(0, MESSAGES, BATCH):
        await asyncio.gather(
            *(jetstream.publish("load.x", payload(it)) for it in range(start, start + BATCH))
        )
    await client.close()


async def only_acknowledge(server: NatsServer) -> float:
    """Messages a second of a bare nats-py consumer that acknowledges and does nothing else."""
    client = await nats.connect(server.url)
    jetstream = client.jetstream()
    config = ConsumerConfig(max_ack_pending=10_000)
    subscription = await jetstream.pull_subscribe("load.>", durable="bare", config=config)
    began, done = time.perf_counter(), 0
    while done < MESSAGES:
        messages = await subscription.fetch(BATCH, timeout=5)
        for message in messages:
            await message.ack()
        done += len(messages)
    took = time.perf_counter() - began
    await client.close()
    return MESSAGES / took


def ingest(folder: Path) -> str:
    """Durable ingest with deduplication and text index against only acknowledging."""
    with NatsServer(folder / "nats") as server:
        asyncio.run(fill(server))
        bare = asyncio.run(only_acknowledge(server))
        with Almenara(folder / "almenara", server.url) as almenara:
            wait_until(lambda: almenara.stored() >= MESSAGES, "all messages", 120)
            events = almenara.get("/api/health")
            assert events["events_stored"] == MESSAGES
            began, ended = span(folder / "almenara" / "var" / "almenara.db", almenara)
        ours = MESSAGES / (ended - began)
    return (
        f"durable ingest {ours:,.0f}/s, only acknowledging {bare:,.0f}/s:"
        f" ratio {ours / bare:.2f} (at least 0.35)"
    )


def span(path: Path, almenara: Almenara) -> tuple[float, float]:
    """When the source began to run, and when the last event was written."""
    began = next(
        json.loads(line) for line in almenara.log.splitlines() if "a source is running" in line
    )
    from almenara.signals import parse_time

    ended = max(path.stat().st_mtime, path.with_name("almenara.db-wal").stat().st_mtime)
    return parse_time(began["timestamp"]) / 1e6, ended


def memory(folder: Path) -> str:
    """Resident memory at rest, a NATS connection included."""
    with (
        NatsServer(folder / "nats") as server,
        Almenara(folder / "almenara", server.url) as almenara,
    ):
        wait_until(lambda: almenara.get("/api/sources")[0]["status"] == "running", "running")
        almenara.text("/")
        time.sleep(5)
        assert almenara.process is not None
        status = Path(f"/proc/{almenara.process.pid}/status").read_text()
        resident = next(int(it.split()[1]) for it in status.splitlines() if "VmRSS" in it) / 1024
    return f"idle memory {resident:.0f} MiB: ratio to 80 MiB {resident / 80:.2f} (at most 1)"


def start(folder: Path) -> str:
    """Time from starting the process to being ready."""
    took = []
    with NatsServer(folder / "nats") as server:
        for number in range(5):
            almenara = Almenara(folder / f"almenara-{number}", server.url)
            began = time.perf_counter()
            with almenara:
                took.append(time.perf_counter() - began)
    median = statistics.median(took)
    return f"start to ready {median:.2f} s: ratio to 1.5 s {median / 1.5:.2f} (at most 1)"


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


def query(folder: Path) -> str:
    """Pages of history over millions of events against the same queries in bare sqlite3."""

    async def build_and_ask() -> dict[str, tuple[float, float]]:
        settings = StorageSettings(dir=folder, deduplication_window=10_000)
        async with EmbeddedBus(settings) as bus:
            base = now()
            for first in range(0, EVENTS, 20_000):
                await bus.publish([sample(it, base) for it in range(first, first + 20_000)], "x")
            history, connection = History(bus), sqlite3.connect(bus.path)
            return {
                name: await compare(history, connection, chosen, statement, parameters)
                for name, chosen, statement, parameters in PAGES
            }

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(build_and_ask())
    ours, bare = (sum(times) * 1000 for times in zip(*found.values(), strict=True))
    each = ", ".join(f"{name} {ours / bare:.2f}" for name, (ours, bare) in found.items())
    return (
        f"{len(found)} pages over {EVENTS:,} events {ours:.2f} ms, bare sqlite3 {bare:.2f} ms:"
        f" ratio {ours / bare:.2f} (at most 1.5; {each})"
    )


async def compare(
    history: History,
    connection: sqlite3.Connection,
    chosen: Filter,
    statement: str,
    parameters: tuple[str, ...],
) -> tuple[float, float]:
    """Median seconds of a page through history and of the statement alone."""
    ours: list[float] = []
    bare: list[float] = []

    async def ask(before: int) -> list[int]:
        began = time.perf_counter()
        found = await history.events(chosen, before=before, limit=100)
        ours.append(time.perf_counter() - began)
        return [it.sequence for it in found]

    async def ask_bare(before: int) -> list[int]:
        began = time.perf_counter()
        found = connection.execute(statement, (*parameters, before)).fetchall()
        bare.append(time.perf_counter() - began)
        return [it[0] for it in found]

    for number in range(REPEATS):
        before = EVENTS - number * (EVENTS // REPEATS // 2)
        # Who comes second finds the pages in the processor's caches, so they take turns.
        first, second = (ask, ask_bare) if number % 2 else (ask_bare, ask)
        assert await first(before) == await second(before)
    return statistics.median(ours), statistics.median(bare)


def sample(number: int, base: int) -> Event:
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


def disk(folder: Path) -> str:
    """What an event of a fleet takes on the disk, with indices, text search and its id."""
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
                **json.loads(payload(number)),
                "reason": " ".join(numbers.choices(WORDS, k=12)),
            },
        )
        for number in range(ON_DISK)
    ]
    sent = sum(len(json.dumps(it.data)) for it in events) / ON_DISK

    async def write() -> Path:
        async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
            for first in range(0, ON_DISK, BATCH):
                await bus.publish(events[first : first + BATCH], "nats")
            return bus.path

    path = asyncio.run(write())
    taken = sum(it.stat().st_size for it in folder.glob(f"{path.name}*")) / ON_DISK
    return (
        f"on disk {taken:.0f} bytes an event, whose data has {sent:.0f}: ratio {taken / sent:.1f};"
        f" 10 events/s are {taken * 864_000 / 1e6:,.0f} MB a day"
    )


BOUNDARY_PLUGIN = """
import almenara, time
from almenara.signals import Event, now

BATCHES, SIZE = 120, 500

class Measured:
    name = "measured"
    rate_limit = 1e9
    def __init__(self, context): self.context = context
    async def run(self, publish):
        took = []
        for number in range(200):
            began = time.perf_counter()
            await publish([Event(id=f"one-{number}-{now()}", source="b", type="one", time=now())])
            took.append(time.perf_counter() - began)
        batches = [
            [Event(id=f"{n}-{i}-{now()}", source="b", type="t", time=now(), subject=f"s.{i % 9}",
                   data={"story_id": f"US-{i}", "role": "DEV", "num_agents": 3})
             for i in range(SIZE)]
            for n in range(BATCHES)
        ]
        began, cpu = time.perf_counter(), time.process_time()
        for batch in batches:
            await publish(batch)
        took.sort()
        rate = BATCHES * SIZE / (time.perf_counter() - began)
        await self.context.save("figures", f"{rate} {took[100]}".encode())
        await __import__("asyncio").Event().wait()

@almenara.hookimpl
def almenara_sources(context): return [Measured(context)]
"""


async def through(folder: Path, isolation: Isolation) -> tuple[float, float]:
    """Signals a second, and median seconds for one alone, through an isolation."""
    (folder / "plugins").mkdir(parents=True)
    (folder / "plugins" / "measured.py").write_text(BOUNDARY_PLUGIN)
    settings = Settings(plugins_dir=folder / "plugins")
    settings.storage.dir = folder
    settings.supervisor.isolation = isolation
    plugins = PluginRegistry()
    for found in plugins_in_folder(folder / "plugins"):
        plugins.load(found)
    async with EmbeddedBus(settings.storage) as bus:
        supervisor = Supervisor(bus, settings.supervisor)
        PluginHost(settings, plugins, bus, supervisor, Nowhere(), Nowhere()).add("measured")
        running = asyncio.create_task(supervisor.run())
        async with asyncio.timeout(120):
            while (figures := await bus.load("measured", "figures")) is None:
                await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait([running])
    rate, single = figures.split()
    return float(rate), float(single)


class Nowhere:
    """Where the panels of a plugin without any go."""

    def add(self, *_: object) -> None: ...

    def remove(self, plugin: str) -> None: ...


def boundary(folder: Path) -> str:
    """What it costs to keep a source in a thread or a process, against none of both."""
    told = []
    bare_rate, bare_single = asyncio.run(through(folder / "task", "task"))
    for isolation in ("thread", "process"):
        rate, single = asyncio.run(through(folder / isolation, isolation))
        told.append(
            f"{isolation} {rate:,.0f}/s, ratio {rate / bare_rate:.2f};"
            f" one alone {single * 1e3:.2f} ms, ratio {single / bare_single:.2f}"
        )
    return (
        f"isolation: task {bare_rate:,.0f} signals/s in batches of 500, one alone"
        f" {bare_single * 1e3:.2f} ms; " + "; ".join(told)
    )


BENCHMARKS: dict[str, Callable[[Path], str]] = {
    "ingest": ingest,
    "memory": memory,
    "start": start,
    "boundary": boundary,
    "disk": disk,
    "query": query,
}


def main() -> None:
    wanted = sys.argv[1:] or os.environ.get("BENCH", "").split() or list(BENCHMARKS)
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            print(BENCHMARKS[name](Path(folder)), flush=True)


if __name__ == "__main__":
    main()
