"""Signs of life of an event loop, seen from outside of it."""

import asyncio
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Coroutine
from types import FrameType
from typing import Any, Final

BEAT: Final = 0.25
"""Seconds between signs of life."""
FRAMES_TOLD: Final = 6
UNTOLD: Final = ("/asyncio/", "/threading.py", "/almenara/supervisor/")
"""Files whose part in a stack says nothing to the author of a plugin."""


class Vitals:
    """Beats as long as the loop it was started on moves, and counts that loop's tasks."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self._beat = time.monotonic()
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._count = 0

    def start(self, *, count_tasks: bool) -> None:
        """Begin, on the loop of the calling thread."""
        self.loop, self.thread = asyncio.get_running_loop(), threading.get_ident()
        if count_tasks:
            self.loop.set_task_factory(self._make)  # type: ignore[arg-type, unused-ignore]
        self._live(self.loop)

    def stop(self) -> None:
        """End; the loop is not looked at any more."""
        self.loop = None

    def _live(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beat = time.monotonic()
        self._count = sum(not task.done() for task in self._tasks)
        if self.loop is loop:
            loop.call_later(BEAT, self._live, loop)

    def _make(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        **options: Any,
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(coroutine, loop=loop, **options)
        self._tasks.add(task)
        return task

    @property
    def tasks(self) -> int:
        """Tasks that have not ended, as of the last sign of life."""
        return self._count

    def still(self) -> float:
        """Seconds for which the loop has not moved; 0 where there is none to look at."""
        return max(time.monotonic() - self._beat - BEAT, 0.0) if self.loop is not None else 0.0

    def newest_task(self) -> str:
        """What most of the tasks run, to name a leak by."""
        names: dict[str, int] = {}
        for task in list(self._tasks):
            name = getattr(task.get_coro(), "__qualname__", "") or "a task"
            names[name] = names.get(name, 0) + 1
        return max(names, key=lambda it: names[it]) if names else "none"

    def stack(self) -> list[str]:
        """Where the loop's thread is: `file:line in function`, the innermost call last."""
        return told(sys._current_frames().get(self.thread))


def told(frame: FrameType | None) -> list[str]:
    """The innermost calls of a frame, without those that only run what blocks."""
    found = [
        f"{step.filename}:{step.lineno} in {step.name}"
        for step in traceback.extract_stack(frame)
        if not any(part in step.filename for part in UNTOLD)
    ]
    return found[-FRAMES_TOLD:]
