"""One scenario: a server under test alone on a core; NATS, publisher and viewers on the others."""

import contextlib
import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer, accepts, free_port, wait_until

HERE: Final = Path(__file__).parent
CORES: Final = sorted(os.sched_getaffinity(0))
UNDER_TEST: Final = {CORES[0]}
OTHERS: Final = set(CORES[1:]) or UNDER_TEST
BENCH_PYTHON: Final = Path(sys.executable).parents[1] / "bench" / "bin" / "python"
WARM_UP: Final = 1.5
SLOWEST: Final = 5
"""Seconds that a slow viewer may take for what is on its way to it."""
SPREAD: Final = 2.0
VISIBLE: Final = 100
TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
BIN: Final = 0.001
FILES: Final = 12_000

Server = Literal["almenara", "almenara, plain frames", "naive", "plugin", "nats", "nats-py"]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a server."""

    server: Server
    clients: int
    rate: float
    """Events a second."""
    filters: int = 1
    """Channels that the clients spread over; each shows one type of event, or all where it is 1."""
    slow: int = 0
    """Percent of clients that read a little twice a second."""
    stalled: int = 0
    """Percent of clients that read nothing."""
    storm: bool = False
    """Whether all drop in the end, and return within two seconds."""
    seconds: float = 8.0
    observe: int = 1
    """Of a stream of single events, one connection in this many is read event by event."""

    @property
    def name(self) -> str:
        parts = [f"{self.server}: {self.clients:,} × {self.rate:,.0f}/s"]
        if self.filters > 1:
            parts.append(f"{self.filters} filters")
        parts += [f"{it} % {what}" for it, what in self._troubles() if it]
        if self.storm:
            parts.append("storm")
        return ", ".join(parts)

    def _troubles(self) -> tuple[tuple[int, str], ...]:
        return (self.slow, "slow"), (self.stalled, "stalled")


class Figures(msgspec.Struct, kw_only=True):
    """What a scenario came to."""

    scenario: Scenario
    published: int
    seconds: float
    cpu: float
    """Seconds of processor time of the server in each second."""
    cpu_viewers: float
    rss: int
    """Bytes resident at the end, above those before the first client."""
    rss_idle: int
    frames: float
    """Messages received in each second by all clients together."""
    megabytes: float
    """Received in each second by all clients together."""
    p50: float
    p99: float
    longest: float
    lag: float
    """99th percentile of how late the viewers' own event loop was, in seconds."""
    expected: float = 0.0
    """Messages that all clients together should have got in each second: one for each event."""
    missing: int = 0
    """Rows that viewers should show in the end and do not."""
    untold: int = 0
    """Rows that viewers neither were shown nor told of."""
    live: int = 0
    """Clients connected at the end."""
    dropped: int = 0
    """Clients that the server closed."""
    sockets: int = 0
    """WebSockets that the server has open in the end."""
    storm: dict[str, float] = {}
    peak: int = 0
    """The most bytes that were ever resident."""

    @property
    def held(self) -> bool:
        """Whether the server kept up: all was delivered, and within seconds."""
        late = self.p99 > 1.0
        # What nobody received is late without end.
        short = self.expected > 0 and self.frames < self.expected * 0.97
        return not (late or short or self.missing or self.untold)

    @property
    def rss_client(self) -> float:
        return self.rss / self.scenario.clients if self.scenario.clients else 0.0


