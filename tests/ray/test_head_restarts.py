"""A head that is killed in the middle of a job and started again, and one that is frozen."""

import asyncio
import time
from pathlib import Path

import pytest
from test_real_ray import following, of_job, submit

from almenara.testing.source_run import MemoryContext
from support.ray_head import RayHead

pytestmark = pytest.mark.anyio
NOTICED = 10.0


async def test_a_killed_head_shows_as_down_and_back_in_time_and_nothing_false_is_told(
    tmp_path: Path,
) -> None:
    with RayHead(tmp_path / "ray") as head:
        context = MemoryContext(tmp_path)
        # The paces are those of the product.
        paces = {"active": 1.0, "idle": 3.0, "shape_every": 5.0}
        async with following(head, tmp_path, context=context, **paces) as run:
            await submit(head, "true", submission_id="before")
            await submit(head, "sleep 300", submission_id="long")
            await run.until(lambda: of_job(run, "before")[-1:] == ["succeeded"], 60)
            await run.until(lambda: of_job(run, "long")[-1:] == ["running"], 60)
            await run.until(lambda: bool(run.resources["lab"].state["nodes"]), 30)
            await asyncio.to_thread(head.kill)
            killed = time.monotonic()
            await run.until(lambda: run.resources["lab"].status == "down", NOTICED)
            print(f"down after {time.monotonic() - killed:.1f} s")
            assert run.is_degraded
            assert "nobody listens" in run.resources["lab"].state["reason"]
            # While it is away nobody knows how its jobs are.
            assert of_job(run, "long") == ["submitted", "running"]
            await asyncio.to_thread(head.start)
            started = time.monotonic()
            await run.until(lambda: run.resources["lab"].status == "up", NOTICED)
            print(f"up after {time.monotonic() - started:.1f} s")
            await run.until(lambda: of_job(run, "long")[-1] == "lost", NOTICED)
            await submit(head, "true", submission_id="after")
            await run.until(lambda: of_job(run, "after")[-1:] == ["succeeded"], 60)
            await run.until(
                lambda: any(it.type == "ray.cluster.restarted" for it in run.events), NOTICED
            )
        assert of_job(run, "before")[-1] == "succeeded"
        assert of_job(run, "before").count("succeeded") == 1
        assert of_job(run, "long") == ["submitted", "running", "lost"]
        told = [it.type for it in run.events if not it.type.startswith("ray.job.")]
        assert sorted(told) == ["ray.cluster.down", "ray.cluster.restarted", "ray.cluster.up"]
        assert not run.bus.repeats


async def test_a_frozen_head_shows_as_stale_within_ten_seconds(tmp_path: Path) -> None:
    with RayHead(tmp_path / "ray") as head:
        async with following(head, tmp_path, active=1.0, idle=3.0) as run:
            await run.until(
                lambda: "lab" in run.resources and run.resources["lab"].status == "up", 30
            )
            await asyncio.to_thread(head.freeze)
            frozen = time.monotonic()
            await run.until(lambda: run.resources["lab"].status in ("stale", "down"), NOTICED)
            print(f"stale after {time.monotonic() - frozen:.1f} s")
            await asyncio.to_thread(head.thaw)
            await run.until(lambda: run.resources["lab"].status == "up", NOTICED * 2)
