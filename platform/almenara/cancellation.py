"""Cancellation that a library may swallow, and time limits of cleanup after it."""

import asyncio
from collections.abc import Awaitable, Collection, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


async def honor_cancellation(call: Awaitable[T]) -> T:
    """Await a call of a library; raise `CancelledError` if the library swallowed a cancellation.

    `asyncio.wait_for` of Python 3.11 swallows one that arrives when the awaited call is just done
    (python/cpython#86296): a source that calls such a library would never end.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await call
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


async def run_in_task(call: Coroutine[Any, Any, T]) -> T:
    """Await a call in a task of its own, so that a cancellation of the caller is always raised.

    A task group of Python before 3.13 swallows one that arrives while it ends because of an error
    (python/cpython#116720). A loop that runs a group again after errors would never end.
    """
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait([task])
    finally:
        if not task.done():
            await cancel_and_wait(task)
    return task.result()


async def cancel_and_wait(task: "asyncio.Future[Any]") -> None:
    """Cancel a task and wait for its end, even if the caller is cancelled meanwhile; then
    `CancelledError` is raised after that end."""
    task.cancel()
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError


async def cancel_all(tasks: Collection["asyncio.Task[Any]"], patience: float) -> None:
    """Cancel tasks and wait for their ends. Those that go on after `patience` seconds have lost the
    cancellation in a library, and are cancelled again."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=patience)
        if pending:
            log.warning("tasks do not stop", tasks=sorted(task.get_name() for task in pending))


async def finish_within(seconds: float, call: Awaitable[T]) -> T:
    """Await the cleanup of a task that may be cancelled; raise `TimeoutError` after `seconds`.

    Inside a cancelled task `asyncio.timeout` of Python 3.11.0 to 3.11.2 raises `CancelledError` in
    place of `TimeoutError` (python/cpython#102780), so that what follows a timeout is skipped.
    """
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            # A library that swallows the cancellation too is abandoned.
            await asyncio.wait({task}, timeout=seconds)
    if not done:
        raise TimeoutError
    return task.result()


async def complete_within(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """Await a call that has an effect elsewhere, whose result must not be lost: a cancellation is
    raised once it has completed, or `seconds` later."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        # Its own error is of no interest to the caller any more.
        with suppress(Exception):
            await finish_within(seconds, task)
        raise
    return task.result()
