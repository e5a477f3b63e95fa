"""A real Ray head on loopback with jobs to run, for `make run RAY=1`."""

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from almenara_demo.processes import find_free_ports

MARK: Final = "ALMENARA_DEMO_RAY"
"""Environment variable by which the processes of a head are recognized."""
INTERVAL: Final = 6.0
"""Seconds between submissions."""
ENTRYPOINTS: Final = (
    "python -c \"import time; [(print('step', n), time.sleep(1)) for n in range(8)]\"",
    "python -c \"import time; time.sleep(3); raise ValueError('loss is nan at step 1840')\"",
    "for n in 1 2 3 4 5; do echo shard $n; sleep 1; done",
    "echo nothing to do",
)


@contextlib.asynccontextmanager
async def run_real_cluster(program: Path, folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Run a head with two CPUs and a token, and submit jobs to it; yields its settings for the Ray
    plugin."""
    gcs, dashboard, export, agent, grpc, client, metrics, autoscaler = find_free_ports(8)
    token, mark = secrets.token_hex(24), secrets.token_hex(12)
    # Ray puts Unix sockets below it, whose paths must be short.
    temporary = tempfile.mkdtemp(prefix="ray-")
    environment = {
        **os.environ, MARK: mark, "PATH": f"{program.parent}:{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0",
        "DASHBOARD_METRIC_PORT": str(metrics), "AUTOSCALER_METRIC_PORT": str(autoscaler),
    }  # fmt: skip
    command = [
        str(program), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0",
        "--object-store-memory=78643200", "--node-ip-address=127.0.0.2", f"--port={gcs}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--metrics-export-port={export}", f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={grpc}", f"--ray-client-server-port={client}",
        "--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={temporary}",
        "--disable-usage-stats",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{dashboard}"
    with (folder / "ray.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    submissions = asyncio.create_task(submit_jobs(url, token), name="jobs for Ray")
    try:
        yield {"name": "local", "url": url, "token": token}
    finally:
        submissions.cancel()
        await asyncio.gather(submissions, return_exceptions=True)
        await asyncio.to_thread(kill_marked_processes, mark)
        await process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


async def submit_jobs(url: str, token: str) -> None:
    """Submit one job after another until cancelled; errors, as before the head is up, are
    ignored."""
    for entrypoint in itertools.cycle(ENTRYPOINTS):
        with contextlib.suppress(urllib.error.URLError, OSError):
            await asyncio.to_thread(submit_job, url, token, entrypoint)
        await asyncio.sleep(INTERVAL)


def submit_job(url: str, token: str, entrypoint: str) -> None:
    """Submit a job. Raises `OSError`."""
    request = urllib.request.Request(  # noqa: S310
        f"{url}/api/jobs/", method="POST", data=json.dumps({"entrypoint": entrypoint}).encode(),
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=10):  # noqa: S310  # nosec B310 # http only
        pass


def kill_marked_processes(mark: str) -> None:
    """Kill all processes that a head has started, until none is left."""
    while pids := find_marked_processes(mark):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def find_marked_processes(mark: str) -> list[int]:
    """Return the ids of the processes that have the mark in their environment."""
    pids = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            # A process may exit meanwhile, or belong to another user.
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():
                    pids.append(int(path.name))
    return pids
