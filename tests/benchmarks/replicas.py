"""Replicas that share a bus, against one process with the embedded bus: `make bench-replicas`.

Everything runs on one machine: replicas, three nats-servers, load and viewers. `--short`
measures little and judges no speed: it fails where something breaks. Parts can be named, and pages
and load chosen: `python tests/benchmarks/replicas.py pages --pages 5000 --rate 2`.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent / "fanout"))

from playwright.sync_api import sync_playwright
from results import Result, print_table
from scenario import HERE, Program, raise_file_limit, read_cpu
from source_costs import find_ingest_span

from browser import WATCH
from support.application import Almenara
from support.nats_cluster import nats_cluster
from support.raw_nats import RawClient
from support.replicas import BUS_SECRET, read_log
from support.servers import NatsServer, wait_until

PATIENCE: Final = 180.0


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured."""

    messages: int = 60_000
    rounds: int = 5
    pages: int = 500
    rate: float = 200.0
    seconds: float = 15.0
    paint_seconds: float = 20.0


SHORT: Final = Size(
    messages=2_000, rounds=1, pages=20, rate=50.0, seconds=2.0, paint_seconds=2.0
)  # fmt: skip


@contextlib.contextmanager
def cluster(folder: Path, count: int) -> Iterator[tuple[list[NatsServer], list[Almenara]]]:
    """Run three nats-servers, and replicas; without replicas one process on the embedded bus."""
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(nats_cluster(folder))
        wait_until(lambda: creates_stream(servers[0]), "a leader of the cluster", PATIENCE)
        common: dict[str, Any] = {
            "plugins": {"nats": {"servers": [server.url for server in servers]}},
            "server": {"max_websockets": 10_000, "drain_period": 1},
        }
        applications = []
        for number in range(count or 1):
            bus = {"kind": "jetstream", "secret": BUS_SECRET, "replica": f"r{number}",
                   "settings": {"replicas": 3}}  # fmt: skip
            config = {**common, "bus": bus} if count else common
            applications.append(Almenara(folder / f"r{number}", config=config))
        if count:
            wait_until(
                lambda: applications[0].command("streams", "apply").returncode == 0,
                "the stream of the bus", PATIENCE,
            )  # fmt: skip
        for application in applications:
            stack.enter_context(application)
        yield servers, applications


def creates_stream(server: NatsServer) -> bool:
    """Whether the stream of the load exists now."""
    with (
        contextlib.suppress(AssertionError, OSError),
        contextlib.closing(RawClient(server.port)) as client,
    ):
        client.make_stream("BENCH", "bench.>")
        return True
    return False


@contextlib.contextmanager
def load(server: NatsServer, rate: float) -> Iterator[None]:
    """Publish at a rate beside the block."""
    publisher = Program(str(HERE / "publisher.py"), str(server.port), str(rate), "50")
    try:
        yield
    finally:
        publisher.request("")
        publisher.stop()


def measure_ingest(folder: Path, size: Size) -> Iterator[Result]:
    """Events per second that the NATS source stores, from a stream that is full at the start."""

    def ingest(count: int) -> float:
        with cluster(folder / f"ingest-{count}", count) as (servers, (application,)):
            application.stop()
            with contextlib.closing(RawClient(servers[0].port)) as client:
                for number in range(size.messages):
                    client.publish("bench.x", make_payload(number))
                client.flush()
            (application.folder / "almenara.log").unlink()
            application.start()
            wait_until(lambda: application.stored() >= size.messages, "all events", PATIENCE)
            assert application.get("/api/health")["events_stored"] == size.messages
            database = application.folder / "var" / "almenara.db"
            started, ended = find_ingest_span(database, application)
            return size.messages / (ended - started)

    embedded, shared = ingest(0), ingest(1)
    yield Result("ingest over the shared bus", f"{shared:,.0f}/s", f"{embedded:,.0f}/s embedded",
                 shared / embedded, "at least 0.5")  # fmt: skip


def make_payload(number: int) -> bytes:
    return json.dumps(
        {
            "event_type": "DELIBERATION_STARTED", "story_id": f"US-{number % 500}",
            "task_id": f"task-{number:06d}", "role": "DEV", "num_agents": 3,
            "agents": ["agent-dev-001", "agent-dev-002", "agent-dev-003"],
        }
    ).encode()  # fmt: skip


def find_holder(applications: list[Almenara]) -> Almenara:
    """The replica that runs the NATS source."""
    names = {f"r{number}": application for number, application in enumerate(applications)}
    holders: list[Almenara] = []

    def is_known() -> bool:
        known = {
            source["replica"]
            for application in applications
            for source in application.get("/api/sources")
            if source["name"] == "nats"
        }
        holders[:] = [names[name] for name in known if name in names]
        return len(known) == len(holders) == 1

    wait_until(is_known, "a replica that runs the source", PATIENCE)
    return holders[0]


