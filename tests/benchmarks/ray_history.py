"""What the Ray panels take with ten past jobs and with a hundred thousand.

python tests/benchmarks/ray_history.py
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from almenara.bus.embedded import EmbeddedBus
from almenara.config import PanelSettings, StorageSettings, SupervisorSettings
from almenara.history import History
from almenara.hookspecs import DataView
from almenara.live.log_feed import LogFeeds
from almenara.panels.data_view import PanelDataView
from almenara.panels.view import View
from almenara.signals import Event, Signal, now
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor
from almenara_ray.cluster_state import ClusterState
from almenara_ray.job_tracker import Transition
from almenara_ray.models import Job, SavedState
from almenara_ray.settings import RaySettings
from almenara_ray.views.job_page import prepare_job
from almenara_ray.views.jobs import prepare_jobs
from almenara_ray.views.timeline import prepare_timeline

BATCH = 5_000
REPEATS = 30
LOG = "\n".join(f"step {number} loss 0.{number:04d}" for number in range(60))


def past(many: int) -> Sequence[list[Signal]]:
    """Batches of the events of many jobs of two clusters, one of which has one in a thousand."""
    large, small = ClusterState("large", SavedState()), ClusterState("small", SavedState())
    begin = now() - many * 20_000_000
    batches = []
    for start in range(0, many, BATCH):
        batch: list[Signal] = []
        for number in range(start, min(start + BATCH, many)):
            cluster = small if number % 1000 == 500 or (many < 1000 and number == 5) else large
            status = "FAILED" if number % 20 == 0 else "SUCCEEDED"
            submitted = begin + number * 20_000_000
            it = Job(
                id=f"job-{number:06d}", status=status, submitted=submitted,
                ended=submitted + 60_000_000, entrypoint=f"python train.py --run {number % 7}",
            )  # fmt: skip
            end = Transition(job=it, event=status.lower(), time=it.ended or 0)
            if status == "FAILED":
                end.log, end.reason = LOG, "ValueError: loss is nan"
            submission = Transition(job=it, event="submitted", time=submitted)
            batch += [
                signal
                for signal in cluster.job_signals([submission, end])
                if isinstance(signal, Event)
            ]
        batches.append(batch)
    return batches


async def median(what: Callable[[], Awaitable[object]]) -> float:
    took = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        await what()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


async def measure(many: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedBus(StorageSettings(dir=Path(folder))) as bus:
            for batch in past(many):
                await bus.publish(batch, "ray/large")
            view = View(
                bus=bus, history=History(bus), resources=Resources(),
                sources=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
                log_feeds=LogFeeds(),
            )  # fmt: skip
            look: DataView = PanelDataView(view)
            deep = str(await bus.read(lambda it: it.execute(
                "SELECT max(sequence) / 2 FROM events").fetchone()[0]))  # fmt: skip
            settings = RaySettings()
            asked = {
                "jobs": lambda: prepare_jobs(look, {}),
                "failed jobs": lambda: prepare_jobs(look, {"status": "FAILED"}),
                "jobs of a small cluster": lambda: prepare_jobs(look, {"namespace": "small"}),
                "jobs halfway down": lambda: prepare_jobs(look, {"before": deep}),
                "jobs with a word": lambda: prepare_jobs(look, {"text": "nan"}),
                "timeline": lambda: prepare_timeline(look, {"span": "1h"}),
                "one job": lambda: prepare_job(
                    settings, look, {"namespace": "large", "name": f"job-{many // 4 * 2:06d}"}
                ),
            }  # fmt: skip
            return {name: await median(what) for name, what in asked.items()}


def main() -> None:
    few, many = (asyncio.run(measure(it)) for it in (10, 100_000))
    print(f"{'median of ' + str(REPEATS) + ', in ms':28}{'10 jobs':>10}{'100,000':>10}")
    for name, took in few.items():
        print(f"{name:28}{took:10.1f}{many[name]:10.1f}")


if __name__ == "__main__":
    main()
