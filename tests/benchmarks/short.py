"""A short form of every benchmark: `make bench-short`.

No speed is judged, so several run at once. It fails where a benchmark breaks, or where events,
changes or rows are lost.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.api_server import programs, why_not

HERE = Path(__file__).parent
BENCHMARKS = (
    # The longest first, so that none runs alone at the end.
    "replicas.py",
    "run.py",
    "fanout/run.py",
    "neo4j_graph.py",
    "soak/run.py",
    "hostile_viewer.py",
    "playback.py",
    "kubernetes_pages.py",
    "kubernetes_load.py",
    "chart_paint.py",
    "past_pages.py",
    "fanout/room.py",
    "sealing.py",
    "alert_rules.py",
    "formats.py",
    "counts.py",
    "history.py",
    "samples.py",
    "ray_history.py",
    "checkpoints.py",
)
NEEDS_API_SERVER = {"kubernetes_load.py"}
AT_ONCE = 3
"""They mostly wait for other programs."""
MAX_REPEATED = 2
"""Where more fail, it is not for the load."""


def run(name: str) -> int:
    """Run one benchmark, print what it prints once it has ended, and return its exit code."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, HERE / name, "--short"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(f"-- {name}: {time.monotonic() - started:.0f} s\n{done.stdout}", end="", flush=True)
    return done.returncode


def run_at_once(names: Sequence[str]) -> list[str]:
    """Run benchmarks, several at once, and return those that failed."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = {pool.submit(run, name): name for name in names}
        return [runs[each] for each in as_completed(runs) if each.result()]


def list_runnable() -> list[str]:
    """Return the benchmarks that can run here; report the others."""
    if programs() is not None:
        return list(BENCHMARKS)
    for name in NEEDS_API_SERVER:
        print(f"-- {name}: SKIPPED, {why_not().strip()}", flush=True)
    return [name for name in BENCHMARKS if name not in NEEDS_API_SERVER]


def main() -> int:
    names = list_runnable()
    failed = run_at_once(names)
    # One that passes alone depends on the load of the machine, which is a bug to fix.
    lasting = [name for name in failed if run(name)] if len(failed) <= MAX_REPEATED else failed
    print(f"benchmarks: {len(names) - len(lasting)} passed, {len(lasting)} failed,"
          f" {len(BENCHMARKS) - len(names)} skipped")  # fmt: skip
    if flaky := [name for name in failed if name not in lasting]:
        print(f"flaky, passed when run again alone: {', '.join(flaky)}")
    if lasting:
        print(f"failed: {', '.join(lasting)}", file=sys.stderr)
    return 1 if lasting else 0


if __name__ == "__main__":
    sys.exit(main())
