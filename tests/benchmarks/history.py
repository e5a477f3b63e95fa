"""Events stored and searched, against VictoriaLogs: `make bench-history [EVENTS=20000000]`.

Stores the same events of the demo fleet in Almenara, with the newest as rows and the others sealed,
and in VictoriaLogs where Go is installed; elsewhere its last figures are printed, marked with `*`.
`--short` measures little. With `--folder` the databases are kept, so that a long run can be done in
parts, also at the same time: `--store almenara`, `--store victoria-logs`, and then the queries.
"""

import argparse
import asyncio
import http.client
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import msgspec
from formats import read_fleet_message

from almenara.bus.counts import WIDTHS
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.retention import used_bytes
from almenara.bus.sealing import BLOCK_EVENTS
from almenara.bus.text_tables import is_mostly_sealed
from almenara.config import StorageSettings
from almenara.history import Filter, History
from almenara.signals import Event, Severity, format_time
from almenara.units import SECOND
from almenara_demo.fleet import Fleet
from support.servers import wait_until

VERSION = "v1.52.2"
MODULE = f"github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs@{VERSION}"
BATCH = 500
START = datetime(2026, 11, 1, tzinfo=UTC)
TYPE, COMMON, RARE, ABSENT = "VOTE_CAST", "architect", "onlyonce", "notthere"
BARS = 50
REPORTED = 500_000
"""Events after which progress is reported."""
# Of 1,000,000 events, on a server of two cores.
LAST_FIGURES = {
    "bytes an event": 36.0, "processor µs an event": 10.0, "newest 100": 34.0, "by type": 17.0,
    "by severity": 17.0, "common word": 40.0, "rare word": 44.0, "two words": 60.0,
    "absent word": 1.5, "count of a word": 407.0, "count of all": 1.5, "count of a type": 12.0,
    "histogram of 50 bars": 44.0,
}  # fmt: skip

Query = tuple[str, Filter, str]
Figures = dict[str, "float | Figure"]
PAGES: tuple[Query, ...] = (
    ("newest 100", Filter(), "*"),
    ("by type", Filter(type=TYPE), f'type:="{TYPE}"'),
    ("by severity", Filter(severity=Severity.ERROR), 'severity:="ERROR"'),
    ("common word", Filter(text=COMMON), f'"{COMMON}"'),
    ("rare word", Filter(text=RARE), f'"{RARE}"'),
    ("two words", Filter(text=f"{COMMON} story"), f'"{COMMON}" "story"'),
    ("absent word", Filter(text=ABSENT), f'"{ABSENT}"'),
)
COUNTS: tuple[Query, ...] = (
    ("count of a word", Filter(text=COMMON), f'"{COMMON}"'),
    ("count of all", Filter(), "*"),
    ("count of a type", Filter(type="vllm_token"), 'type:="vllm_token"'),
)


def make_batches(events: int) -> Iterator[list[Event]]:
    """Yield the events of the fleet; one of them, a third from the start, has the rare word."""
    moment = [START]
    messages = Fleet(7, clock=lambda: moment[0]).messages(100)
    number = 0
    while number < events:
        batch = []
        for message in itertools.islice(messages, min(BATCH, events - number)):
            moment[0] += timedelta(seconds=message.wait)
            number += 1
            event = read_fleet_message(message, number, moment[0])
            if number == events // 3:
                event = msgspec.structs.replace(event, data={"text": RARE})
            batch.append(event)
        yield batch


class Figure(NamedTuple):
    """Median milliseconds of a call, and those of the processor, which depend less on what else the
    machine does."""

    milliseconds: float
    processor: float

    def __str__(self) -> str:
        return f"{self.milliseconds:.1f} ({self.processor:.1f})"


def measured(
    take: Callable[[], object], rounds: int, processor_seconds: Callable[[], float]
) -> Figure:
    return asyncio.run(measured_async(lambda: asyncio.to_thread(take), rounds, processor_seconds))


async def measured_async(
    take: Callable[[], Awaitable[object]],
    rounds: int,
    processor_seconds: Callable[[], float] = time.process_time,
) -> Figure:
    took = []
    before = processor_seconds()
    for _ in range(rounds):
        started = time.perf_counter()
        await take()
        took.append(time.perf_counter() - started)
    spent = processor_seconds() - before
    return Figure(statistics.median(took) * 1e3, spent / rounds * 1e3)


class Stored(msgspec.Struct):
    """What storing the events took, kept beside the database."""

    events: int
    first: int
    """Time of the first event."""
    last: int
    figures: dict[str, float]

    @classmethod
    def read(cls, folder: Path) -> "Stored | None":
        path = folder.with_suffix(".json")
        return msgspec.json.decode(path.read_bytes(), type=cls) if path.exists() else None

    def write(self, folder: Path) -> None:
        folder.with_suffix(".json").write_bytes(msgspec.json.encode(self))


