"""A real OpenTelemetry collector: OTLP in, batches, OTLP over HTTP to an intake.

`make collector` builds it, where Go is installed.
"""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from support.paths import TESTS
from support.servers import accepts, free_port, wait_until

BUILD = TESTS / "collector" / "build"
READY_WITHIN = 60.0


def program() -> Path | None:
    """The path of the collector, or None before it is built."""
    done = subprocess.run([BUILD, "--found"], capture_output=True, text=True, check=False)
    return Path(done.stdout.strip()) if done.returncode == 0 else None


def why_not() -> str:
    """What to do to have the program."""
    return subprocess.run([BUILD, "--found"], capture_output=True, text=True, check=False).stderr


class Collector:
    """A collector that exports to an address with a token; it retries what is refused with 503."""

    def __init__(self, folder: Path, endpoint: str, token: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        exporter = {
            "endpoint": endpoint,
            "headers": {"authorization": f"Bearer {token}"},
            "compression": "gzip",
            "retry_on_failure": {"initial_interval": "100ms", "max_interval": "1s"},
        }
        pipeline = {"receivers": ["otlp"], "processors": ["batch"], "exporters": ["otlp_http"]}
        receiver = {"protocols": {"http": {"endpoint": f"127.0.0.1:{self.port}"}}}
        config: dict[str, Any] = {
            "receivers": {"otlp": receiver},
            "processors": {"batch": {"send_batch_size": 500, "send_batch_max_size": 1_000,
                                     "timeout": "100ms"}},
            "exporters": {"otlp_http": exporter},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": dict.fromkeys(("traces", "metrics", "logs"), pipeline),
            },
        }  # fmt: skip
        self.config = folder / "collector.yaml"
        self.config.write_text(yaml.safe_dump(config))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        path = program()
        if path is None:
            raise RuntimeError(why_not())
        with (self.folder / "collector.log").open("wb") as log:
            self.process = subprocess.Popen(
                [path, "--config", f"file:{self.config}"], stdout=log, stderr=log
            )
        wait_until(self.is_ready, "the collector", READY_WITHIN)
        return self

    def is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "collector.log").read_text()[-2000:])
        return accepts(self.port)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
