"""Cancellation that a library may swallow."""

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
