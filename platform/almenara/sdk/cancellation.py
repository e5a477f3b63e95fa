"""Ending when told to, also where a library does not pass that on."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def honor_cancellation(call: Awaitable[T]) -> T:
    """What a call of a library gives, or `CancelledError` where it swallowed a cancellation.

    `asyncio.wait_for` of Python 3.11 does, where what it waits for is done at the same moment
    (python/cpython#86296): a source that calls a library that uses it would go on for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await call
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError
