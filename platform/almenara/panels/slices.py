"""Long work on the event loop in slices, so that no viewer waits for the panel of another."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")

SLICE: Final = 0.005
"""Seconds after which others get a turn on the event loop."""


async def map_in_slices(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[function(item) for item in items]`, with turns for others in between."""
    results: list[R] = []
    started = time.perf_counter()
    for item in items:
        results.append(function(item))
        if time.perf_counter() - started > SLICE:
            await asyncio.sleep(0)
            started = time.perf_counter()
    return results
