"""Ends a process that does not stop, and logs what it waits for."""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

import structlog

log = structlog.get_logger(__name__)

LIMIT: Final = 20.0
"""Seconds between the end of the web server and that of the process, beside the time that sources
may take to stop."""
CALLS: Final = 12
"""Calls that are logged of each task and thread."""


class StopWatchdog:
    """Ends the process some time after `arm`, unless the block has ended before.

    What is stored is safe: a process may be killed at any moment.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._has_stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._has_stopped.set()
        if self._thread is not None:
            self._thread.join()

    def arm(self) -> None:
        """Start the time limit; call it on the event loop."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._wait, args=(loop,), name="stop watchdog", daemon=True
        )
        self._thread.start()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._has_stopped.wait(self.limit):
            return
        log.critical(
            "almenara does not stop and is ended",
            seconds=self.limit,
            tasks=list_tasks(loop),
            threads=list_threads(),
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def list_tasks(loop: asyncio.AbstractEventLoop) -> dict[str, list[str]]:
    """Return what the tasks of a loop wait for: the calls of each, by its name."""
    return {task.get_name(): list_calls(task.get_coro()) for task in asyncio.all_tasks(loop)}


def list_calls(coroutine: Any) -> list[str]:
    """Return the calls of a suspended coroutine, the innermost last."""
    calls: list[str] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if frame is not None:
            calls.append(describe_call(frame))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return calls[-CALLS:]


def list_threads() -> dict[str, list[str]]:
    """Return what the other threads execute, by their names."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    threads: dict[str, list[str]] = {}
    for ident, top in sys._current_frames().items():
        calls: list[str] = []
        frame: FrameType | None = top
        while frame is not None and len(calls) < CALLS:
            calls.insert(0, describe_call(frame))
            frame = frame.f_back
        if ident != threading.get_ident():
            threads[names.get(ident, str(ident))] = calls
    return threads


def describe_call(frame: FrameType) -> str:
    """Return where a frame is: file, line and function."""
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"


def exit_on_signal() -> None:
    """Exit at once on SIGTERM, until the server handles it.

    The first process of a container has no default for it, and would go on starting.
    """

    def exit_now(number: int, frame: FrameType | None) -> NoReturn:
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, exit_now)
