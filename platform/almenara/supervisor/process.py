"""Running a source in a process of its own: the side of the supervisor."""

import asyncio
import contextlib
import os
import signal as signals
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO, Final

import msgspec
import structlog

from almenara.hookspecs import Context, Publish, SourceReport
from almenara.supervisor import protocol
from almenara.supervisor.state import SourceError, SourceState

log = structlog.get_logger(__name__)

START_TIMEOUT: Final = 30.0
"""Seconds a process may take to import its plugin."""
AT_ONCE: Final = 64
"""Calls of one child that are worked on at a time; more wait in the socket."""


class CrashError(SourceError):
    """The process of a source ended without a word."""


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
        self.newest_task = "none"
        self._beat = time.monotonic()
        self._stack: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ended: protocol.Ended | None = None
        self._started = False

    @property
    def stack(self) -> list[str]:
        """Where the process stands still, as its second thread last said."""
        return self._stack

    def still(self) -> float:
        """Seconds since the last sign of life beyond those that are usual."""
        if not self._started:
            return 0.0
        return max(time.monotonic() - self._beat - 1.0, 0.0)

    async def run(self, stop_timeout: float) -> None:
        """Return or raise as the source does; raise `CrashError` where the process dies.

        When cancelled, the source is told to end, and killed `stop_timeout` seconds later.
        """
        ours, theirs = socket.socketpair()
        stills, still = os.pipe()
        with os.fdopen(stills, "rb", buffering=0) as told:
            try:
                # Its errors and log lines go where ours go.
                process = self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "almenara.supervisor.child",
                    str(theirs.fileno()), str(still),
                    pass_fds=(theirs.fileno(), still), stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )  # fmt: skip
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
                os.close(still)
            try:
                reader, self._writer = await asyncio.open_connection(sock=ours)
                try:
                    await self._attend(reader, told)
                except asyncio.CancelledError:
                    await self._stop(reader, stop_timeout)
                    raise
                await self._look_at_end(process)
            finally:
                if self._writer is not None:
                    self._writer.close()
                self.kill()
                await process.wait()

    async def _attend(self, reader: asyncio.StreamReader, told: BinaryIO) -> None:
        stills = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stills), told
        )
        hearing = asyncio.create_task(self._hear(stills))
        try:
            await self._converse(reader)
        except* SourceError as group:
            raise group.exceptions[0] from None
        finally:
            hearing.cancel()
            transport.close()

    async def _hear(self, stills: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, msgspec.MsgspecError, ValueError):
            while isinstance(message := await protocol.read_from_child(stills), protocol.Still):
                self._stack = message.stack

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _look_at_end(self, process: asyncio.subprocess.Process) -> None:
        if self._ended is not None:
            if self._ended.error is not None:
                raise SourceError(self._ended.error)
            return
        try:
            async with asyncio.timeout(1.0):
                code = await process.wait()
        except TimeoutError:
            raise CrashError("its process closed the connection and was ended") from None
        raise CrashError(f"its process {how_it_ended(code)}; see the log for what it wrote last")

    async def _converse(self, reader: asyncio.StreamReader) -> None:
        """Answer the child until it ends."""
        self._send(self.start)
        room = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while self._ended is None:
                try:
                    async with asyncio.timeout(None if self._started else START_TIMEOUT):
                        message = await protocol.read_from_child(reader)
                except (asyncio.IncompleteReadError, ConnectionError):
                    break
                except TimeoutError:
                    raise SourceError(
                        f"its process did not import the plugin within {START_TIMEOUT:.0f} s"
                    ) from None
                except (msgspec.MsgspecError, ValueError) as error:
                    raise SourceError(f"its process sent what is no message: {error}") from None
                match message:
                    case protocol.Published():
                        await room.acquire()
                        batch = protocol.delivered(message.signals)
                        group.create_task(self._answer(message.call, room, self._publish, batch))
                    case protocol.Saved():
                        await room.acquire()
                        group.create_task(
                            self._answer(
                                message.call, room, self._context.save, message.key, message.value
                            )
                        )
                    case protocol.Loaded():
                        await room.acquire()
                        group.create_task(
                            self._answer(message.call, room, self._context.load, message.key)
                        )
                    case protocol.KnownResources():
                        await room.acquire()
                        group.create_task(
                            self._answer(
                                message.call,
                                room,
                                self._context.known_resources,
                                message.source,
                                message.kind,
                            )
                        )
                    case protocol.Reported():
                        self._reported(message)
                    case protocol.Beat():
                        self._started = True
                        self._beat, self._stack = time.monotonic(), []
                        self.state.tasks, self.state.memory = message.tasks, message.memory
                        self.newest_task = message.newest
                    case protocol.Ended():
                        self._ended = message

    async def _answer(
        self, call: int, room: asyncio.Semaphore, work: Callable[..., Awaitable[Any]], *given: Any
    ) -> None:
        try:
            value = await work(*given)
            answer = protocol.Done(
                call=call, value=msgspec.msgpack.encode(value) if isinstance(value, list) else value
            )
        except ValueError as error:
            # A batch that cannot be taken is the source's to deal with, as it would be in here.
            answer = protocol.Done(call=call, error=str(error))
        finally:
            room.release()
        self._send(answer)

    def _reported(self, message: protocol.Reported) -> None:
        if message.what == "degraded":
            self._report.degraded(str(message.value))
        elif message.what == "recovered":
            self._report.recovered()
        elif message.what == "lag" and isinstance(message.value, int):
            self._report.lag(message.value)
        elif message.what == "rejected" and isinstance(message.value, int):
            self._report.rejected(message.value)

    def _send(self, message: protocol.ToChild) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(protocol.framed(message))

    async def _stop(self, reader: asyncio.StreamReader, stop_timeout: float) -> None:
        self._send(protocol.Stop())
        try:
            async with asyncio.timeout(stop_timeout):
                # Whatever it still says is not taken any more; its end is what is waited for.
                while await reader.read(65_536):
                    pass
        except TimeoutError:
            log.warning(
                "a source does not stop and its process is killed",
                source=self.state.name, at=self._stack,
            )  # fmt: skip
        except ConnectionError:
            pass


def how_it_ended(code: int) -> str:
    """The end of a process in words."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was ended by {signals.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
