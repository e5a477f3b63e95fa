"""A source in a process of its own: the side of the supervisor."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO, Final

import msgspec
import structlog

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.sdk import finish_within
from almenara.supervisor import protocol
from almenara.supervisor.state import SourceError, SourceState

log = structlog.get_logger(__name__)

START_TIMEOUT: Final = 30.0
"""Seconds a process may take to import its plugin."""
CONCURRENT_CALLS: Final = 64
"""Calls of one child that are handled at the same time; further ones wait in the socket."""
EXPECTED_BEAT: Final = 1.0
"""Seconds between two `Alive` messages that are still normal."""


class CrashError(SourceError):
    """The process of a source ended without saying why."""


class SourceProcess:
    """One run of a source in a process."""

    def __init__(
        self,
        start: protocol.Start,
        publish: Publish,
        report: SourceReport,
        context: Context,
        state: SourceState,
    ) -> None:
        self.start, self.state = start, state
        self._publish, self._report, self._context = publish, report, context
        self.commonest_task = "none"
        self.stack: list[str] = []
        """Where its event loop is blocked, as its second thread last reported."""
        self._last_alive = time.monotonic()
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._exit: protocol.Exit | None = None
        self._has_started = False

    def blocked_for(self) -> float:
        """Seconds since the last `Alive` message, beyond those that are normal."""
        if not self._has_started:
            return 0.0
        return max(time.monotonic() - self._last_alive - EXPECTED_BEAT, 0.0)

    async def run(self, stop_timeout: float) -> None:
        """Return or raise as the source does; raise `CrashError` where the process dies.

        When cancelled, the source is stopped, and killed `stop_timeout` seconds later.
        """
        ours, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb", buffering=0) as blocked_pipe:
            try:
                # Its standard error, and so its log, is ours.
                process = self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "almenara.supervisor.child",
                    str(theirs.fileno()), str(write_end),
                    pass_fds=(theirs.fileno(), write_end), stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
                os.close(write_end)
            try:
                reader, self._writer = await asyncio.open_connection(sock=ours)
                try:
                    await self._serve(reader, blocked_pipe)
                except asyncio.CancelledError:
                    await self._stop(reader, stop_timeout)
                    raise
                await self._check_exit(process)
            finally:
                if self._writer is not None:
                    self._writer.close()
                self.kill()
                await process.wait()

    def kill(self) -> None:
        """Kill the process."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _serve(self, reader: asyncio.StreamReader, blocked_pipe: BinaryIO) -> None:
        blocks = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(blocks), blocked_pipe
        )
        reading_blocks = asyncio.create_task(self._read_blocks(blocks))
        try:
            await self._handle_messages(reader)
        except* SourceError as group:
            raise group.exceptions[0] from None
        finally:
            reading_blocks.cancel()
            transport.close()

    async def _read_blocks(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, msgspec.MsgspecError, ValueError):
            while isinstance(message := await protocol.read_from_child(reader), protocol.Blocked):
                self.stack = message.stack

    async def _check_exit(self, process: asyncio.subprocess.Process) -> None:
        if self._exit is not None:
            if self._exit.error is not None:
                raise SourceError(self._exit.error)
            return
        try:
            async with asyncio.timeout(1.0):
                code = await process.wait()
        except TimeoutError:
            raise CrashError("its process closed the connection and was killed") from None
        raise CrashError(f"its process {describe_exit(code)}; see its last lines in the log")

    async def _handle_messages(self, reader: asyncio.StreamReader) -> None:
        """Handle the messages of the child until it exits."""
        self._send(self.start)
        slots = asyncio.Semaphore(CONCURRENT_CALLS)
        async with asyncio.TaskGroup() as group:
            while self._exit is None:
                message = await self._read(reader)
                if message is None:
                    break
                match message:
                    case protocol.Report():
                        self._forward_report(message)
                    case protocol.Alive():
                        self._has_started = True
                        self._last_alive, self.stack = time.monotonic(), []
                        self.state.tasks, self.state.memory = message.tasks, message.memory
                        self.commonest_task = message.commonest_task
                    case protocol.Exit():
                        self._exit = message
                    case protocol.Blocked():
                        self.stack = message.stack
                    case _:
                        await slots.acquire()
                        group.create_task(self._answer(message, slots))

    async def _read(self, reader: asyncio.StreamReader) -> protocol.FromChild | None:
        """The next message; None once the connection is closed."""
        try:
            async with asyncio.timeout(None if self._has_started else START_TIMEOUT):
                return await protocol.read_from_child(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except TimeoutError:
            raise SourceError(
                f"its process did not import the plugin within {START_TIMEOUT:.0f} s"
            ) from None
        except (msgspec.MsgspecError, ValueError) as error:
            raise SourceError(f"its process sent a malformed message: {error}") from None

    async def _answer(
        self,
        request: protocol.Publish | protocol.Save | protocol.Load | protocol.ListResources,
        slots: asyncio.Semaphore,
    ) -> None:
        try:
            value = await self._call(request)
            encoded = msgspec.msgpack.encode(value) if isinstance(value, list) else value
            reply = protocol.Reply(call=request.call, value=encoded)
        except ValueError as error:
            # A refused batch is for the source to handle, as it would be in this process.
            reply = protocol.Reply(call=request.call, error=str(error))
        finally:
            slots.release()
        self._send(reply)

    def _call(
        self, request: protocol.Publish | protocol.Save | protocol.Load | protocol.ListResources
    ) -> Awaitable[Any]:
        match request:
            case protocol.Publish():
                return self._publish(protocol.from_wire(request.signals))
            case protocol.Save():
                return self._context.save(request.key, request.value)
            case protocol.Load():
                return self._context.load(request.key)
            case protocol.ListResources():
                return self._context.known_resources(request.source, request.kind)

    def _forward_report(self, report: protocol.Report) -> None:
        forwards: dict[str, Callable[[], None]] = {
            "degraded": lambda: self._report.degraded(str(report.value)),
            "recovered": self._report.recovered,
        }
        if isinstance(number := report.value, int):
            forwards["lag"] = lambda: self._report.lag(number)
            forwards["rejected"] = lambda: self._report.rejected(number)
        if (forward := forwards.get(report.what)) is not None:
            forward()

    def _send(self, message: protocol.ToChild) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(protocol.encode_frame(message))

    async def _stop(self, reader: asyncio.StreamReader, stop_timeout: float) -> None:
        self._send(protocol.Stop())
        try:
            await finish_within(stop_timeout, _discard(reader))
        except TimeoutError:
            log.warning(
                "a source does not stop and its process is killed",
                source=self.state.name, at=self.stack,
            )  # fmt: skip
        except ConnectionError:
            pass


async def _discard(reader: asyncio.StreamReader) -> None:
    """Discard messages up to the end of the stream, which is the end of the source."""
    while await reader.read(65_536):
        pass


def describe_exit(code: int) -> str:
    """How a process ended, as a clause: `exited with code 1`, `was killed by SIGSEGV`."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
