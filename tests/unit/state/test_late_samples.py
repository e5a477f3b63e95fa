"""Samples that arrive late: in memory, flushed, and in windows that are sealed already."""

import asyncio
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from almenara.state.sample_schema import (
    DATABASE,
    HOUR_WIDTH,
    MINUTE_WIDTH,
    WINDOW,
    chunk_key,
)
from almenara.units import MILLISECOND
from support.moved_clock import MovedClock
from support.sample_runs import START, PlainSamples, Run, compare, make_sample, running

pytestmark = pytest.mark.anyio

WINDOWS = 4
PLACES = WINDOWS * 24
"""Of five minutes each, that samples are at."""
STEPS = (1_000, MINUTE_WIDTH, HOUR_WIDTH)

COUNTERS = st.tuples(
    st.lists(st.integers(0, PLACES - 1), min_size=2, max_size=14, unique=True),
    st.integers(1, PLACES),
)
"""The places of samples in the order of their arrival, and where the counter starts over."""
ACTIONS = st.lists(
    st.sampled_from(("arrive", "arrive", "arrive", "flush", "seal", "restart", "compare")),
    min_size=4, max_size=30,
)  # fmt: skip


def make_counter(places: Sequence[int], reset_at: int) -> list[tuple[int, float]]:
    """Return time and value of a counter that rises by a different number at each place."""
    steps = [0.0]
    for place in range(PLACES):
        steps.append(place % 7 + 1 + (0.0 if place == reset_at else steps[-1]))
    return [(START + place * 300_000, steps[place + 1]) for place in places]


@settings(max_examples=25, deadline=None)
@given(counter=COUNTERS, actions=ACTIONS)
def test_late_samples_count_once_in_rollups(
    counter: tuple[list[int], int], actions: list[str]
) -> None:
    asyncio.run(compare_with_plain_list(make_counter(*counter), actions))


async def compare_with_plain_list(arrivals: list[tuple[int, float]], actions: list[str]) -> None:
    plain, clock = PlainSamples(), MovedClock(START * MILLISECOND)
    clock.move((WINDOWS * WINDOW + HOUR_WIDTH) / 1_000)
    remaining = [*actions, *("arrive" for _ in arrivals), "compare", "flush", "compare", "seal",
                 "restart", "compare"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        while remaining:
            async with running(Path(folder), clock) as run:
                while remaining and (action := remaining.pop(0)) != "restart":
                    await act(run, plain, action, arrivals)


async def act(
    run: Run, plain: PlainSamples, action: str, arrivals: list[tuple[int, float]]
) -> None:
    match action:
        case "arrive" if arrivals:
            sample = make_sample(*arrivals.pop(0), "counter")
            plain.add([sample])
            await run.publish(sample)
        case "flush":
            await run.store.flush()
        case "seal":
            await run.store.flush()
            await run.store.maintain()
        case "compare":
            for step in STEPS:
                await compare(run, plain, START, WINDOWS * WINDOW, step)
                # A range that starts in a window after that of a late sample.
                await compare(run, plain, START + WINDOW, 2 * WINDOW, step)


async def rise(run: Run, step: int) -> float | None:
    """Return by how much the one counter rose, by rollups of a step."""
    answer = await run.rollups(START, START + WINDOWS * WINDOW, step)
    rises: list[Any] = [row[4] for row in answer["web"].values()]
    return None if None in rises else sum(rises)


async def test_late_sample_before_a_sealed_window_counts_its_rise_once(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    clock.move(WINDOWS * WINDOW / 1_000)
    async with running(tmp_path, clock) as run:
        await run.publish(
            make_sample(START + WINDOW - 600_000, 10.0), make_sample(START + WINDOW, 100.0)
        )
        await run.store.flush()
        await run.store.maintain()
        for is_flushed, is_sealed in ((False, False), (True, False), (True, True)):
            if not is_flushed:
                await run.publish(make_sample(START + WINDOW - 60_000, 90.0))
            if is_flushed:
                await run.store.flush()
            if is_sealed:
                await run.store.maintain()
            assert [await rise(run, step) for step in STEPS] == [90.0, 90.0, 90.0]


async def test_late_sample_of_a_removed_window_leaves_its_rollups(tmp_path: Path) -> None:
    clock = MovedClock(START * MILLISECOND)
    clock.move((WINDOWS * WINDOW + HOUR_WIDTH) / 1_000)
    async with running(tmp_path, clock) as run:
        await run.publish(
            *(make_sample(START + place * 300_000, float(place)) for place in range(PLACES))
        )
        await run.store.flush()
        await run.store.maintain()
        with closing(sqlite3.connect(tmp_path / DATABASE)) as connection, connection:
            # As a store above its size does, before samples have reached their age.
            connection.execute(
                "DELETE FROM raw WHERE key < ?", (chunk_key(START // WINDOW + 2, 0),)
            )
        before = [await run.rollups(START, run.moment, step) for step in STEPS[1:]]
        # The last of its window; the window after it has samples, which rise from what was removed.
        await run.publish(make_sample(START + 2 * WINDOW - 1, 1.0))
        for _ in range(3):
            after = [await run.rollups(START, run.moment, step) for step in STEPS[1:]]
            assert after == before
            await run.store.flush()
            await run.store.maintain()
