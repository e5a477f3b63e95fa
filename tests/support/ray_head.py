"""A real Ray head for tests, in an environment of its own, with a token.

`make ray` installs it. A head runs what it is sent, so that it has a token even on loopback.
"""

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.paths import ROOT
from support.servers import free_port, wait_until

MARK = "ALMENARA_TEST_RAY"
STARTS = 3
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def version() -> tuple[int, ...]:
    """The version of Ray under test: the pinned one, or the one that RAY_VERSION names."""
    pinned = (ROOT / "requirements" / "ray.in").read_text().partition("==")[2]
    return tuple(map(int, (os.environ.get("RAY_VERSION") or pinned.strip()).split(".")))


def find_environment() -> Path:
    """The folder in which `make ray` has installed Ray."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "almenara" / f"ray-{'.'.join(map(str, version()))}"


def send_signal(mark: str, number: int) -> bool:
    """Send a signal to every process with a mark in its environment, which all processes of a node
    inherit; return whether there was any."""
    has_sent = False
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            text = (path / "environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in text:
            has_sent = True
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.name), number)
    return has_sent


def end_all(mark: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Kill every process with a mark, as a crash of its machine would."""

    def have_ended() -> bool:
        left = send_signal(mark, signal.SIGKILL)
        if process is not None:
            process.poll()
        return not left

    wait_until(have_ended, "the end of Ray's processes")


