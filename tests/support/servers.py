"""Real servers for tests: started on a port of the system's choice, stopped by their own id."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 20.0
EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 10_000


ISSUED: set[int] = set()
"""Ports that `free_port` has returned."""


def free_port() -> int:
    """A port without a listener that was not returned before.

    It is below those that the system chooses for connections and for port 0: while a server is
    restarted, nothing else gets its port.
    """
    end = int(EPHEMERAL_PORTS.read_text().split()[0])
    while True:
        port = LOWEST_PORT + secrets.randbelow(end - LOWEST_PORT)
        # The server that got a port may not listen on it yet.
        if port in ISSUED:
            continue
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            ISSUED.add(port)
            return port


def executable(name: str) -> str:
    """The path of a program: beside this Python, or on the PATH."""
    beside = Path(sys.executable).parent / name
    match = str(beside) if beside.exists() else shutil.which(name)
    if match is None:
        raise RuntimeError(f"{name} is not installed; `make test` installs it")
    return match


def wait_until(condition, what: str, patience: float = PATIENCE) -> None:
    """Return once `condition()` is true. Raises `AssertionError` with `what` did not happen."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience:g} s for {what}")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


class NatsServer:
    """A nats-server with JetStream; it keeps its port and its data when it is started again."""

    def __init__(self, folder: Path, max_payload: int = 16 * 1024**2) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "nats.conf"
        self.config.write_text(
            f'listen: "127.0.0.1:{self.port}"\nmax_payload: {max_payload}\n'
            f'jetstream {{ store_dir: "{folder / "data"}" }}\n'
        )

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> Self:
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [executable("nats-server"), "--config", str(self.config)], stdout=log, stderr=log
            )
        wait_until(lambda: accepts(self.port), "nats-server")
        return self

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        self.process = None

    def freeze(self) -> None:
        """Stop it where it is; it responds to nothing once this returns."""
        self.signal(signal.SIGSTOP)
        assert self.process is not None
        # The signal takes a moment, in which it may still respond.
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is None:
            return
        self.thaw()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