@contextlib.contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """What is started within runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def more_files() -> None:
    """Let this process and its children have a file for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        if hard < FILES:
            raise SystemExit(f"{FILES:,} open files are needed; ulimit -n allows {hard:,}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def peak(pid: int) -> int:
    """The most bytes that a process ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class Program:
    """A helper process that answers each command with a line of JSON."""

    def __init__(self, *arguments: str) -> None:
        with on(OTHERS):
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, command: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):
                self.process.stdin.write("\n")
                self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Tested(msgspec.Struct):
    """A server under test that runs."""

    pid: int
    port: int
    job: dict[str, Any]
    database: Path | None = None


@contextlib.contextmanager
def running(scenario: Scenario, folder: Path) -> Iterator[tuple[Tested, NatsServer]]:
    """The server under test alone on its core, and a nats-server."""
    kinds = {"almenara": almenara, "almenara, plain frames": almenara, "nats": listener}
    with kinds.get(scenario.server, peer)(scenario, folder) as found:
        yield found


@contextlib.contextmanager
def almenara(scenario: Scenario, folder: Path) -> Iterator[tuple[Tested, NatsServer]]:
    with on(OTHERS):
        server = NatsServer(folder / "nats").start()
    with contextlib.closing(RawClient(server.port)) as client:
        client.make_stream("BENCH", "bench.>")
    app = Almenara(folder / "almenara", server.url, SERVER__MAX_WEBSOCKETS="10000")
    try:
        with on(UNDER_TEST):
            app.start()
        assert app.process is not None
        paths = (
            [f"/live?panel=events%3Ftype%3DBENCH_{it}" for it in range(scenario.filters)]
            if scenario.filters > 1
            else ["/live?panel=events"]
        )
        job = {"kind": "almenara", "paths": paths, "deflate": scenario.server == "almenara"}
        yield (
            Tested(app.process.pid, app.port, job, folder / "almenara" / "var" / "almenara.db"),
            server,
        )
    finally:
        app.stop()
        server.stop()


@contextlib.contextmanager
def peer(scenario: Scenario, folder: Path) -> Iterator[tuple[Tested, NatsServer]]:
    with on(OTHERS):
        server = NatsServer(folder / "nats").start()
    if scenario.server == "nats-py":
        with contextlib.closing(RawClient(server.port)) as client:
            client.make_stream("BENCH", "bench.>")
    port = free_port()
    command = [
        str(BENCH_PYTHON), str(HERE / "peers.py"), scenario.server, str(port), str(server.port)
    ]  # fmt: skip
    with on(UNDER_TEST), (folder / "peer.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: accepts(port), scenario.server)
        yield Tested(process.pid, port, {"kind": "stream", "paths": ["/live"]}), server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        server.stop()


@contextlib.contextmanager
def listener(scenario: Scenario, folder: Path) -> Iterator[tuple[Tested, NatsServer]]:
    server, port = NatsServer(folder / "nats"), free_port()
    with server.config.open("a") as config:
        config.write(f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n')
        config.write("max_connections: 20000\n")
    with on(UNDER_TEST):
        server.start()
    assert server.process is not None
    try:
        wait_until(lambda: accepts(port), "the WebSocket listener of nats-server")
        job = {"kind": "nats", "paths": ["/"], "subjects": ["bench.>"]}
        yield Tested(server.process.pid, port, job), server
    finally:
        server.stop()


def run(scenario: Scenario, folder: Path) -> Figures:
    """Have a scenario happen, and measure it."""
    more_files()
    with contextlib.ExitStack() as stack:
        tested, server = stack.enter_context(running(scenario, folder))
        idle = resident(tested.pid)
        job = {
            **tested.job, "port": tested.port, "count": scenario.clients, "slow": scenario.slow,
            "stalled": scenario.stalled, "observe": scenario.observe,
        }  # fmt: skip
        viewers = Program(str(HERE / "viewers.py"), json.dumps(job))
        stack.callback(viewers.stop)
        viewers.answer()
        types = max(scenario.filters, 50)
        publisher = Program(
            str(HERE / "publisher.py"), str(server.port), str(scenario.rate), str(types)
        )
        stack.callback(publisher.stop)
        time.sleep(WARM_UP)
        before_viewers = viewers.ask("begin")["cpu"]
        before, began = cpu(tested.pid), time.monotonic()
        time.sleep(scenario.seconds)
        used, took = cpu(tested.pid) - before, time.monotonic() - began
        rss, told = resident(tested.pid), viewers.ask("figures")
        storm = viewers.ask(f"storm {SPREAD}") if scenario.storm else {}
        published = int(publisher.ask(""))
        p50, p99, longest = percentiles(told["latencies"], (0.5, 0.99, 1.0))
        found = Figures(
            scenario=scenario,
            published=published,
            seconds=took,
            cpu=used / took,
            cpu_viewers=(told["cpu"] - before_viewers) / took,
            rss=rss - idle,
            rss_idle=idle,
            frames=told["frames"] / took,
            megabytes=told["bytes"] / took / 1e6,
            p50=p50,
            p99=p99,
            longest=longest,
            lag=told["lag_p99"],
            dropped=told["drops"],
            storm=storm,
        )
        if scenario.server == "nats-py":
            wait_until(lambda: read(tested.port) >= published, "all to be read", 60)
        elif tested.database is None:
            found.expected = scenario.clients * scenario.rate
            found.live = told["connected"]
        else:
            calm = SLOWEST if scenario.slow else 1
            screens = settled(viewers, tested.database, published, calm)
            judge(found, screens, sequences(tested.database, scenario.filters))
            found.sockets = sockets(tested.port)
        found.peak = peak(tested.pid)
        return found


def sockets(port: int) -> int:
    """WebSockets that an Almenara has open."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=10) as response:
        return int(json.load(response)["subscribers"])


def read(port: int) -> int:
    """Messages that the peer that only reads has read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/read", timeout=10) as response:
        return int(json.load(response))


def percentiles(bins: Sequence[Sequence[int]], shares: Sequence[float]) -> list[float]:
    """Seconds under which these shares of the counted latencies lie; 0 where none was counted."""
    total = sum(count for _, count in bins)
    found = []
    for share in shares:
        passed = 0
        for number, count in bins:
            passed += count
            if passed >= share * total:
                found.append((number + 1) * BIN)
                break
        else:
            found.append(0.0)
    return found


def settled(viewers: Program, database: Path, published: int, calm: int) -> list[dict[str, Any]]:
    """What the viewers show once all events are stored and no screen changed for `calm` seconds."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:

        def stored() -> bool:
            (events,) = connection.execute("SELECT events FROM position").fetchone()
            return bool(events >= published)

        wait_until(stored, f"{published:,} events in history", 60)
    before: list[dict[str, Any]] = viewers.ask("screens")
    same = 0
    for _ in range(20):
        time.sleep(1)
        found: list[dict[str, Any]] = viewers.ask("screens")
        same = same + 1 if found == before else 0
        if same == calm:
            break
        before = found
    return before


def sequences(database: Path, filters: int) -> list[list[int]]:
    """For each channel the sequences of its events, in order."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        if filters == 1:
            rows = connection.execute("SELECT sequence FROM events ORDER BY sequence")
            return [[it[0] for it in rows]]
        return [
            [
                it[0]
                for it in connection.execute(
                    "SELECT e.sequence FROM events e JOIN names t ON t.number = e.type"
                    " WHERE t.text = ? ORDER BY e.sequence",
                    (f"BENCH_{number}",),
                )
            ]
            for number in range(filters)
        ]


def judge(
    figures: Figures, screens: Sequence[dict[str, Any]], history: Sequence[Sequence[int]]
) -> None:
    """Hold what the viewers show, and what they were told, against history."""
    for it in screens:
        stored, viewers = history[it["channel"]], it["viewers"]
        newest = list(reversed(stored[-VISIBLE:]))
        figures.live += viewers
        figures.missing += len(set(newest) - set(it["rows"])) * viewers
        if it["rows"] != newest and set(it["rows"]) >= set(newest):
            figures.missing += viewers
        if not it["slow"]:
            base = it["base"] or 0
            since = sum(sequence > base for sequence in stored)
            untold = since - it["told"] - it["missed"]
            if not (it["more"] and untold > 0):
                figures.untold += abs(untold) * viewers