def measure_handover(folder: Path, size: Size) -> Iterator[Result]:
    """The longest time without an event of the source when the replica that runs it is killed, or
    ends: between the last batch under one lease and the first under the next one."""
    gaps: dict[str, list[float]] = {"kill": [], "orderly end": []}
    with cluster(folder / "handover", 3) as (servers, applications), load(servers[0], 100):
        for _ in range(size.rounds):
            for kind, number in (("kill", signal.SIGKILL), ("orderly end", signal.SIGTERM)):
                holder = find_holder(applications)
                assert holder.process is not None
                moment = time.time() * 1e6
                holder.process.send_signal(number)
                holder.process.wait(60)
                gaps[kind].append(wait_for_gap(servers, moment))
                holder.start()
    for kind, seconds in gaps.items():
        goal = {"kill": 10.0, "orderly end": 2.0}[kind]
        yield Result(
            f"takeover after: {kind}",
            f"{max(seconds):.2f} s, median {statistics.median(seconds):.2f} s",
            f"{goal:g} s", max(seconds) / goal, "at most 1",
        )  # fmt: skip


def wait_for_gap(servers: list[NatsServer], moment: float) -> float:
    """Wait until the source publishes under the lease after the one of a moment, in microseconds,
    and return the seconds between the last batch under the one and the first under the other."""
    gaps: list[float] = []

    def is_known() -> bool:
        batches = asyncio.run(read_log(*servers))
        stored = [(at, batch.token) for at, batch in batches if batch.origin == "nats"]
        before = max(token for at, token in stored if at <= moment)
        after = [at for at, token in stored if token > before]
        if after:
            last = max(at for at, token in stored if token == before)
            gaps.append((min(after) - last) / 1e6)
        return bool(after)

    wait_until(is_known, "a batch under the next lease", PATIENCE)
    return gaps[-1]


@contextlib.contextmanager
def viewed(application: Almenara, count: int) -> Iterator[None]:
    """Keep pages open beside the block."""
    job = {"kind": "almenara", "paths": ["/live?panel=events"], "deflate": True,
           "port": application.port, "count": count}  # fmt: skip
    viewers = Program(str(HERE / "viewers.py"), json.dumps(job))
    try:
        assert viewers.read_answer()["connected"] == count
        yield
        assert viewers.request("figures")["connected"] == count
    finally:
        viewers.stop()


def measure_pages(folder: Path, size: Size) -> Iterator[Result]:
    """Processor of a replica with pages, of three and of one, with the same pages each."""

    def measure(count: int) -> float:
        with contextlib.ExitStack() as stack:
            servers, applications = stack.enter_context(cluster(folder / f"pages-{count}", count))
            for application in applications:
                stack.enter_context(viewed(application, size.pages))
            stack.enter_context(load(servers[0], size.rate))
            time.sleep(2)
            pids = [each.process.pid for each in applications if each.process is not None]
            before, started = sum(map(read_cpu, pids)), time.monotonic()
            time.sleep(size.seconds)
            return (sum(map(read_cpu, pids)) - before) / (time.monotonic() - started) / count

    one, three = measure(1), measure(3)
    name = f"processor of each of 3 replicas, {size.pages:,} pages each, {size.rate:g} events/s"
    yield Result(name, f"{three:.3f} cores", f"{one:.3f} cores of one replica", three / one,
                 "at most 1.2")  # fmt: skip


def measure_paint(folder: Path, size: Size) -> Iterator[Result]:
    """Time from publishing to painting in Chromium; with replicas, on one that does not run the
    source."""

    def measure(count: int) -> float:
        with cluster(folder / f"paint-{count}", count) as (servers, applications):
            holder = find_holder(applications) if count else None
            page_server = next(each for each in applications if each is not holder)
            with load(servers[0], size.rate), sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=find_chromium(), args=["--no-sandbox"]
                )
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.add_init_script(WATCH)
                page.goto(f"{page_server.url}/events")
                page.wait_for_function("window.delays.length > 0")
                time.sleep(2)
                page.evaluate("window.delays.length = 0")
                time.sleep(size.paint_seconds)
                delays = sorted(page.evaluate("window.delays"))
                browser.close()
        return float(delays[int(len(delays) * 0.99)])

    embedded, shared = measure(0), measure(3)
    yield Result("publish to paint, p99, 3 replicas", f"{shared:.0f} ms",
                 f"{embedded:.0f} ms embedded", (shared - embedded) / 150,
                 "at most 1: 150 ms more")  # fmt: skip


def find_chromium() -> str | None:
    return os.environ.get("ALMENARA_CHROMIUM") or shutil.which("chromium")


PARTS: Final[dict[str, Callable[[Path, Size], Iterator[Result]]]] = {
    "ingest": measure_ingest,
    "handover": measure_handover,
    "pages": measure_pages,
    "paint": measure_paint,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="What to measure.")
    parser.add_argument("--short", action="store_true", help="Measure little, and judge nothing.")
    parser.add_argument("--pages", type=int, help="Open pages of each replica.")
    parser.add_argument("--rate", type=float, help="Events a second beside pages.")
    arguments = parser.parse_args()
    raise_file_limit()
    chosen = {name: value for name in ("pages", "rate") if (value := vars(arguments)[name])}
    size = dataclasses.replace(SHORT if arguments.short else Size(), **chosen)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.parts or PARTS:
            for result in PARTS[name](Path(folder), size):
                results.append(result)
                print(result.name, result.measured, result.reference, f"{result.ratio:.2f}",
                      flush=True)  # fmt: skip
    print_table(results, {})


if __name__ == "__main__":
    main()
