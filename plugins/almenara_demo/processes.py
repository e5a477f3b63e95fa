"""Child processes of the demo, the ports they listen on, and how to wait for them."""

import asyncio
import contextlib
import socket
import urllib.error
import urllib.request
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from almenara.sdk import finish_within

READY_LIMIT: Final = 30.0
"""Seconds within which a process must be ready."""
STOP_LIMIT: Final = 20.0
"""Seconds that a process has to stop after SIGTERM."""
POLL_INTERVAL: Final = 0.05
LOG_LINES: Final = 15


class DemoError(RuntimeError):
    """The demo cannot continue; the text has the reason and the remedy."""


@contextlib.asynccontextmanager
async def run_process(
    name: str,
    folder: Path,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    append: bool = False,
) -> AsyncIterator[Process]:
    """Run a process with its output in `<folder>/<name>.log`, and stop it with the block."""
    with (folder / f"{name}.log").open("ab" if append else "wb") as log:
        # In a session of its own: Ctrl-C reaches the demo alone, which stops its children in order.
        process = await asyncio.create_subprocess_exec(
            *command,
            # Open for as long as the demo runs: the Neo4j server ends with it.
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await stop_process(process)


async def stop_process(process: Process) -> None:
    """Terminate a process, and kill it where it does not stop within `STOP_LIMIT`."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await finish_within(STOP_LIMIT, process.wait())
    except TimeoutError:
        process.kill()
        await process.wait()


async def fail_on_exit(name: str, process: Process, folder: Path) -> None:
    """Wait for a process, and raise `DemoError` with the end of its log once it exits."""
    status = await process.wait()
    text = (folder / f"{name}.log").read_text("utf-8", "replace")
    lines = "\n".join(text.splitlines()[-LOG_LINES:])
    raise DemoError(f"{name} exited with status {status}. The end of its log:\n{lines}")


async def wait_until_ready(
    is_ready: Callable[[], bool], name: str, process: Process, stopping: asyncio.Event
) -> None:
    """Return once `is_ready()`; it is called in a thread.

    Raises `DemoError` where the process exits or is not ready within `READY_LIMIT`, and where the
    demo is `stopping`.
    """

    def check() -> bool:
        if process.returncode is not None:
            raise DemoError(f"{name} exited with status {process.returncode}; see its log")
        return is_ready()

    await wait_for(check, name, stopping, READY_LIMIT)


async def wait_for(
    is_ready: Callable[[], bool], name: str, stopping: asyncio.Event, limit: float
) -> None:
    """Return once `is_ready()`; it is called in a thread.

    Raises `DemoError` after `limit` seconds, and where the demo is `stopping`.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + limit
    while not await asyncio.to_thread(is_ready):
        if stopping.is_set():
            raise DemoError("interrupted")
        if clock() > deadline:
            raise DemoError(f"{name} was not ready within {limit:g} s; see its log")
        await asyncio.sleep(POLL_INTERVAL)


async def pause(seconds: float, stopping: asyncio.Event) -> bool:
    """Sleep, less where the demo is stopping; return whether it is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
    return stopping.is_set()


def locate(folder: Path, name: str) -> Path:
    """The absolute path of a name in the folder: Almenara may have another working directory."""
    return folder.absolute() / name


def check_port(port: int) -> None:
    """Raise `DemoError` where a port is in use."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            raise DemoError(
                f"Port {port} is in use. Stop the program that uses it, or choose another port:"
                " almenara demo --port 8090 (make run PORT=8090)."
            ) from None


def find_free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on, all different."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            ports.append(int(sock.getsockname()[1]))
        return ports


def accepts_connections(port: int) -> bool:
    """Return whether something listens on a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def responds(address: str) -> bool:
    """Return whether an HTTP address answers with success."""
    try:
        with urllib.request.urlopen(address, timeout=2):  # noqa: S310  # nosec B310 # http only
            return True
    except (urllib.error.URLError, OSError):
        return False
