"""What a page as of a moment costs beside the live one: `python tests/benchmarks/past_pages.py`.

A simulated cluster of 5,000 pods, and the pages of Kubernetes: each is loaded live and as of random
moments, which are not in memory. Prints the p95 of both, the processor time of the server, which
the load of the machine changes less, and their ratios. BENCH_PODS and BENCH_LOADS change how much
is measured, BENCH_PAGES which pages, by numbers from 0; `--short` measures little and judges
nothing. It fails where a page has an error.
"""

import os
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from almenara.signals import format_time, now
from support.application import Almenara
from support.servers import wait_until
from support.simulated_kubernetes import simulated_kubernetes

SHORT = "--short" in sys.argv
PODS = int(os.environ.get("BENCH_PODS", "300" if SHORT else "5000"))
LOADS = int(os.environ.get("BENCH_LOADS", "4" if SHORT else "40"))
GOAL_SECONDS = 0.5
KUBERNETES = "/dashboards/kubernetes"
ALL_PAGES = (KUBERNETES, f"{KUBERNETES}.pods", f"{KUBERNETES}.nodes", "/")
PAGES = [ALL_PAGES[int(number)] for number in os.environ.get("BENCH_PAGES", "0 1 2 3").split()]


def load(almenara: Almenara, path: str) -> float:
    started = time.perf_counter()
    text = almenara.text(path)
    took = time.perf_counter() - started
    if "broken-panel" in text or ("at=" in path) != ('id="past-bar"' in text):
        raise SystemExit(f"{path} has an error")
    return took


def p95(seconds: list[float]) -> float:
    return sorted(seconds)[min(int(len(seconds) * 0.95), len(seconds) - 1)]


def describe(seconds: list[float]) -> str:
    return f"{median(seconds) * 1e3:.0f}, {p95(seconds) * 1e3:.0f}"


def measure_pages(almenara: Almenara, first: int) -> bool:
    is_within = True
    chance = random.Random(1)
    print(
        "| page | live p50, p95, ms | as of a moment p50, p95, ms | ratio | processor, ms | ratio |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for page in PAGES:
        live: list[float] = []
        past: list[float] = []
        processor = [0.0, 0.0]
        # In turns, so that the load of the machine counts for both.
        for _ in range(LOADS):
            moment = chance.randrange(first, now() - 1_000_000)
            for place, (took, path) in enumerate(
                ((live, page), (past, f"{page}?at={format_time(moment)}"))
            ):
                before = processor_seconds(almenara)
                took.append(load(almenara, path))
                processor[place] += processor_seconds(almenara) - before
        is_within = is_within and p95(past) <= GOAL_SECONDS
        print(
            f"| {page} | {describe(live)} | {describe(past)} |"
            f" {p95(past) / p95(live):.1f} | {processor[0] / LOADS * 1e3:.0f},"
            f" {processor[1] / LOADS * 1e3:.0f} | {processor[1] / max(processor[0], 0.01):.1f} |",
            flush=True,
        )
    return is_within


def processor_seconds(almenara: Almenara) -> float:
    assert almenara.process is not None
    fields = Path(f"/proc/{almenara.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        return measure(Path(name))


def measure(folder: Path) -> int:
    with (
        simulated_kubernetes(folder / "kubernetes", PODS) as settings,
        Almenara(
            folder / "almenara", "nats://127.0.0.1:1", plugins__disabled="[nats]",
            server__requests_per_second="100000", server__request_burst="100000",
            **settings,
        ) as almenara,
    ):  # fmt: skip
        path = "/api/resources?kind=kubernetes.pod&limit=10000"
        wait_until(lambda: len(almenara.get(path)) >= PODS * 0.95, "pods", 120)
        first = now()
        # Changes between the moments, and so states that differ.
        time.sleep(5 if SHORT else 60)
        is_within = measure_pages(almenara, first)
    print(f"goal: as of a moment at most {GOAL_SECONDS * 1e3:.0f} ms")
    return 0 if SHORT or is_within else 1


if __name__ == "__main__":
    sys.exit(main())
