"""What the past of resources takes: `python tests/benchmarks/checkpoints.py [--short]`.

Pods of a cluster with states of the size that the Kubernetes plugin publishes, and changes since
the checkpoint. Times are of the processor, of this process; the state at a moment is a median, and
is judged, except with `--short`.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from almenara.bus import Record
from almenara.config import CheckpointSettings
from almenara.signals import Resource, now
from almenara.state.checkpoints import DATABASE
from almenara.state.recorder import StateRecorder
from almenara.state.resources import Resources

GOAL_SECONDS = 0.2
REPEATS = 9


def make_pod(number: int, restarts: int) -> Resource:
    chance = random.Random(number)
    return Resource(
        kind="kubernetes.pod",
        namespace=f"team-{number % 20}",
        name=f"service-{number % 300}-{chance.getrandbits(36):x}",
        status="Running",
        origin="kubernetes",
        state={
            "labels": {"app": f"service-{number % 300}", "team": f"team-{number % 20}",
                       "pod-template-hash": f"{chance.getrandbits(36):x}"},
            "node": f"node-{chance.randrange(200)}",
            "ip": f"10.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(256)}",
            "uid": f"{chance.getrandbits(128):032x}",
            "owner": f"ReplicaSet/service-{number % 300}-{chance.getrandbits(36):x}",
            "restarts": restarts,
            "containers": [
                {"name": name, "image": f"registry.example.com/{name}@sha256:"
                 f"{chance.getrandbits(256):064x}", "ready": True, "state": "running",
                 "requests": {"cpu": 0.25, "memory": 268435456},
                 "limits": {"cpu": 1.0, "memory": 536870912}}
                for name in ("app", "proxy")
            ],
        },
    )  # fmt: skip


async def measure(folder: Path, pods: int, changes: int) -> float:
    async with StateRecorder(folder, CheckpointSettings()) as recorder:
        resources = Resources(recorder=recorder)
        resources.accept([Record(number, make_pod(number, 0)) for number in range(1, pods + 1)])
        await recorder.flush()
        started = time.process_time()
        await recorder.checkpoint(resources.present())
        written = time.process_time() - started
        for first in range(0, changes, 100):
            resources.accept(
                [
                    Record(pods + number, make_pod(number % pods + 1, number))
                    for number in range(first, first + 100)
                ]
            )
            await recorder.flush()
        took = []
        for _ in range(REPEATS):
            started = time.process_time()
            past = await resources.at(now())
            took.append(time.process_time() - started)
            assert past is not None
            assert len(past.all()) == pods
        started = time.process_time()
        await recorder.read_latest()
        latest = time.process_time() - started
    size = (folder / DATABASE).stat().st_size
    median = statistics.median(took)
    print(f"{pods:,} pods, {changes:,} changes since the checkpoint: {size / 2**20:.1f} MiB")
    print(f"checkpoint written in {written * 1e3:.0f} ms, read at a start in {latest * 1e3:.0f} ms")
    print(f"state at a moment: {median * 1e3:.0f} ms (goal: at most {GOAL_SECONDS * 1e3:.0f} ms)")
    return median


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    is_short = parser.parse_args().short
    with tempfile.TemporaryDirectory() as folder:
        pods, changes = (200, 100) if is_short else (5_000, CheckpointSettings().max_changes)
        median = asyncio.run(measure(Path(folder), pods, changes))
    return 0 if is_short or median <= GOAL_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
