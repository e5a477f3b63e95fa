"""A real Almenara in a process of its own, and a client for its API."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from support.servers import free_port, wait_until


def program() -> list[str]:
    """The command that starts it: `ALMENARA_COMMAND`, or the module of this Python."""
    own = os.environ.get("ALMENARA_COMMAND")
    return [own] if own else [sys.executable, "-m", "almenara"]


class Almenara:
    """`almenara serve` on a folder; it keeps port and data when it is started again.

    `config` is written to a configuration file; without it the environment configures everything.
    `settings` are variables of the environment in both cases. `serve` replaces the command, to
    start it in another root for example.
    """

    def __init__(
        self,
        folder: Path,
        nats_url: str = "",
        *,
        config: dict[str, Any] | None = None,
        serve: Sequence[str] = (),
        **settings: str,
    ) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.program, self.address = program(), "127.0.0.1"
        if nats_url:
            settings["plugins__nats__servers"] = f'["{nats_url}"]'
        if config is None:
            self.port = free_port()
            settings = {
                "storage__dir": str(folder / "var"),
                "server__port": str(self.port),
                **settings,
            }
        else:
            config = {"storage": {"dir": str(folder / "var")}, **config}
            server = {"port": free_port(), **config.get("server", {})}
            self.port = server["port"]
            if server.get("host") not in (None, "0.0.0.0", "::"):
                self.address = server["host"]
            file = folder / "almenara.yaml"
            file.write_text(yaml.safe_dump({**config, "server": server}), "utf-8")
            self.program += ["--config", str(file)]
        self.serve = serve or [*self.program, "serve"]
        self.environment = {
            **{name: value for name, value in os.environ.items() if "ALMENARA" not in name},
            **{f"ALMENARA_{name.upper()}": value for name, value in settings.items()},
        }

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    @property
    def session_cookie(self) -> str:
        """The name of the session cookie, over http."""
        return f"almenara-{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "almenara.log").read_text("utf-8", "replace")

    def start(self) -> Self:
        self.launch()
        wait_until(self.ready, "almenara", 60)
        return self

    def launch(self) -> None:
        with (self.folder / "almenara.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.serve, env=self.environment, stdout=log, stderr=log
            )

    def ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"almenara ended:\n{self.log[-2000:]}")
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

    def text(self, path: str, headers: Mapping[str, str] | None = None) -> str:
        request = urllib.request.Request(self.url + path, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Any:
        return json.loads(self.text(path, headers) if headers else self.text(path))

    def events(
        self, query: str = "", headers: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Every event in history, oldest first."""
        path = f"/api/events.ndjson{query}"
        lines = (self.text(path, headers) if headers else self.text(path)).splitlines()
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
            [*self.program, *arguments],
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
        """Stop it with SIGTERM and return its exit code."""
        if self.process is None:
            return 0
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
