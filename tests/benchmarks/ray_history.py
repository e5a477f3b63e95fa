"""What the Ray panels take with ten past jobs and with a hundred thousand: `make bench-ray`.

`--short` compares with two thousand. It fails where a panel has no content.
"""

import asyncio
import statistics
import sys
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

SHORT = "--short" in sys.argv
MANY = 2_000 if SHORT else 100_000
BATCH = 5_000
REPEATS = 2 if SHORT else 30
LOG = "\n".join(f"step {number} loss 0.{number:04d}" for number in range(60))


def make_past_jobs(many: int) -> Sequence[list[Signal]]:
    """Batches of the events of jobs of two clusters; the small one has one job in a thousand."""
    large, small = ClusterState("large", SavedState()), ClusterState("small", SavedState())
    begin = now() - many * 20_000_000
    batches = []
    for start in range(0, many, BATCH):
        batch: list[Signal] = []
        for number in range(start, min(start + BATCH, many)):
            cluster = small if number % 1000 == 500 or (many < 1000 and number == 5) else large
            status = "FAILED" if number % 20 == 0 else "SUCCEEDED"
            submitted = begin + number * 20_000_000
            submission = Job(
                id=f"job-{number:06d}", status=status, submitted=submitted,
                ended=submitted + 60_000_000, entrypoint=f"python train.py --run {number % 7}",
            )  # fmt: skip
            end = Transition(job=submission, event=status.lower(), time=submission.ended or 0)
            if status == "FAILED":
                end.log, end.reason = LOG, "ValueError: loss is nan"
            submit = Transition(job=submission, event="submitted", time=submitted)
            signals = cluster.job_signals([submit, end])
            batch += [signal for signal in signals if isinstance(signal, Event)]
        batches.append(batch)
    return batches


async def measure_median(render: Callable[[], Awaitable[object]]) -> float:
    took = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        content = await render()
        took.append((time.perf_counter() - started) * 1000)
        assert content
    return statistics.median(took)


async def measure(many: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedBus(StorageSettings(dir=Path(folder))) as bus:
            for batch in make_past_jobs(many):
                await bus.publish(batch, "ray/large")
            view = View(
                bus=bus, history=History(bus), resources=Resources(),
                sources=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
                log_feeds=LogFeeds(),
            )  # fmt: skip
            data: DataView = PanelDataView(view)
            deep = str(await bus.read(lambda connection: connection.execute(
                "SELECT max(sequence) / 2 FROM events").fetchone()[0]))  # fmt: skip
            settings = RaySettings()
            panels = {
                "jobs": lambda: prepare_jobs(data, {}),
                "failed jobs": lambda: prepare_jobs(data, {"status": "FAILED"}),
                "jobs of a small cluster": lambda: prepare_jobs(data, {"namespace": "small"}),
                "jobs halfway down": lambda: prepare_jobs(data, {"before": deep}),
                "jobs with a word": lambda: prepare_jobs(data, {"text": "nan"}),
                "timeline": lambda: prepare_timeline(data, {"span": "1h"}),
                "one job": lambda: prepare_job(
                    settings, data, {"namespace": "large", "name": f"job-{many // 4 * 2:06d}"}
                ),
            }  # fmt: skip
            return {name: await measure_median(render) for name, render in panels.items()}


def main() -> None:
    few, many = (asyncio.run(measure(count)) for count in (10, MANY))
    print(f"{f'median of {REPEATS}, in ms':28}{'10 jobs':>10}{f'{MANY:,}':>10}{'ratio':>8}")
    for name, took in few.items():
        print(f"{name:28}{took:10.1f}{many[name]:10.1f}{many[name] / took:8.1f}")


if __name__ == "__main__":
    main()
