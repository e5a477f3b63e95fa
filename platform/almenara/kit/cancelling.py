"""Ending when told to, also where a library did not pass it on."""

import asyncio


def heed_cancellation() -> None:
    """Raise `CancelledError` where this task was cancelled and a library swallowed that.

    `asyncio.wait_for` of Python 3.11 does, where what it waits for is done at the same moment
    (python/cpython#86296). A loop that calls into such a library would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