class RayHead:
    """`ray start --head`. A restart has the same ports, and loses all jobs unless they are stored
    in `redis`."""

    def __init__(
        self,
        folder: Path,
        cpus: int = 2,
        *,
        token: bool = True,
        redis: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.python = find_environment() / "bin" / "python"
        self.environment = environment or {}
        if not self.python.exists():
            raise RuntimeError("Ray is not installed; `make ray` installs it")
        self.folder, self.cpus, self.redis = folder, cpus, redis
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.dashboard = free_port(), free_port()
        self.others = [free_port() for _ in range(6)]
        # Tokens came with Ray 2.52.
        self.token = secrets.token_hex(24) if token and version() >= (2, 52) else ""
        self.mark = secrets.token_hex(12)
        # The paths of sockets must be short, so that none of pytest's folders would do.
        self.temporary = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard}"

    def variables(self) -> dict[str, str]:
        return {
            **os.environ,
            MARK: self.mark,
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "DASHBOARD_METRIC_PORT": str(self.others[0]),
            "AUTOSCALER_METRIC_PORT": str(self.others[1]),
            "RAY_AUTH_MODE": "token" if self.token else "disabled",
            **({"RAY_AUTH_TOKEN": self.token} if self.token else {}),
            **({"RAY_REDIS_ADDRESS": self.redis} if self.redis else {}),
            **self.environment,
        }

    def start(self) -> Self:
        """Start it, several times if needed: Ray exits when it is not up within 30 s, a limit that
        has no setting."""
        for _ in range(STARTS):
            self.starts += 1
            offset = self.log_size()
            self._launch()
            wait_until(lambda: self.ended() or self.up(offset), "the Ray head", 90)  # noqa: B023
            if not self.ended():
                return self
            end_all(self.mark, self.process)
        self.check_running()
        raise AssertionError("ray did not come up")

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def log_size(self) -> int:
        log = self.folder / "ray.log"
        return log.stat().st_size if log.exists() else 0

    def up(self, offset: int) -> bool:
        """Whether its log reports the start, from `offset` on, and it answers."""
        log = (self.folder / "ray.log").read_bytes()[offset:]
        return b"Ray runtime started" in log and self.ready()

    def _launch(self) -> None:
        export, agent, grpc, client = self.others[2:]
        # With this, a worker that lives on this machine has Ray believe that the head does too.
        (self.temporary / "ray_current_cluster").unlink(missing_ok=True)
        with (self.folder / "ray.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(self.python.with_name("ray")), "start", "--head", "--block",
                    f"--num-cpus={self.cpus}", "--num-gpus=0",
                    "--object-store-memory=78643200", "--node-ip-address=127.0.0.2",
                    f"--port={self.port}", "--dashboard-host=127.0.0.1",
                    f"--dashboard-port={self.dashboard}", f"--metrics-export-port={export}",
                    f"--dashboard-agent-listen-port={agent}",
                    f"--dashboard-agent-grpc-port={grpc}", f"--ray-client-server-port={client}",
                    f"--temp-dir={self.temporary}", "--disable-usage-stats",
                    "--min-worker-port=0", "--max-worker-port=0",
                ],
                env=self.variables(), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ready(self) -> bool:
        try:
            nodes = self.get("/api/v0/nodes")["data"]["result"]["result"]
        except OSError:
            return False
        return any(node["state"] == "ALIVE" for node in nodes)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.url + path, method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={
                "content-type": "application/json",
                **({"authorization": f"Bearer {self.token}"} if self.token else {}),
            },
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def request_patiently(self, method: str, path: str, body: Any = None) -> Any:
        """Retry until there is an answer: while a head starts, its dashboard drops connections."""
        end = time.monotonic() + 30
        while True:
            try:
                return self.request(method, path, body)
            except urllib.error.HTTPError:
                raise
            except (OSError, http.client.HTTPException):
                self.check_running()
                if time.monotonic() > end:
                    raise
            time.sleep(0.3)

    def check_running(self) -> None:
        """Raise `AssertionError` with the end of its log where it has exited."""
        if self.ended():
            log = (self.folder / "ray.log").read_text("utf-8", "replace")
            raise AssertionError(f"ray ended:\n{log[-2000:]}")

    def submit(self, entrypoint: str, **more: Any) -> str:
        # With an id, a submission that is made again is refused and not run twice.
        body = {"submission_id": f"job-{secrets.token_hex(6)}", "entrypoint": entrypoint, **more}
        end = time.monotonic() + 30
        while True:
            try:
                answer = self.request_patiently("POST", "/api/jobs/", body)
                return str(answer["submission_id"])
            except urllib.error.HTTPError as error:
                message = error.read().decode()
                if "already exists" in message:
                    return str(body["submission_id"])
                # Its agent comes up a moment after its dashboard.
                if error.code != 500 or time.monotonic() > end:
                    raise AssertionError(message) from error
                time.sleep(0.3)

    def stop_job(self, job: str) -> None:
        self.request_patiently("POST", f"/api/jobs/{job}/stop", {})

    def status(self, job: str) -> str:
        return str(self.request_patiently("GET", f"/api/jobs/{job}")["status"])

    def wait_for(self, job: str, *statuses: str, patience: float = 60) -> None:
        expected = statuses or ENDED
        wait_until(lambda: self.status(job) in expected, f"{job} to be {expected}", patience)

    def freeze(self) -> None:
        send_signal(self.mark, signal.SIGSTOP)

    def thaw(self) -> None:
        send_signal(self.mark, signal.SIGCONT)

    def kill(self) -> None:
        """Kill it and all processes it has started, as a crash of its machine would."""
        end_all(self.mark, self.process)
        if self.process is not None:
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def worker(self, resource: str) -> Iterator[None]:
        """Run a worker node with a resource of its own, which outlives its head."""
        variables = {**self.variables(), MARK: secrets.token_hex(12)}
        with (self.folder / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    str(self.python.with_name("ray")), "start", "--block",
                    f"--address=127.0.0.2:{self.port}", "--node-ip-address=127.0.0.3",
                    "--num-cpus=1", "--num-gpus=0", "--object-store-memory=78643200",
                    f"--resources={json.dumps({resource: 1})}", "--disable-usage-stats",
                    f"--metrics-export-port={free_port()}",
                    f"--dashboard-agent-listen-port={free_port()}",
                    f"--dashboard-agent-grpc-port={free_port()}",
                    "--min-worker-port=0", "--max-worker-port=0",
                ],
                env=variables, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            yield
        finally:
            end_all(variables[MARK])
            process.wait()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)
