"""The process of one source.

`python -m almenara.supervisor.child SOCKET PIPE`, started by `almenara.supervisor.source_process`.
"""

import asyncio
import contextlib
import faulthandler
import logging
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

from almenara.errors import describe_error
from almenara.hookspecs import ResourceKey
from almenara.logs import JSON_PROCESSORS
from almenara.plugins import load_source
from almenara.signals import Signal
from almenara.supervisor import protocol
from almenara.supervisor.runner import run_source
from almenara.supervisor.source_thread import create_event_loop
from almenara.supervisor.state import bound_count, shorten_error
from almenara.supervisor.watchdog import Heartbeat

BEAT: Final = 0.5
"""Seconds between messages that the event loop runs."""
BLOCKED_AFTER: Final = 1.5
FLUSH_TIMEOUT: Final = 2.0
PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")


class Connection:
    """The connection to the supervisor, on the event loop."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def send(self, message: protocol.FromChild) -> None:
        """Send a message."""
        self._writer.write(protocol.encode_frame(message))

    async def drain(self) -> None:
        """Wait until everything is sent; while the bus cannot write, that takes long."""
        await self._writer.drain()


class Calls:
    """Calls to the supervisor that wait for a reply."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}
        self._last = 0

    async def call(self, make: Callable[[int], protocol.FromChild]) -> bytes | None:
        """Send the message that `make` returns for a call number, and return the reply.

        Raises `ValueError` where the supervisor refuses.
        """
        self._last += 1
        number = self._last
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self.connection.send(make(number))
            await self.connection.drain()
            return await future
        finally:
            del self._waiting[number]

    def resolve(self, reply: protocol.Reply) -> None:
        """Hand a reply to its call."""
        future = self._waiting.get(reply.call)
        if future is None or future.done():
            return
        if reply.error is not None:
            future.set_exception(ValueError(reply.error))
        else:
            future.set_result(reply.value)


class RemoteContext:
    """`hookspecs.Context`, answered by the supervisor."""

    def __init__(self, calls: Calls, data_dir: Path) -> None:
        self._calls, self.data_dir = calls, data_dir

    async def load(self, key: str) -> bytes | None:
        return await self._calls.call(lambda number: protocol.Load(call=number, key=key))

    async def save(self, key: str, value: bytes) -> None:
        await self._calls.call(lambda number: protocol.Save(call=number, key=key, value=value))

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        reply = await self._calls.call(
            lambda number: protocol.ListResources(call=number, source=source, kind=kind)
        )
        return msgspec.msgpack.decode(reply or b"\x90", type=list[ResourceKey])


class RemoteReport:
    """`hookspecs.SourceReport`, sent to the supervisor."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def degraded(self, reason: str) -> None:
        self._connection.send(protocol.Report(what="degraded", value=shorten_error(reason)))

    def recovered(self) -> None:
        self._connection.send(protocol.Report(what="recovered"))

    def lag(self, messages: int) -> None:
        self._connection.send(protocol.Report(what="lag", value=bound_count(messages)))

    def rejected(self, count: int = 1) -> None:
        self._connection.send(protocol.Report(what="rejected", value=bound_count(count)))


async def serve_source(sock: socket.socket, blocked_pipe: int) -> None:
    """Run the source that the supervisor names, until it is stopped or the supervisor is lost.

    `blocked_pipe` is the descriptor of a pipe to which a second thread writes while the loop is
    blocked: the socket belongs to the loop.
    """
    reader, writer = await asyncio.open_connection(sock=sock)
    connection = Connection(writer)
    try:
        await _run(reader, connection, blocked_pipe)
    except Exception as error:
        connection.send(protocol.Exit(error=describe_error(error, with_type=True)))
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(FLUSH_TIMEOUT):
            await connection.drain()
            writer.close()
            await writer.wait_closed()


def configure_child_logging(level: str) -> None:
    """Log as JSON to standard error, which is the supervisor's; `level` as in `log.level`."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *JSON_PROCESSORS,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


async def _run(reader: asyncio.StreamReader, connection: Connection, blocked_pipe: int) -> None:
    start = await protocol.read_to_child(reader)
    if not isinstance(start, protocol.Start):
        raise TypeError(f"{type(start).__name__} was received before Start")
    configure_child_logging(start.log_level)
    heartbeat = Heartbeat()
    heartbeat.start(count_tasks=True)
    calls = Calls(connection)
    watchdog = threading.Thread(target=_report_blocks, args=(heartbeat, blocked_pipe), daemon=True)
    source = load_source(
        start.plugin, start.source, start.settings, start.plugins_dir,
        RemoteContext(calls, start.data_dir),
    )  # fmt: skip

    async def publish(batch: Sequence[Signal]) -> None:
        signals = protocol.to_wire(batch)
        await calls.call(lambda number: protocol.Publish(call=number, signals=signals))

    running = asyncio.create_task(run_source(source, publish, RemoteReport(connection)))
    listening = asyncio.create_task(_listen(reader, calls))
    beating = asyncio.create_task(_beat(heartbeat, connection))
    watchdog.start()
    done, _ = await asyncio.wait([running, listening], return_when=asyncio.FIRST_COMPLETED)
    if running in done and not listening.done():
        error = None if running.cancelled() else running.exception()
        text = describe_error(error, with_type=True) if error else None
        connection.send(protocol.Exit(error=text))
    else:
        running.cancel()
        await asyncio.wait([running])
    for task in (listening, beating):
        task.cancel()
    await asyncio.wait([listening, beating])


async def _listen(reader: asyncio.StreamReader, calls: Calls) -> None:
    """Hand out replies, until the supervisor sends `Stop` or is lost."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while isinstance(message := await protocol.read_to_child(reader), protocol.Reply):
            calls.resolve(message)


async def _beat(heartbeat: Heartbeat, connection: Connection) -> None:
    while True:
        connection.send(
            protocol.Alive(
                tasks=heartbeat.tasks,
                commonest_task=heartbeat.commonest_task(),
                memory=resident_memory(),
            )
        )
        await asyncio.sleep(BEAT)


def _report_blocks(heartbeat: Heartbeat, blocked_pipe: int) -> None:
    """Send where the loop is blocked, while it is; runs in a thread of its own."""
    with contextlib.suppress(OSError):
        while True:
            time.sleep(BEAT)
            if (seconds := heartbeat.blocked_for()) > BLOCKED_AFTER:
                message = protocol.Blocked(seconds=seconds, stack=heartbeat.stack())
                os.write(blocked_pipe, protocol.encode_frame(message))


def resident_memory() -> int:
    """Resident bytes of this process; 0 where /proc is not available."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE
    except (OSError, IndexError, ValueError):
        return 0


def main(arguments: Sequence[str]) -> None:
    # After a crash in C, the log has the Python calls that led to it.
    faulthandler.enable()
    with asyncio.Runner(loop_factory=create_event_loop) as runner:
        runner.run(serve_source(socket.socket(fileno=int(arguments[0])), int(arguments[1])))
        sys.stderr.flush()
        # Threads that the source has left running must not keep the process alive.
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
