"""The watchdog of an event loop: observes from another thread whether the loop still runs."""

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
"""Seconds between heartbeats."""
FRAMES: Final = 6
"""Calls of a stack that are shown."""
HIDDEN_FILES: Final = ("/asyncio/", "/threading.py", "/almenara/supervisor/")
"""Files whose calls in a stack are of no use to the author of a plugin."""


class Heartbeat:
    """Beats as long as the loop that it was started on runs, and counts the tasks of that loop."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = 0
        self._last_beat = time.monotonic()
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self._count = 0

    def start(self, *, count_tasks: bool) -> None:
        """Start on the loop of the calling thread."""
        self.loop, self.thread = asyncio.get_running_loop(), threading.get_ident()
        if count_tasks:
            self.loop.set_task_factory(self._create_task)  # type: ignore[arg-type, unused-ignore]
        self._beat(self.loop)

    def stop(self) -> None:
        """Stop; the loop is not observed any more."""
        self.loop = None

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._last_beat = time.monotonic()
        self._count = sum(not task.done() for task in self._tasks)
        if self.loop is loop:
            loop.call_later(BEAT, self._beat, loop)

    def _create_task(
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
        """Unfinished tasks, as of the last heartbeat."""
        return self._count

    def blocked_for(self) -> float:
        """Seconds for which the loop has been blocked; 0 where no loop is observed."""
        if self.loop is None:
            return 0.0
        return max(time.monotonic() - self._last_beat - BEAT, 0.0)

    def commonest_task(self) -> str:
        """The name of the coroutine that most tasks run, to name a leak by."""
        counts: dict[str, int] = {}
        for task in list(self._tasks):
            name = getattr(task.get_coro(), "__qualname__", "") or "a task"
            counts[name] = counts.get(name, 0) + 1
        return max(counts, key=lambda name: counts[name]) if counts else "none"

    def stack(self) -> list[str]:
        """Where the loop's thread is: `file:line in function`, innermost call last."""
        return format_stack(sys._current_frames().get(self.thread))


def format_stack(frame: FrameType | None) -> list[str]:
    """The innermost calls of a frame, without those of the machinery that runs the source."""
    calls = [
        f"{step.filename}:{step.lineno} in {step.name}"
        for step in traceback.extract_stack(frame)
        if not any(part in step.filename for part in HIDDEN_FILES)
    ]
    return calls[-FRAMES:]
