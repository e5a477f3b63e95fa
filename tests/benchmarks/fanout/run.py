"""Live pages for thousands, measured against what people would use instead: `make bench-fanout`.

Without an option all scenarios run and `docs/performance.md` is written. `--short` runs a few of
them, and fails where something is lost, grows or delays others; it judges no speed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec
from report import Measured, write
from scenario import CORES, Figures, Scenario, run

import browser
from browser import BrowserFigures

ROOT: Final = Path(__file__).parents[3]
SAVED: Final = ROOT / "var" / "fanout.json"
LASTING: Final = ROOT / "var" / "fanout-browser.json"
"""The last long look at the browser, which is not repeated with each run."""

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
"""Bytes; far above what a client costs, far below what one that is not bounded would."""
MOST_GROWTH: Final = 96 * 1024**2
LONG: Final = 10.0
"""Minutes from which on looking at the browser tells of the growth of its heap."""


def line(it: Figures) -> str:
    return (
        f"{it.scenario.name:52} cpu {it.cpu:.3f}  p50 {it.p50 * 1e3:.0f} p99 {it.p99 * 1e3:.0f}"
        f" max {it.longest * 1e3:.0f} ms  {it.rss_idle / 2**20:.0f}+{it.rss / 2**20:.0f} MiB"
        f"  {it.frames:,.0f} frames/s {it.megabytes:.1f} MB/s  missing {it.missing} untold"
        f" {it.untold} live {it.live} dropped {it.dropped}  viewers {it.cpu_viewers:.2f}"
        f" lag {it.lag * 1e3:.0f} ms{' ' + str(it.storm) if it.storm else ''}"
    )


def measured(scenario: Scenario) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        found = run(scenario, Path(folder))
    print(line(found), flush=True)
    return found


def wrong(it: Figures) -> list[str]:
    """What must hold at any speed, and does not."""
    scenario = it.scenario
    stalled = scenario.clients * scenario.stalled // 100
    found = []
    if it.missing:
        found.append(f"{it.missing} rows are not on the screens that should show them")
    if it.untold:
        found.append(f"{it.untold} rows were neither shown nor told of")
    if it.live != scenario.clients - stalled and not scenario.slow:
        found.append(f"{it.live} clients are live, not {scenario.clients - stalled}")
    if it.rss > MOST_GROWTH + MOST_PER_CLIENT * scenario.clients:
        found.append(f"memory grew by {it.rss / 2**20:.0f} MiB")
    if scenario.stalled and it.sockets != scenario.clients - stalled:
        found.append(f"{it.sockets} sockets are open: those that read nothing were not dropped")
    return found


def short() -> int:
    faults = [
        f"{scenario.name}: {fault}" for scenario in SHORT for fault in wrong(measured(scenario))
    ]
    print("\n".join(faults) or "nothing lost, nothing grown, nobody delayed by others")
    return 1 if faults else 0


def one(words: list[str]) -> None:
    server, clients, rate, *more = words
    extra = {name: int(value) for name, value in (it.split("=") for it in more)}
    measured(Scenario(server=server, clients=int(clients), rate=float(rate), **extra))  # type: ignore[arg-type]


def again(part: str) -> None:
    """Measure some scenarios of the last run again."""
    found = msgspec.json.decode(SAVED.read_bytes(), type=Measured)
    for scenario in (*OURS, *PEERS):
        if part in scenario.name:
            others = [it for it in found.figures if it.scenario != scenario]
            found.figures = [*others, measured(scenario)]
            found.again = sorted({*found.again, scenario.name})
    order = {scenario: place for place, scenario in enumerate((*OURS, *PEERS))}
    found.figures = sorted(
        (it for it in found.figures if it.scenario in order), key=lambda it: order[it.scenario]
    )
    SAVED.write_bytes(msgspec.json.encode(found))
    write(found, ROOT, SAVED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="only what must hold at any speed")
    parser.add_argument("--one", nargs="+", help="server clients rate [name=value …]")
    parser.add_argument("--again", help="measure again what has this in its name, in the report")
    parser.add_argument("--report", action="store_true", help="write the report of the last run")
    parser.add_argument(
        "--only-browser", action="store_true", help="only the browser, in the report"
    )
    parser.add_argument("--browser-minutes", type=float, default=1.0)
    options = parser.parse_args()
    if options.one:
        one(options.one)
        return 0
    if options.short:
        return short()
    if options.again:
        again(options.again)
        return 0
    if options.report:
        write(msgspec.json.decode(SAVED.read_bytes(), type=Measured), ROOT, SAVED)
        return 0
    if len(CORES) < 2:
        raise SystemExit("two processor cores are needed, one of them for the server under test")
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        looked = browser.run(Path(folder), options.browser_minutes * 60)
    print(looked, flush=True)
    if options.only_browser:
        lasting = options.browser_minutes >= LONG
        SAVED.parent.mkdir(exist_ok=True)
        if lasting:
            LASTING.write_bytes(msgspec.json.encode(looked))
        if SAVED.exists():
            found = msgspec.json.decode(SAVED.read_bytes(), type=Measured)
            if lasting:
                found.endurance = looked
            else:
                found.browser = looked
                found.again = sorted({*found.again, "the browser"})
            SAVED.write_bytes(msgspec.json.encode(found))
            write(found, ROOT, SAVED)
        return 0
    found = Measured(
        figures=[], browser=looked, began=began, took=0.0,
        endurance=msgspec.json.decode(LASTING.read_bytes(), type=BrowserFigures)
        if LASTING.exists() else None,
    )  # fmt: skip
    SAVED.parent.mkdir(exist_ok=True)
    for scenario in (*OURS, *PEERS):
        found.figures.append(measured(scenario))
        found.took = time.time() - began
        # At once, so that what was measured is kept if a later scenario fails.
        SAVED.write_bytes(msgspec.json.encode(found))
    write(found, ROOT, SAVED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
