"""Live pages for thousands of viewers, measured against alternatives: `make bench-fanout`.

Without an option all scenarios run and `docs/performance.md` is written. `--short` runs a few of
them, and fails where rows are lost, memory grows or a client delays others; it judges no speed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec
from report import Report, write
from scenario import CORES, Figures, Scenario, run

import browser
from browser import BrowserFigures

ROOT: Final = Path(__file__).parents[3]
SAVED: Final = ROOT / "var" / "fanout.json"
LASTING: Final = ROOT / "var" / "fanout-browser.json"
"""The last long run of the browser, which is not repeated with each run."""

OURS: Final = [
    *(
        Scenario(server="almenara", clients=clients, rate=rate)
        for rate in (10, 1_000, 10_000)
        for clients in (0, 1, 100, 1_000, 5_000)
    ),
    Scenario(server="almenara", clients=150, rate=1_000),
    Scenario(server="almenara", clients=1_000, rate=100),
    Scenario(server="almenara", clients=1_000, rate=1_000, filters=50),
    Scenario(server="almenara", clients=5_000, rate=10_000, filters=50),
    Scenario(server="almenara", clients=1_000, rate=1_000, slow=10),
    Scenario(server="almenara", clients=1_000, rate=1_000, stalled=5),
    Scenario(server="almenara", clients=5_000, rate=100, storm=True),
    Scenario(server="almenara, plain frames", clients=1_000, rate=1_000),
]
PEERS: Final = [
    *(
        Scenario(server="naive", clients=clients, rate=rate, observe=observe)
        for clients, rate, observe in (
            (1, 1_000, 1), (100, 1_000, 10), (150, 1_000, 10), (1_000, 1_000, 50),
            (1_000, 10, 1), (1_000, 100, 20),
        )
    ),
    *(
        Scenario(server="plugin", clients=clients, rate=rate, observe=observe)
        for clients, rate, observe in (
            (1, 1_000, 1), (100, 1_000, 10), (1_000, 1_000, 50), (1_000, 10, 1)
        )
    ),
    *(
        Scenario(server="nats", clients=clients, rate=rate, observe=observe)
        for clients, rate, observe in (
            (1, 1_000, 1), (100, 1_000, 10), (1_000, 1_000, 50), (1_000, 10, 1), (5_000, 10, 5),
            (100, 10_000, 10),
        )
    ),
    *(Scenario(server="nats-py", clients=0, rate=rate) for rate in (1_000, 10_000)),
]  # fmt: skip
SHORT: Final = [
    Scenario(server="almenara", clients=200, rate=500, seconds=4),
    Scenario(server="almenara", clients=200, rate=3_000, filters=20, seconds=4),
    Scenario(server="almenara, plain frames", clients=100, rate=2_000, slow=10, seconds=6),
    Scenario(server="almenara, plain frames", clients=100, rate=1_000, stalled=10, seconds=8),
    Scenario(server="almenara", clients=500, rate=100, storm=True, seconds=3),
]
MOST_PER_CLIENT: Final = 128 * 1024
"""Bytes; far more than a client costs, far less than an unbounded buffer would."""
MOST_GROWTH: Final = 96 * 1024**2
LONG: Final = 10.0
"""Minutes from which on a run of the browser shows growth of its heap."""


def format_figures(figures: Figures) -> str:
    p50, p99, longest, lag = (
        f"{seconds * 1e3:.0f}"
        for seconds in (figures.p50, figures.p99, figures.longest, figures.lag)
    )
    return (
        f"{figures.scenario.name:52} cpu {figures.cpu:.3f}  p50 {p50} p99 {p99} max {longest} ms"
        f"  {figures.rss_idle / 2**20:.0f}+{figures.rss / 2**20:.0f} MiB"
        f"  {figures.frames:,.0f} frames/s {figures.megabytes:.1f} MB/s"
        f"  missing {figures.missing} unreported {figures.unreported} live {figures.live}"
        f" dropped {figures.dropped}  viewers {figures.cpu_viewers:.2f} lag {lag} ms"
        f"{' ' + str(figures.storm) if figures.storm else ''}"
    )


def measure(scenario: Scenario) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        figures = run(scenario, Path(folder))
    print(format_figures(figures), flush=True)
    return figures


def find_faults(figures: Figures) -> list[str]:
    """What is wrong at any speed."""
    scenario = figures.scenario
    stalled = scenario.clients * scenario.stalled // 100
    faults = []
    if figures.missing:
        faults.append(f"{figures.missing} rows are missing on the screens that should show them")
    if figures.unreported:
        faults.append(f"{figures.unreported} rows were neither shown nor counted in a note")
    if figures.live != scenario.clients - stalled and not scenario.slow:
        faults.append(f"{figures.live} clients are live, not {scenario.clients - stalled}")
    if figures.rss > MOST_GROWTH + MOST_PER_CLIENT * scenario.clients:
        faults.append(f"memory grew by {figures.rss / 2**20:.0f} MiB")
    if scenario.stalled and figures.sockets != scenario.clients - stalled:
        faults.append(f"{figures.sockets} sockets are open: stalled clients were not dropped")
    return faults


def run_short() -> int:
    faults = [
        f"{scenario.name}: {fault}"
        for scenario in SHORT
        for fault in find_faults(measure(scenario))
    ]
    print("\n".join(faults) or "nothing lost, no memory growth, no client delays others")
    return 1 if faults else 0


def measure_one(words: list[str]) -> None:
    server, clients, rate, *more = words
    extra = {name: int(value) for name, value in (word.split("=") for word in more)}
    measure(Scenario(server=server, clients=int(clients), rate=float(rate), **extra))  # type: ignore[arg-type]


def measure_again(part: str) -> None:
    """Measure some scenarios of the last run again."""
    report = msgspec.json.decode(SAVED.read_bytes(), type=Report)
    for scenario in (*OURS, *PEERS):
        if part in scenario.name:
            others = [row for row in report.figures if row.scenario != scenario]
            report.figures = [*others, measure(scenario)]
            report.again = sorted({*report.again, scenario.name})
    order = {scenario: place for place, scenario in enumerate((*OURS, *PEERS))}
    report.figures = sorted(
        (row for row in report.figures if row.scenario in order),
        key=lambda row: order[row.scenario],
    )
    SAVED.write_bytes(msgspec.json.encode(report))
    write(report, ROOT, SAVED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few scenarios, judge no speed")
    parser.add_argument("--one", nargs="+", help="server clients rate [name=value …]")
    parser.add_argument("--again", help="measure scenarios with this in their name again")
    parser.add_argument("--report", action="store_true", help="write the report of the last run")
    parser.add_argument(
        "--only-browser", action="store_true", help="measure only the browser, for the report"
    )
    parser.add_argument("--browser-minutes", type=float, default=1.0)
    options = parser.parse_args()
    if options.one:
        measure_one(options.one)
        return 0
    if options.short:
        return run_short()
    if options.again:
        measure_again(options.again)
        return 0
    if options.report:
        write(msgspec.json.decode(SAVED.read_bytes(), type=Report), ROOT, SAVED)
        return 0
    if len(CORES) < 2:
        raise SystemExit("two processor cores are needed, one of them for the server under test")
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        page = browser.run(Path(folder), options.browser_minutes * 60)
    print(page, flush=True)
    if options.only_browser:
        lasting = options.browser_minutes >= LONG
        SAVED.parent.mkdir(exist_ok=True)
        if lasting:
            LASTING.write_bytes(msgspec.json.encode(page))
        if SAVED.exists():
            report = msgspec.json.decode(SAVED.read_bytes(), type=Report)
            if lasting:
                report.endurance = page
            else:
                report.browser = page
                report.again = sorted({*report.again, "the browser"})
            SAVED.write_bytes(msgspec.json.encode(report))
            write(report, ROOT, SAVED)
        return 0
    report = Report(
        figures=[], browser=page, started=started, took=0.0,
        endurance=msgspec.json.decode(LASTING.read_bytes(), type=BrowserFigures)
        if LASTING.exists() else None,
    )  # fmt: skip
    SAVED.parent.mkdir(exist_ok=True)
    for scenario in (*OURS, *PEERS):
        report.figures.append(measure(scenario))
        report.took = time.time() - started
        # At once, so that a failing scenario does not lose the figures of those before it.
        SAVED.write_bytes(msgspec.json.encode(report))
    write(report, ROOT, SAVED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
