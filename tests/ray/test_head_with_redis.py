"""A head that keeps its state in Redis: killed, it comes back and knows its jobs."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_real_ray import following, of_job, submit

from almenara.testing.source_run import MemoryContext
from support.ray_head import RayHead
from support.servers import accepts, free_port, wait_until

pytestmark = pytest.mark.anyio
NOTICED = 10.0


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("there is no redis-server; apt-get install redis-server")
    folder.mkdir()
    port = free_port()
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder),
         "--logfile", "log"]
    )  # fmt: skip
    try:
        wait_until(lambda: accepts(port), "Redis")
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


async def test_a_head_that_is_restored_from_redis_goes_on_with_its_jobs_and_nothing_false_is_told(
    tmp_path: Path,
) -> None:
    with redis(tmp_path / "redis") as address, RayHead(tmp_path / "ray", redis=address) as head:
        context = MemoryContext(tmp_path)
        paces = {"active": 1.0, "idle": 3.0, "shape_every": 2.0}
        with head.worker("elsewhere"):
            async with following(head, tmp_path, context=context, **paces) as run:
                await run.until(
                    lambda: "lab" in run.resources and run.resources["lab"].state["nodes"] == 2, 60
                )
                on_worker = {"entrypoint_resources": {"elsewhere": 0.1}}
                done = tmp_path / "done"
                await submit(head, "true", submission_id="before")
                await submit(
                    head, f"echo begun; while [ ! -e {done} ]; do sleep 0.2; done; echo over",
                    submission_id="on-the-worker", **on_worker,
                )  # fmt: skip
                await run.until(lambda: of_job(run, "before")[-1:] == ["succeeded"], 60)
                await run.until(lambda: of_job(run, "on-the-worker")[-1:] == ["running"], 60)
                await asyncio.to_thread(head.kill)
                await run.until(lambda: run.resources["lab"].status == "down", NOTICED)
                # Nobody knows how it fares meanwhile, and it is not said to be lost.
                assert of_job(run, "on-the-worker")[-1] == "running"
                await asyncio.to_thread(head.start)
                await run.until(lambda: run.resources["lab"].status == "up", NOTICED * 2)
                assert await asyncio.to_thread(head.status, "on-the-worker") == "RUNNING"
                done.touch()
                await run.until(lambda: of_job(run, "on-the-worker")[-1] != "running", 60)
                await submit(head, "true", submission_id="after")
                await run.until(lambda: of_job(run, "after")[-1:] == ["succeeded"], 60)
        assert of_job(run, "on-the-worker") == ["submitted", "running", "succeeded"]
        assert of_job(run, "before")[-1] == "succeeded"
        assert of_job(run, "before").count("succeeded") == 1
        told = [it.type for it in run.events if it.type.startswith("ray.cluster.")]
        assert sorted(set(told)) == ["ray.cluster.down", "ray.cluster.restarted", "ray.cluster.up"]
        assert len(told) == 3 or head.starts > 2
        assert not run.bus.repeats
