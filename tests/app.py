"""A real Almenara in a process of its own, and a client for its API."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from servers import accepts, free_port, wait_until


class Almenara:
    """`almenara serve` on a folder; it keeps port and data when it is started again."""

    def __init__(self, folder: Path, nats_url: str, **settings: str) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.program: tuple[str, ...] = ("-m", "almenara")
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if "ALMENARA" not in name},
            "ALMENARA_PLUGINS__NATS__SERVERS": f'["{nats_url}"]',
            "ALMENARA_STORAGE__DIR": str(folder / "var"),
            "ALMENARA_SERVER__PORT": str(self.port),
            **{f"ALMENARA_{name.upper()}": value for name, value in settings.items()},
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "almenara.log").read_text("utf-8", "replace")

    def start(self) -> Self:
        self.launch()
        wait_until(self.ready, "almenara")
        return self

    def launch(self) -> None:
        with (self.folder / "almenara.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "serve"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"almenara ended:\n{self.log[-2000:]}")
        if not accepts(self.port):
            return False
        return self.status("/readyz") == 200

    def status(self, path: str, **headers: str) -> int:
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return str(response.read().decode())

    def get(self, path: str) -> Any:
        return json.loads(self.text(path))

    def events(self, query: str = "") -> list[dict[str, Any]]:
        """Every event in history, oldest first."""
        lines = self.text(f"/api/events.ndjson{query}").splitlines()
        return [json.loads(line) for line in lines]

    def stored(self) -> int:
        try:
            return int(self.get("/api/health")["events_stored"])
        except OSError:
            return -1

    def wait_for_events(self, count: int, patience: float = 30.0) -> None:
        wait_until(lambda: self.stored() >= count, f"{count} events in history", patience)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "almenara", *arguments],
            env={**self.environment, "COLUMNS": "160"},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"almenara did not stop:\n{self.log[-2000:]}") from None
        return int(self.process.returncode)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
