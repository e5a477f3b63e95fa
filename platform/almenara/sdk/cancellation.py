"""Cancellation that a library may swallow, and time limits of cleanup after it."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

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