def almenara_settings(folder: Path, hot_events: int) -> StorageSettings:
    return StorageSettings(dir=folder, hot_events=hot_events, retention_interval=0.5,
                           retention_size=10**12, query_timeout=600)  # fmt: skip


async def store_almenara(folder: Path, events: int, hot_events: int) -> Stored:
    """Publish the events, and wait until the older ones are sealed."""
    async with EmbeddedBus(almenara_settings(folder, hot_events)) as bus:
        generating = 0.0
        started = time.process_time()
        batches = make_batches(events)
        first = last = number = 0
        while True:
            before = time.thread_time()
            batch = next(batches, None)
            generating += time.thread_time() - before
            if batch is None:
                break
            first, last = first or batch[0].time, batch[-1].time
            await bus.publish(batch, "nats")
            number += len(batch)
            report("Almenara", number, time.process_time() - started - generating)
        unsealed = "SELECT events - sealed_events FROM position"
        while (await bus.read(lambda log: log.execute(unsealed).fetchone()))[0] >= (
            hot_events + BLOCK_EVENTS
        ):
            await asyncio.sleep(0.1)
        while await bus.read(is_mostly_sealed):
            await asyncio.sleep(0.1)
        spent = time.process_time() - started - generating
        figures = {
            "processor µs an event": spent / events * 1e6,
            "bytes an event": await bus.read(used_bytes) / events,
        }
    return Stored(events, first, last, figures)


def report(name: str, number: int, seconds: float) -> None:
    if number % REPORTED == 0:
        print(
            f"{name}: {number:,} events, {seconds / number * 1e6:.1f} µs each",
            file=sys.stderr, flush=True,
        )  # fmt: skip


