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
"""Seconds that a slow viewer may take for the data that was already sent to it."""
SPREAD: Final = 2.0
VISIBLE: Final = 100
TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
BIN: Final = 0.001
FILES: Final = 12_000

Server = Literal["almenara", "almenara, plain frames", "naive", "plugin", "nats", "nats-py"]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """The load on a server."""

    server: Server
    clients: int
    rate: float
    """Events a second."""
    filters: int = 1
    """Channels that the clients spread over; each shows one type of event, or all where it is 1."""
    slow: int = 0
    """Percentage of clients that read little, twice a second."""
    stalled: int = 0
    """Percentage of clients that read nothing."""
    storm: bool = False
    """Whether all clients disconnect at the end, and reconnect within two seconds."""
    seconds: float = 8.0
    observe: int = 1
    """Of a stream of single events, one connection in this many is read event by event."""

    @property
    def name(self) -> str:
        parts = [f"{self.server}: {self.clients:,} × {self.rate:,.0f}/s"]
        if self.filters > 1:
            parts.append(f"{self.filters} filters")
        parts += [f"{percent} % {what}" for percent, what in self._impaired() if percent]
        if self.storm:
            parts.append("storm")
        return ", ".join(parts)

    def _impaired(self) -> tuple[tuple[int, str], ...]:
        return (self.slow, "slow"), (self.stalled, "stalled")


class Figures(msgspec.Struct, kw_only=True):
    """The measurements of a scenario."""

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
    """Messages that all clients together should receive in each second: one for each event."""
    missing: int = 0
    """Rows that viewers should show at the end and don't."""
    unreported: int = 0
    """Rows that viewers neither received nor got counted in a note."""
    live: int = 0
    """Clients connected at the end."""
    dropped: int = 0
    """Clients that the server closed."""
    sockets: int = 0
    """WebSockets that the server has open at the end."""
    storm: dict[str, float] = {}
    peak: int = 0
    """The most bytes that were ever resident."""

    @property
    def keeps_up(self) -> bool:
        """Whether everything was delivered, and within a second."""
        late = self.p99 > 1.0
        # A message that no client received has no latency, so messages are counted too.
        short = self.expected > 0 and self.frames < self.expected * 0.97
        return not (late or short or self.missing or self.unreported)

    @property
    def rss_client(self) -> float:
        return self.rss / self.scenario.clients if self.scenario.clients else 0.0


