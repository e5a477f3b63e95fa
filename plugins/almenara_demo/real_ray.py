"""A real Ray head on loopback, and jobs for it, for `make run RAY=1`."""

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

MARK: Final = "ALMENARA_DEMO_RAY"
BETWEEN: Final = 6.0
JOBS: Final = (
    "python -c \"import time; [(print('step', it), time.sleep(1)) for it in range(8)]\"",
    "python -c \"import time; time.sleep(3); raise ValueError('loss is nan at step 1840')\"",
    "for it in 1 2 3 4 5; do echo shard $it; sleep 1; done",
    "echo nothing to do",
)


def ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            found.append(int(sock.getsockname()[1]))
        return found


@contextlib.asynccontextmanager
async def real(program: Path, folder: Path) -> AsyncIterator[dict[str, Any]]:
    """A head with two processors, its token on, and a task that submits jobs to it."""
    gcs, dashboard, export, agent, grpc, client, metrics, scaler = ports(8)
    token, mark = secrets.token_hex(24), secrets.token_hex(12)
    # The paths of its sockets must be short.
    temporary = tempfile.mkdtemp(prefix="ray-")
    environment = {
        **os.environ, MARK: mark, "PATH": f"{program.parent}:{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0",
        "DASHBOARD_METRIC_PORT": str(metrics), "AUTOSCALER_METRIC_PORT": str(scaler),
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
    submitting = asyncio.create_task(submit_for_ever(url, token), name="jobs for Ray")
    try:
        yield {"name": "local", "url": url, "token": token}
    finally:
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)
        await asyncio.to_thread(end, mark)
        await process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


async def submit_for_ever(url: str, token: str) -> None:
    """Submit one job after another, once it answers, until cancelled."""
    for entrypoint in itertools.cycle(JOBS):
        with contextlib.suppress(urllib.error.URLError, OSError):
            await asyncio.to_thread(submit, url, token, entrypoint)
        await asyncio.sleep(BETWEEN)


def submit(url: str, token: str, entrypoint: str) -> None:
    """Submit a job. Raises `OSError`."""
    request = urllib.request.Request(  # noqa: S310
        f"{url}/api/jobs/", method="POST", data=json.dumps({"entrypoint": entrypoint}).encode(),
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=10):  # noqa: S310  # nosec B310 # http and https only
        pass


def end(mark: str) -> None:
    """End every process that a head has started, all of which carry its mark."""
    while found := marked(mark):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """The processes whose environment has the mark."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                if f"{MARK}={mark}".encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
    return found
