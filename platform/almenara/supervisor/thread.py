"""Running a source on an event loop of its own, in a thread of its own."""

import asyncio
import contextlib
import ctypes
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

import structlog

from almenara.hookspecs import Publish
from almenara.signals import Signal
from almenara.supervisor.state import SourceError
from almenara.supervisor.watchdog import Vitals

log = structlog.get_logger(__name__)

LEFTOVERS: Final = 1.0
"""Seconds that tasks which a source left behind have to end."""

Work = Callable[[Publish], Coroutine[Any, Any, None]]


class BlockedError(SourceError):
    """Raised inside a source that blocks its event loop, to end it."""

    def __init__(self) -> None:
        super().__init__(
            "it blocked its event loop and was interrupted; blocking calls belong in"
            " almenara.sdk.blocking or BlockingClient"
        )


class AbandonedError(SourceError):
    """A source did not end when it was told to; its thread is left behind."""


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def across(
    home: asyncio.AbstractEventLoop, call: Callable[..., Awaitable[Any]]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The same call, made from another thread's loop and run on `home`."""

    async def there(*arguments: Any) -> Any:
        if asyncio.get_running_loop() is home:
            return await call(*arguments)

        async def here() -> Any:
            return await call(*arguments)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(here(), home))

    return there


class SourceThread:
    """One run of a source in a thread."""

    def __init__(self, name: str, work: Work, publish: Publish, vitals: Vitals) -> None:
        self.name, self.vitals = name, vitals
        self._work = work
        self._home = asyncio.get_running_loop()
        self._publish = across(self._home, publish)
        self._ended: asyncio.Future[None] = self._home.create_future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self.abandoned = False
        self._thread = threading.Thread(target=self._main, name=f"source {name}", daemon=True)

    async def run(self, stop_timeout: float) -> None:
        """Return or raise as the source does.

        When cancelled, the source is; one that has not ended `stop_timeout` seconds later is left
        behind, with a line in the log.
        """
        self._thread.start()
        try:
            await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            if self._ended.done():
                raise
            self.cancel()
            _, waiting = await asyncio.wait([self._ended], timeout=stop_timeout)
            if waiting:
                self.abandon()
                log.warning(
                    "a source does not stop and is left behind",
                    source=self.name,
                    at=self.vitals.stack(),
                )
            elif (error := self._ended.exception()) is not None:
                log.warning("a source failed while it stopped", source=self.name, error=str(error))
            raise
        finally:
            if not self.abandoned:
                self.vitals.stop()

    def cancel(self) -> None:
        """Ask the source to end."""
        self._cancelled = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)

    def interrupt(self) -> None:
        """Raise `BlockedError` where the thread is, as soon as it runs Python code again."""
        if self._thread.is_alive() and self._thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident), ctypes.py_object(BlockedError)
            )

    def abandon(self) -> None:
        """Leave the thread to itself: nothing it publishes from now on is taken."""
        self.abandoned = True
        self.vitals.stop()
        if not self._ended.done():
            self._ended.set_exception(
                AbandonedError(
                    "it blocked its event loop and could not be interrupted; its thread is left"
                    " behind. Give it a process of its own: supervisor.sources."
                    f"{self.name}.isolation: process"
                )
            )
            self._ended.exception()

    async def _publish_from_there(self, batch: Sequence[Signal]) -> None:
        if self.abandoned:
            raise asyncio.CancelledError
        await self._publish(batch)

    def _main(self) -> None:
        error: BaseException | None = None
        loop = self._loop = new_loop()
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._run())
        except BaseException as problem:
            error = problem
        with contextlib.suppress(RuntimeError):
            self._home.call_soon_threadsafe(self._settle, error)
        with contextlib.suppress(BaseException):
            loop.close()

    async def _run(self) -> None:
        self.vitals.start(count_tasks=True)
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._work(self._publish_from_there), name=self.name)
        if self._cancelled:
            self._task.cancel()
        try:
            await asyncio.wait([self._task])
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task(), self._task}
            for task in left:
                task.cancel()
            if left:
                _, stubborn = await asyncio.wait(left, timeout=LEFTOVERS)
                log.warning(
                    "a source left tasks behind", source=self.name, tasks=len(left),
                    stubborn=len(stubborn),
                )  # fmt: skip
            await loop.shutdown_asyncgens()
        self._task.result()

    def _settle(self, error: BaseException | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        elif isinstance(error, asyncio.CancelledError):
            if self._cancelled:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(SourceError("it ended by cancelling itself"))
        elif isinstance(error, SystemExit | KeyboardInterrupt | StopIteration | GeneratorExit):
            name = type(error).__name__
            self._ended.set_exception(SourceError(f"it raised {name}, which ends nothing here"))
        else:
            self._ended.set_exception(error)
