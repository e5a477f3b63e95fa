"""A short form of every benchmark: `make bench-short`.

No speed is judged, so several run at once. It fails where a benchmark breaks, or where events,
changes or rows are lost.
"""

import subprocess
import sys
import time
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


def main() -> int:
    passed, failed, skipped = 0, [], 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = {}
        for name in BENCHMARKS:
            if name in NEEDS_API_SERVER and programs() is None:
                print(f"-- {name}: SKIPPED, {why_not().strip()}", flush=True)
                skipped += 1
            else:
                runs[pool.submit(run, name)] = name
        for each in as_completed(runs):
            if exit_code := each.result():
                failed.append(f"{runs[each]} (exit code {exit_code})")
            else:
                passed += 1
    print(f"benchmarks: {passed} passed, {len(failed)} failed, {skipped} skipped")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
