"""Running a source in a process of its own: the side of that process.

`python -m almenara.supervisor.child SOCKET PIPE`, started by `almenara.supervisor.process`.
"""

import asyncio
import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from almenara.hookspecs import ResourceKey
from almenara.logs import AS_JSON
from almenara.plugins import load_source
from almenara.signals import Signal
from almenara.supervisor import protocol
from almenara.supervisor.start import start_source
from almenara.supervisor.state import sentence
from almenara.supervisor.thread import new_loop
from almenara.supervisor.watchdog import Vitals

BEAT: Final = 0.5
STILL: Final = 1.5
FAREWELL: Final = 2.0
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Line:
    """The connection to the supervisor, for the event loop."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def send(self, message: protocol.FromChild) -> None:
        """Send a message."""
        self._writer.write(protocol.framed(message))

    async def drain(self) -> None:
        """Wait until what was sent is on its way; while the bus cannot write, that takes long."""
        await self._writer.drain()


class Calls:
    """Calls to the supervisor that wait for its answer."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}
        self._last = 0

    async def call(self, make: Callable[[int], protocol.FromChild]) -> bytes | None:
        """The answer. Raises `ValueError` where the supervisor refuses."""
        self._last += 1
        number = self._last
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self.line.send(make(number))
            await self.line.drain()
            return await future
        finally:
            del self._waiting[number]

    def settle(self, done: protocol.Done) -> None:
        """Take an answer."""
        future = self._waiting.get(done.call)
        if future is None or future.done():
            return
        if done.error is not None:
            future.set_exception(ValueError(done.error))
        else:
            future.set_result(done.value)


class RemoteContext:
    """`hookspecs.Context`, kept by the supervisor."""

    def __init__(self, calls: Calls, data_dir: Path) -> None:
        self._calls, self.data_dir = calls, data_dir

    async def load(self, key: str) -> bytes | None:
        return await self._calls.call(lambda number: protocol.Loaded(call=number, key=key))

    async def save(self, key: str, value: bytes) -> None:
        await self._calls.call(lambda number: protocol.Saved(call=number, key=key, value=value))

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        found = await self._calls.call(
            lambda number: protocol.KnownResources(call=number, source=source, kind=kind)
        )
        return msgspec.msgpack.decode(found or b"\x90", type=list[ResourceKey])


class RemoteReport:
    """`hookspecs.SourceReport`, kept by the supervisor."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def degraded(self, reason: str) -> None:
        self._line.send(protocol.Reported(what="degraded", value=reason))

    def recovered(self) -> None:
        self._line.send(protocol.Reported(what="recovered"))

    def lag(self, messages: int) -> None:
        self._line.send(protocol.Reported(what="lag", value=messages))

    def rejected(self, count: int = 1) -> None:
        self._line.send(protocol.Reported(what="rejected", value=count))


async def live(sock: socket.socket, still: int) -> None:
    """Run the source that the supervisor names, until it says to stop or is gone.

    `still` is the descriptor of a pipe, on which a second thread tells of a loop that stands still.
    """
    reader, writer = await asyncio.open_connection(sock=sock)
    line = Line(writer)
    try:
        await _run(reader, line, still)
    except Exception as error:
        line.send(protocol.Ended(error=sentence(error)))
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(FAREWELL):
            await line.drain()
            writer.close()
            await writer.wait_closed()


async def _run(reader: asyncio.StreamReader, line: Line, still: int) -> None:
    start = await protocol.read_to_child(reader)
    if not isinstance(start, protocol.Start):
        raise TypeError(f"{type(start).__name__} came before the start")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *AS_JSON,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    vitals = Vitals()
    vitals.start(count_tasks=True)
    calls = Calls(line)
    watching = threading.Thread(target=_watch, args=(vitals, still), daemon=True)
    source = load_source(
        start.plugin, start.source, start.settings, start.plugins_dir,
        RemoteContext(calls, start.data_dir),
    )  # fmt: skip

    async def publish(batch: Sequence[Signal]) -> None:
        signals = protocol.carried(batch)
        await calls.call(lambda number: protocol.Published(call=number, signals=signals))

    running = asyncio.create_task(start_source(source, publish, RemoteReport(line)))
    listening = asyncio.create_task(_listen(reader, calls))
    beating = asyncio.create_task(_beat(vitals, line))
    watching.start()
    done, _ = await asyncio.wait([running, listening], return_when=asyncio.FIRST_COMPLETED)
    if running in done and not listening.done():
        error = None if running.cancelled() else running.exception()
        line.send(protocol.Ended(error=sentence(error) if error else None))
    else:
        running.cancel()
        await asyncio.wait([running])
    for task in (listening, beating):
        task.cancel()
    await asyncio.wait([listening, beating])


async def _listen(reader: asyncio.StreamReader, calls: Calls) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            message = await protocol.read_to_child(reader)
            if isinstance(message, protocol.Done):
                calls.settle(message)
            else:
                return


async def _beat(vitals: Vitals, line: Line) -> None:
    while True:
        line.send(protocol.Beat(tasks=vitals.tasks, newest=vitals.newest_task(), memory=resident()))
        await asyncio.sleep(BEAT)


def _watch(vitals: Vitals, still: int) -> None:
    """Say where the loop stands still, while it does."""
    with contextlib.suppress(OSError):
        while True:
            time.sleep(BEAT)
            if (seconds := vitals.still()) > STILL:
                os.write(
                    still, protocol.framed(protocol.Still(seconds=seconds, stack=vitals.stack()))
                )


def resident() -> int:
    """Bytes of memory this process holds; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError, ValueError):
        return 0


def main(arguments: Sequence[str]) -> None:
    # What a crash in C leaves in the log: the Python calls that led to it.
    faulthandler.enable()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(live(socket.socket(fileno=int(arguments[0])), int(arguments[1])))
        sys.stderr.flush()
        # Threads that a source left behind must not keep its process.
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