@contextlib.contextmanager
def pin_to(cores: set[int]) -> Iterator[None]:
    """Processes started in the block run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_file_limit() -> None:
    """Allow this process and its children one open file for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        if hard < FILES:
            raise SystemExit(f"{FILES:,} open files are needed; ulimit -n allows {hard:,}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))


def read_cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def read_resident(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def read_peak(pid: int) -> int:
    """The most resident bytes that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class Program:
    """A helper process that answers each command with a line of JSON."""

    def __init__(self, *arguments: str) -> None:
        with pin_to(OTHERS):
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def read_answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def request(self, command: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.read_answer()

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


class ServerUnderTest(msgspec.Struct):
    """A running server."""

    pid: int
    port: int
    job: dict[str, Any]
    database: Path | None = None


@contextlib.contextmanager
def run_server(scenario: Scenario, folder: Path) -> Iterator[tuple[ServerUnderTest, NatsServer]]:
    """Run the server under test alone on its core, and a nats-server."""
    runners = {
        "almenara": run_almenara,
        "almenara, plain frames": run_almenara,
        "nats": run_nats,
    }
    with runners.get(scenario.server, run_peer)(scenario, folder) as servers:
        yield servers


@contextlib.contextmanager
def run_almenara(scenario: Scenario, folder: Path) -> Iterator[tuple[ServerUnderTest, NatsServer]]:
    with pin_to(OTHERS):
        server = NatsServer(folder / "nats").start()
    with contextlib.closing(RawClient(server.port)) as client:
        client.make_stream("BENCH", "bench.>")
    app = Almenara(
        folder / "almenara",
        server.url,
        SERVER__MAX_WEBSOCKETS="10000",
        # Rows are compared with what viewers received.
        STORAGE__HOT_EVENTS="100000000",
    )
    try:
        with pin_to(UNDER_TEST):
            app.start()
        assert app.process is not None
        paths = (
            [f"/live?panel=events%3Ftype%3DBENCH_{kind}" for kind in range(scenario.filters)]
            if scenario.filters > 1
            else ["/live?panel=events"]
        )
        job = {"kind": "almenara", "paths": paths, "deflate": scenario.server == "almenara"}
        database = folder / "almenara" / "var" / "almenara.db"
        yield (
            ServerUnderTest(app.process.pid, app.port, job, database),
            server,
        )
    finally:
        app.stop()
        server.stop()


@contextlib.contextmanager
def run_peer(scenario: Scenario, folder: Path) -> Iterator[tuple[ServerUnderTest, NatsServer]]:
    with pin_to(OTHERS):
        server = NatsServer(folder / "nats").start()
    if scenario.server == "nats-py":
        with contextlib.closing(RawClient(server.port)) as client:
            client.make_stream("BENCH", "bench.>")
    port = free_port()
    command = [
        str(BENCH_PYTHON), str(HERE / "peers.py"), scenario.server, str(port), str(server.port)
    ]  # fmt: skip
    with pin_to(UNDER_TEST), (folder / "peer.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: accepts(port), scenario.server)
        yield ServerUnderTest(process.pid, port, {"kind": "stream", "paths": ["/live"]}), server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        server.stop()


@contextlib.contextmanager
def run_nats(scenario: Scenario, folder: Path) -> Iterator[tuple[ServerUnderTest, NatsServer]]:
    server, port = NatsServer(folder / "nats"), free_port()
    with server.config.open("a") as config:
        config.write(f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n')
        config.write("max_connections: 20000\n")
    with pin_to(UNDER_TEST):
        server.start()
    assert server.process is not None
    try:
        wait_until(lambda: accepts(port), "the WebSocket listener of nats-server")
        job = {"kind": "nats", "paths": ["/"], "subjects": ["bench.>"]}
        yield ServerUnderTest(server.process.pid, port, job), server
    finally:
        server.stop()


def run(scenario: Scenario, folder: Path) -> Figures:
    """Run a scenario and measure it."""
    raise_file_limit()
    with contextlib.ExitStack() as stack:
        tested, server = stack.enter_context(run_server(scenario, folder))
        idle = read_resident(tested.pid)
        job = {
            **tested.job, "port": tested.port, "count": scenario.clients, "slow": scenario.slow,
            "stalled": scenario.stalled, "observe": scenario.observe,
        }  # fmt: skip
        viewers = Program(str(HERE / "viewers.py"), json.dumps(job))
        stack.callback(viewers.stop)
        viewers.read_answer()
        types = max(scenario.filters, 50)
        publisher = Program(
            str(HERE / "publisher.py"), str(server.port), str(scenario.rate), str(types)
        )
        stack.callback(publisher.stop)
        time.sleep(WARM_UP)
        before_viewers = viewers.request("begin")["cpu"]
        before, started = read_cpu(tested.pid), time.monotonic()
        time.sleep(scenario.seconds)
        used, took = read_cpu(tested.pid) - before, time.monotonic() - started
        rss, received = read_resident(tested.pid), viewers.request("figures")
        storm = viewers.request(f"storm {SPREAD}") if scenario.storm else {}
        published = int(publisher.request(""))
        p50, p99, longest = find_percentiles(received["latencies"], (0.5, 0.99, 1.0))
        figures = Figures(
            scenario=scenario,
            published=published,
            seconds=took,
            cpu=used / took,
            cpu_viewers=(received["cpu"] - before_viewers) / took,
            rss=rss - idle,
            rss_idle=idle,
            frames=received["frames"] / took,
            megabytes=received["bytes"] / took / 1e6,
            p50=p50,
            p99=p99,
            longest=longest,
            lag=received["lag_p99"],
            dropped=received["drops"],
            storm=storm,
        )
        if scenario.server == "nats-py":
            wait_until(lambda: count_read(tested.port) >= published, "all messages", 60)
        elif tested.database is None:
            figures.expected = scenario.clients * scenario.rate
            figures.live = received["connected"]
        else:
            calm = SLOWEST if scenario.slow else 1
            screens = wait_for_screens(viewers, tested.database, published, calm)
            count_losses(figures, screens, read_sequences(tested.database, scenario.filters))
            figures.sockets = count_sockets(tested.port)
        figures.peak = read_peak(tested.pid)
        return figures


def count_sockets(port: int) -> int:
    """WebSockets that an Almenara has open."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=10) as response:
        return int(json.load(response)["subscribers"])


def count_read(port: int) -> int:
    """Messages that the peer `nats-py` has read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/read", timeout=10) as response:
        return int(json.load(response))


def find_percentiles(bins: Sequence[Sequence[int]], shares: Sequence[float]) -> list[float]:
    """Seconds that these shares of the counted latencies stay under; 0 where none was counted."""
    total = sum(count for _, count in bins)
    seconds = []
    for share in shares:
        passed = 0
        for number, count in bins:
            passed += count
            if passed >= share * total:
                seconds.append((number + 1) * BIN)
                break
        else:
            seconds.append(0.0)
    return seconds


def wait_for_screens(
    viewers: Program, database: Path, published: int, calm: int
) -> list[dict[str, Any]]:
    """The screens once all events are stored and no screen changed for `calm` seconds."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:

        def has_stored_all() -> bool:
            (events,) = connection.execute("SELECT events FROM position").fetchone()
            return bool(events >= published)

        wait_until(has_stored_all, f"{published:,} events in history", 60)
    before: list[dict[str, Any]] = viewers.request("screens")
    same = 0
    for _ in range(20):
        time.sleep(1)
        screens: list[dict[str, Any]] = viewers.request("screens")
        same = same + 1 if screens == before else 0
        if same == calm:
            break
        before = screens
    return before


def read_sequences(database: Path, filters: int) -> list[list[int]]:
    """The ordered sequences of the events of each channel."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        if filters == 1:
            rows = connection.execute("SELECT sequence FROM events ORDER BY sequence")
            return [[row[0] for row in rows]]
        return [
            [
                row[0]
                for row in connection.execute(
                    "SELECT e.sequence FROM events e JOIN names t ON t.number = e.type"
                    " WHERE t.text = ? ORDER BY e.sequence",
                    (f"BENCH_{number}",),
                )
            ]
            for number in range(filters)
        ]


def count_losses(
    figures: Figures, screens: Sequence[dict[str, Any]], history: Sequence[Sequence[int]]
) -> None:
    """Compare what the viewers show, and what was reported to them, with history."""
    for screen in screens:
        stored, viewers = history[screen["channel"]], screen["viewers"]
        newest = list(reversed(stored[-VISIBLE:]))
        figures.live += viewers
        figures.missing += len(set(newest) - set(screen["rows"])) * viewers
        if screen["rows"] != newest and set(screen["rows"]) >= set(newest):
            figures.missing += viewers
        if not screen["slow"]:
            base = screen["base"] or 0
            since = sum(sequence > base for sequence in stored)
            unreported = since - screen["reported"] - screen["missed"]
            if not (screen["more"] and unreported > 0):
                figures.unreported += abs(unreported) * viewers
