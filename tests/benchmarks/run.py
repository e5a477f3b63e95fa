"""The figures we hold ourselves to, each on one line: `make bench [BENCH="ingest memory"]`.

Speeds are ratios to the same work done without us, side by side in one run.
"""

import asyncio
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nats
import uvloop
from nats.js.api import ConsumerConfig, StreamConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from almenara.bus.embedded import EmbeddedBus
from almenara.history import Filter, History
from almenara.settings import StorageSettings
from almenara.signals import Event, Severity, now
from app import Almenara
from servers import NatsServer, wait_until

MESSAGES = 60_000
EVENTS = int(os.environ.get("BENCH_EVENTS", "5000000"))
BATCH = 500
REPEATS = 300


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


def query(folder: Path) -> str:
    """A page of history over millions of events against the same query in bare sqlite3."""

    async def build_and_ask() -> tuple[list[float], list[float]]:
        settings = StorageSettings(dir=folder, deduplication_window=10_000)
        async with EmbeddedBus(settings) as bus:
            base = now()
            for first in range(0, EVENTS, 20_000):
                await bus.publish([sample(it, base) for it in range(first, first + 20_000)], "x")
            history = History(bus)
            connection = sqlite3.connect(bus.path)
            names = dict(connection.execute("SELECT text, number FROM names").fetchall())
            chosen = Filter(type="type-7", severity=Severity.WARN)
            statement = (
                "SELECT e.sequence, e.id, s.text, o.text, t.text, e.subject, e.time, e.severity,"
                " e.correlation, e.attributes, e.problem, e.raw, e.data"
                " FROM events e INDEXED BY events_by_type"
                " JOIN names s ON s.number = e.source JOIN names o ON o.number = e.origin"
                " JOIN names t ON t.number = e.type WHERE e.type = ? AND e.severity >= 13"
                " AND e.sequence < ? ORDER BY e.sequence DESC LIMIT 100"
            )
            ours: list[float] = []
            bare: list[float] = []
            for number in range(REPEATS):
                before = EVENTS - number * (EVENTS // REPEATS // 2)
                began = time.perf_counter()
                found = await history.events(chosen, before=before, limit=100)
                ours.append(time.perf_counter() - began)
                began = time.perf_counter()
                right = connection.execute(statement, (names["type-7"], before)).fetchall()
                bare.append(time.perf_counter() - began)
                assert [it.sequence for it in found] == [it[0] for it in right]
            return ours, bare

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ours, bare = runner.run(build_and_ask())
    ratio = statistics.median(ours) / statistics.median(bare)
    return (
        f"page over {EVENTS:,} events {statistics.median(ours) * 1000:.2f} ms, bare sqlite3"
        f" {statistics.median(bare) * 1000:.2f} ms: ratio {ratio:.2f} (at most 1.5)"
    )


def sample(number: int, base: int) -> Event:
    return Event(
        id=str(number),
        source=f"source-{number % 5}",
        type=f"type-{number % 20}",
        subject=f"subject.{number % 100}",
        time=base + number,
        severity=Severity.ERROR if number % 3 == 0 else Severity.INFO,
        data={"story_id": f"US-{number % 500}", "number": number},
    )


BENCHMARKS: dict[str, Callable[[Path], str]] = {
    "ingest": ingest,
    "memory": memory,
    "start": start,
    "query": query,
}


def main() -> None:
    wanted = sys.argv[1:] or os.environ.get("BENCH", "").split() or list(BENCHMARKS)
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            print(BENCHMARKS[name](Path(folder)), flush=True)


if __name__ == "__main__":
    main()