async def measure_almenara(
    folder: Path, stored: Stored, hot_events: int, rounds: int
) -> tuple[Figures, Figures, Figures]:
    """Return the figures, and those of pages out of sealed blocks alone: repeated, and for the
    first time."""
    figures: Figures = dict(stored.figures)
    sealed: Figures = {}
    first_time: Figures = {}
    async with EmbeddedBus(almenara_settings(folder, hot_events)) as bus:
        history = History(bus)
        (through,) = await bus.read(
            lambda log: log.execute("SELECT sealed_through FROM position").fetchone()
        )
        for name, chosen, _ in PAGES:
            figures[name] = await measured_async(
                lambda: history.events(chosen, limit=100),  # noqa: B023
                rounds,
            )
            sealed[name] = await measured_async(
                lambda: history.events(chosen, before=through + 1, limit=100),  # noqa: B023
                rounds,
            )
            # Another history remembers no block.
            first_time[name] = await measured_async(
                lambda: History(bus).events(chosen, before=through + 1, limit=100),  # noqa: B023
                rounds,
            )
        for name, chosen, _ in COUNTS:
            figures[name] = await measured_async(lambda: history.count(chosen), min(rounds, 3))  # noqa: B023
        # Pages draw bars of whole slots, which the stored counts know.
        first, last = stored.first, stored.last
        width = max((last - first) // BARS // WIDTHS[0], 1) * WIDTHS[0]
        figures[f"histogram of {BARS} bars"] = await measured_async(
            lambda: history.buckets(Filter(), since=first, until=last + 1, width=width), rounds
        )
    return figures, sealed, first_time


class VictoriaLogs:
    """A server with its folder."""

    def __init__(self, program: Path, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self._port = unused.getsockname()[1]
        self._folder = folder
        self._process = subprocess.Popen(
            [program, f"-storageDataPath={folder}", f"-httpListenAddr=127.0.0.1:{self._port}",
             "-retentionPeriod=100y"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._is_ready, "VictoriaLogs")

    def _is_ready(self) -> bool:
        try:
            self.get("/health")
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def get(self, path: str, **query: str) -> bytes:
        return self._request("GET", f"{path}?{urllib.parse.urlencode(query)}", None)

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            content = response.read()
            if response.status >= 300:
                raise OSError(f"{path}: {response.status} {content[:200]!r}")
            return content
        finally:
            connection.close()

    def store(self, events: list[Event]) -> None:
        lines = b"".join(
            json.dumps(
                {
                    "_time": format_time(event.time),
                    "_msg": msgspec.json.encode(event.data).decode(),
                    "id": event.id, "source": event.source, "origin": event.origin,
                    "type": event.type, "subject": event.subject,
                    "severity": event.severity.name, "correlation": event.correlation or "",
                }
            ).encode() + b"\n"
            for event in events
        )  # fmt: skip
        self._request("POST", "/insert/jsonline?_stream_fields=origin,type", lines)

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())


def find_program() -> Path | None:
    """Return VictoriaLogs, which is built once where Go is installed."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "almenara" / f"victoria-logs-{VERSION}"
    program = folder / "victoria-logs"
    if program.exists():
        return program
    if (go := shutil.which("go")) is None:
        return None
    print(f"building VictoriaLogs {VERSION}", file=sys.stderr, flush=True)
    environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"}
    done = subprocess.run([go, "install", MODULE], env=environment, check=False)
    return program if done.returncode == 0 and program.exists() else None


def store_victoria_logs(program: Path, folder: Path, events: int) -> Stored:
    server = VictoriaLogs(program, folder)
    try:
        first = last = number = 0
        for batch in make_batches(events):
            first, last = first or batch[0].time, batch[-1].time
            server.store(batch)
            number += len(batch)
            report("VictoriaLogs", number, server.processor_seconds())
        server.get("/internal/force_flush")
        spent = server.processor_seconds()
        server.get("/internal/force_merge")
        time.sleep(1)
        figures = {
            "processor µs an event": spent / events * 1e6,
            "bytes an event": server.bytes_on_disk() / events,
        }
        return Stored(events, first, last, figures)
    finally:
        server.close()


def measure_victoria_logs(program: Path, folder: Path, stored: Stored, rounds: int) -> Figures:
    server = VictoriaLogs(program, folder)
    figures: Figures = dict(stored.figures)
    first, last = stored.first, stored.last
    window = {"start": format_time(first), "end": format_time(last + SECOND)}
    try:

        def select(query: str) -> bytes:
            return server.get("/select/logsql/query", query=query, **window)

        for name, _, query in PAGES:
            page = f"{query} | sort by (_time desc) limit 100"
            figures[name] = measured(lambda: select(page), rounds, server.processor_seconds)  # noqa: B023
        for name, _, query in COUNTS:
            count = f"{query} | stats count() n"
            figures[name] = measured(lambda: select(count), rounds, server.processor_seconds)  # noqa: B023
        step = max((last - first) // BARS // 1_000, 1)
        figures[f"histogram of {BARS} bars"] = measured(
            lambda: server.get("/select/logsql/hits", query="*", step=f"{step}ms", **window),
            rounds,
            server.processor_seconds,
        )
    finally:
        server.close()
    return figures


def show(figure: "float | Figure | None") -> str:
    if figure is None:
        return ""
    return str(figure) if isinstance(figure, Figure) else f"{figure:.1f}"


def store(name: str, folder: Path, write: Callable[[Path], Stored]) -> Stored:
    """Store the events in a part of a folder, unless that was done before."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / name
    stored = Stored.read(part)
    if stored is None:
        shutil.rmtree(part, ignore_errors=True)
        stored = write(part)
        stored.write(part)
    return stored


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="measure little")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--hot-events", type=int, help="events that stay rows")
    parser.add_argument("--folder", type=Path, help="where to keep the databases")
    parser.add_argument("--store", choices=("almenara", "victoria-logs"), help="store, and end")
    options = parser.parse_args()
    events = 10_000 if options.short else options.events
    rounds = 3 if options.short else 15
    hot_events = options.hot_events
    if hot_events is None:
        # The same share of rows as the default has in 20 million events.
        hot_events = min(StorageSettings().hot_events, events // 50)
    with ExitStack() as stack:
        folder: Path = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch("almenara.bus.sealing.PAUSE", 0.0))
        if options.store != "victoria-logs":
            stored = store(
                "almenara", folder,
                lambda part: asyncio.run(store_almenara(part, events, hot_events)),
            )  # fmt: skip
        program = None if options.short else find_program()
        if program is not None and options.store != "almenara":
            by_victoria_logs = store(
                "victoria-logs", folder,
                lambda part: store_victoria_logs(program, part, events),
            )  # fmt: skip
        if options.store:
            return
        ours, sealed, first_time = asyncio.run(
            measure_almenara(folder / "almenara", stored, hot_events, rounds)
        )
        theirs: Figures = dict(LAST_FIGURES)
        mark = "*"
        if program is not None:
            theirs = measure_victoria_logs(
                program, folder / "victoria-logs", by_victoria_logs, rounds
            )
            mark = ""
    print(
        f"{stored.events:,} events, of which {hot_events:,} are rows; times in milliseconds (and of"
        " those, of the processor)"
    )
    print(f"{'':24}{'Almenara':>16}{'sealed':>16}{'first time':>16}{'VictoriaLogs':>16}")
    for name in theirs:
        columns = [show(each.get(name)) for each in (ours, sealed, first_time)]
        columns.append(show(theirs[name]) + mark)
        print(f"{name:24}{''.join(f'{text:>16}' for text in columns)}")
    if mark:
        print("* measured before, with 1,000,000 events on another machine")


if __name__ == "__main__":
    main()
