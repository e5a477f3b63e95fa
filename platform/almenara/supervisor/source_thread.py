"""A source on an event loop of its own, in a thread of its own."""

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from almenara.errors import describe_error
from almenara.hookspecs import Publish
from almenara.signals import Signal
from almenara.supervisor.state import SourceError
from almenara.supervisor.watchdog import Heartbeat

log = structlog.get_logger(__name__)

LEFTOVER_TIMEOUT: Final = 1.0
"""Seconds that tasks which a source has left running have to end."""

Work = Callable[[Publish], Coroutine[Any, Any, None]]


class BlockedError(SourceError):
    """Raised inside a source that blocks its event loop, to end it."""

    def __init__(self) -> None:
        super().__init__(
            "it blocked its event loop and was interrupted; blocking calls belong in"
            " almenara.sdk.blocking or BlockingClient"
        )


class AbandonedError(SourceError):
    """A source did not end when it was stopped; its thread is abandoned."""


def create_event_loop() -> asyncio.AbstractEventLoop:
    """A uvloop where it is installed, else the event loop of asyncio."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def call_on_loop(
    home: asyncio.AbstractEventLoop, call: Callable[..., Awaitable[Any]]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The same call, made from the loop of another thread and run on `home`."""

    async def forward(*arguments: Any) -> Any:
        if asyncio.get_running_loop() is home:
            return await call(*arguments)

        async def run() -> Any:
            return await call(*arguments)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), home))

    return forward


class SourceThread:
    """One run of a source in a thread."""

    def __init__(self, name: str, work: Work, publish: Publish, heartbeat: Heartbeat) -> None:
        self.name, self.heartbeat = name, heartbeat
        self._work = work
        self._home = asyncio.get_running_loop()
        self._publish_at_home = call_on_loop(self._home, publish)
        self._result: asyncio.Future[None] = self._home.create_future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self.abandoned = False
        self._thread = threading.Thread(target=self._main, name=f"source {name}", daemon=True)

    async def run(self, stop_timeout: float) -> None:
        """Return or raise as the source does.

        When cancelled, the source is cancelled; if it has not ended `stop_timeout` seconds later,
        it is abandoned with a line in the log.
        """
        self._thread.start()
        try:
            await asyncio.shield(self._result)
        except asyncio.CancelledError:
            if self._result.done():
                raise
            self.cancel()
            _, waiting = await asyncio.wait([self._result], timeout=stop_timeout)
            if waiting:
                self.abandon()
                log.warning(
                    "a source does not stop and is abandoned",
                    source=self.name,
                    at=self.heartbeat.stack(),
                )
            elif (error := self._result.exception()) is not None:
                log.warning(
                    "a source failed while it stopped",
                    source=self.name,
                    error=describe_error(error),
                )
            raise
        finally:
            if not self.abandoned:
                self.heartbeat.stop()

    def cancel(self) -> None:
        """Cancel the source."""
        self._is_cancelled = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)

    def interrupt(self) -> None:
        """Raise `BlockedError` in the thread, as soon as it executes Python code again."""
        if self._thread.is_alive() and self._thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident), ctypes.py_object(BlockedError)
            )

    def abandon(self) -> None:
        """Leave the thread alone: what it publishes from now on is refused."""
        self.abandoned = True
        self.heartbeat.stop()
        if not self._result.done():
            self._result.set_exception(
                AbandonedError(
                    "it blocked its event loop and could not be interrupted; its thread is"
                    " abandoned. Give it a process of its own: supervisor.sources."
                    f"{self.name}.isolation: process"
                )
            )
            # Marks the exception as retrieved: no task may be waiting for it any more.
            self._result.exception()

    async def _publish(self, batch: Sequence[Signal], *changes: Any) -> None:
        if self.abandoned:
            raise asyncio.CancelledError
        await self._publish_at_home(batch, *changes)

    def _main(self) -> None:
        error: BaseException | None = None
        loop = self._loop = create_event_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._run())
        except BaseException as problem:
            error = problem
        with contextlib.suppress(RuntimeError):
            self._home.call_soon_threadsafe(self._set_result, error)
        with contextlib.suppress(BaseException):
            loop.close()

    async def _run(self) -> None:
        self.heartbeat.start(count_tasks=True)
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._work(self._publish), name=self.name)
        if self._is_cancelled:
            self._task.cancel()
        try:
            await asyncio.wait([self._task])
        finally:
            leftovers = asyncio.all_tasks() - {asyncio.current_task(), self._task}
            for task in leftovers:
                task.cancel()
            if leftovers:
                _, stubborn = await asyncio.wait(leftovers, timeout=LEFTOVER_TIMEOUT)
                log.warning(
                    "a source left tasks running", source=self.name, tasks=len(leftovers),
                    still_running=len(stubborn),
                )  # fmt: skip
            await loop.shutdown_asyncgens()
        self._task.result()

    def _set_result(self, error: BaseException | None) -> None:
        if self._result.done():
            return
        if error is None:
            self._result.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            if self._is_cancelled:
                self._result.set_result(None)
            else:
                self._result.set_exception(SourceError("it cancelled itself"))
        elif isinstance(error, SystemExit | KeyboardInterrupt | StopIteration | GeneratorExit):
            name = type(error).__name__
            self._result.set_exception(SourceError(f"it raised {name}, which a source must not"))
        else:
            self._result.set_exception(error)
