"""The product as its image runs it: a command of its own environment, with a file of settings."""

import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from engine import ALMENARA

from servers import free_port, wait_until


class Product:
    """A running `almenara serve`; `command` is how to begin one, in another root for example."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        *,
        command: Sequence[str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config = {"storage": {"dir": str(folder / "var")}, **config}
        server = self.config.setdefault("server", {})
        self.port = server.setdefault("port", free_port())
        host = server.get("host", "127.0.0.1")
        self.address = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        self.file = folder / "almenara.yaml"
        self.file.write_text(yaml.safe_dump(self.config), "utf-8")
        self.command = command or [str(ALMENARA), "--config", str(self.file), "serve"]
        self.environment = {
            **{name: it for name, it in os.environ.items() if "ALMENARA" not in name},
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "almenara.log").read_text("utf-8", "replace")

    def start(self) -> Self:
        with (self.folder / "almenara.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdout=log, stderr=log
            )
        wait_until(self._ready, "almenara", 60)
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"almenara ended:\n{self.log[-3000:]}")
        return self.status("/readyz") == 200

    def status(self, path: str, **headers: str) -> int:
        try:
            request = urllib.request.Request(self.url + path, headers=headers)
            with urllib.request.urlopen(request, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return str(response.read().decode())

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of the product, with the same settings."""
        return subprocess.run(
            [str(ALMENARA), "--config", str(self.file), *arguments],
            env={**self.environment, "COLUMNS": "200"}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
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
