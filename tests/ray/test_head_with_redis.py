"""A head that stores its state in Redis: after a kill it restarts with its jobs."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from almenara.testing.source_run import MemoryContext
from support.ray_head import RayHead
from support.ray_source import list_job_events, run_source, submit
from support.servers import accepts, free_port, wait_until

pytestmark = pytest.mark.anyio
NOTICE_LIMIT = 10.0


@contextlib.contextmanager
def run_redis(folder: Path) -> Iterator[str]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
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


async def test_head_restored_from_redis_continues_its_jobs_without_false_events(
    tmp_path: Path,
) -> None:
    with run_redis(tmp_path / "redis") as address, RayHead(tmp_path / "ray", redis=address) as head:
        context = MemoryContext(tmp_path)
        intervals = {"active_interval": 1.0, "idle_interval": 3.0, "cluster_interval": 2.0}
        with head.worker("elsewhere"):
            async with run_source(head, tmp_path, context=context, **intervals) as run:
                await run.until(
                    lambda: "lab" in run.resources and run.resources["lab"].state["nodes"] == 2, 60
                )
                on_worker = {"entrypoint_resources": {"elsewhere": 0.1}}
                done = tmp_path / "done"
                await submit(head, "true", submission_id="before")
                await submit(
                    head, f"echo started; while [ ! -e {done} ]; do sleep 0.2; done; echo over",
                    submission_id="on-the-worker", **on_worker,
                )  # fmt: skip
                await run.until(lambda: list_job_events(run, "before")[-1:] == ["succeeded"], 60)
                await run.until(
                    lambda: list_job_events(run, "on-the-worker")[-1:] == ["running"], 60
                )
                await asyncio.to_thread(head.kill)
                await run.until(lambda: run.resources["lab"].status == "down", NOTICE_LIMIT)
                # Its state is unknown meanwhile, which does not count as lost.
                assert list_job_events(run, "on-the-worker")[-1] == "running"
                await asyncio.to_thread(head.start)
                await run.until(lambda: run.resources["lab"].status == "up", NOTICE_LIMIT * 2)
                assert await asyncio.to_thread(head.status, "on-the-worker") == "RUNNING"
                done.touch()
                await run.until(lambda: list_job_events(run, "on-the-worker")[-1] != "running", 60)
                await submit(head, "true", submission_id="after")
                await run.until(lambda: list_job_events(run, "after")[-1:] == ["succeeded"], 60)
        assert list_job_events(run, "on-the-worker") == ["submitted", "running", "succeeded"]
        assert list_job_events(run, "before")[-1] == "succeeded"
        assert list_job_events(run, "before").count("succeeded") == 1
        events = [event.type for event in run.events if event.type.startswith("ray.cluster.")]
        assert sorted(set(events)) == [
            "ray.cluster.down",
            "ray.cluster.restarted",
            "ray.cluster.up",
        ]
        assert len(events) == 3 or head.starts > 2
        assert not run.bus.repeats
