"""A short form of every benchmark: `make bench-short`.

No speed is judged. It fails where a benchmark breaks, or where events, changes or rows are lost.
"""

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.api_server import programs, why_not

HERE = Path(__file__).parent
BENCHMARKS = (
    "run.py",
    "alert_rules.py",
    "counts.py",
    "samples.py",
    "checkpoints.py",
    "past_pages.py",
    "playback.py",
    "chart_paint.py",
    "formats.py",
    "history.py",
    "sealing.py",
    "ray_history.py",
    "kubernetes_load.py",
    "kubernetes_pages.py",
    "neo4j_graph.py",
    "hostile_viewer.py",
    "replicas.py",
    "fanout/run.py",
    "fanout/room.py",
    "soak/run.py",
)
NEEDS_API_SERVER = {"kubernetes_load.py"}


def main() -> int:
    passed, failed, skipped = 0, [], 0
    for name in BENCHMARKS:
        if name in NEEDS_API_SERVER and programs() is None:
            print(f"-- {name}: SKIPPED, {why_not().strip()}", flush=True)
            skipped += 1
            continue
        print(f"-- {name}", flush=True)
        started = time.monotonic()
        done = subprocess.run([sys.executable, HERE / name, "--short"], check=False)
        print(f"-- {name}: {time.monotonic() - started:.0f} s", flush=True)
        if done.returncode:
            failed.append(f"{name} (exit code {done.returncode})")
        else:
            passed += 1
    print(f"benchmarks: {passed} passed, {len(failed)} failed, {skipped} skipped")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
