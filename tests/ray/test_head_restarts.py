"""A head that is killed during a job and started again, and one that is frozen."""

import asyncio
import time
from pathlib import Path

import pytest

from almenara.testing.source_run import MemoryContext
from support.ray_head import RayHead
from support.ray_source import list_job_events, run_source, submit

pytestmark = pytest.mark.anyio
NOTICE_LIMIT = 10.0


async def test_killed_head_is_down_and_up_in_time_without_false_events(
    tmp_path: Path,
) -> None:
    with RayHead(tmp_path / "ray") as head:
        context = MemoryContext(tmp_path)
        # The default intervals.
        intervals = {"active_interval": 1.0, "idle_interval": 3.0, "cluster_interval": 5.0}
        async with run_source(head, tmp_path, context=context, **intervals) as run:
            await submit(head, "true", submission_id="before")
            await submit(head, "sleep 300", submission_id="long")
            await run.until(lambda: list_job_events(run, "before")[-1:] == ["succeeded"], 60)
            await run.until(lambda: list_job_events(run, "long")[-1:] == ["running"], 60)
            await run.until(lambda: bool(run.resources["lab"].state["nodes"]), 30)
            await asyncio.to_thread(head.kill)
            killed = time.monotonic()
            await run.until(lambda: run.resources["lab"].status == "down", NOTICE_LIMIT)
            print(f"down after {time.monotonic() - killed:.1f} s")
            assert run.is_degraded
            assert "connection refused" in run.resources["lab"].state["reason"]
            # While it is down the state of its jobs is unknown.
            assert list_job_events(run, "long") == ["submitted", "running"]
            assert run.resources["long"].status == "unknown"
            await asyncio.to_thread(head.start)
            started = time.monotonic()
            await run.until(lambda: run.resources["lab"].status == "up", NOTICE_LIMIT)
            print(f"up after {time.monotonic() - started:.1f} s")
            await run.until(lambda: list_job_events(run, "long")[-1] == "lost", NOTICE_LIMIT)
            await submit(head, "true", submission_id="after")
            await run.until(lambda: list_job_events(run, "after")[-1:] == ["succeeded"], 60)
            await run.until(
                lambda: any(event.type == "ray.cluster.restarted" for event in run.events),
                NOTICE_LIMIT,
            )
        assert list_job_events(run, "before")[-1] == "succeeded"
        assert list_job_events(run, "before").count("succeeded") == 1
        assert list_job_events(run, "long") == ["submitted", "running", "lost"]
        other = [event.type for event in run.events if not event.type.startswith("ray.job.")]
        assert sorted(other) == ["ray.cluster.down", "ray.cluster.restarted", "ray.cluster.up"]
        assert not run.bus.repeats


async def test_frozen_head_is_stale_within_ten_seconds(tmp_path: Path) -> None:
    with RayHead(tmp_path / "ray") as head:
        async with run_source(head, tmp_path, active_interval=1.0, idle_interval=3.0) as run:
            await run.until(
                lambda: "lab" in run.resources and run.resources["lab"].status == "up", 30
            )
            await asyncio.to_thread(head.freeze)
            frozen = time.monotonic()
            await run.until(lambda: run.resources["lab"].status in ("stale", "down"), NOTICE_LIMIT)
            print(f"stale after {time.monotonic() - frozen:.1f} s")
            await asyncio.to_thread(head.thaw)
            await run.until(lambda: run.resources["lab"].status == "up", NOTICE_LIMIT * 2)
