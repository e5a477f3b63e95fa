"""What every source would otherwise write again."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from almenara.clock import CLOCK
from almenara.sdk import (
    Backoff,
    BlockingClient,
    ExpiredError,
    blocking,
    every,
    finish_within,
    honor_cancellation,
    monotonic,
    poll,
    run_in_task,
    watch,
)
from almenara.testing import ManualClock

pytestmark = pytest.mark.anyio


class Report:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.recoveries = 0

    def degraded(self, reason: str) -> None:
        self.reasons.append(reason)

    def recovered(self) -> None:
        self.recoveries += 1

    def lag(self, messages: int) -> None: ...

    def rejected(self, count: int = 1) -> None: ...


class Story:
    """A task on a clock that the test advances."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.clock = ManualClock()
        token = CLOCK.set(self.clock)
        self.task = asyncio.create_task(work())
        CLOCK.reset(token)

    async def __aenter__(self) -> ManualClock:
        await self.clock.settle()
        return self.clock

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_every_starts_at_once_and_keeps_jitter_in_bounds() -> None:
    moments: list[float] = []

    async def work() -> None:
        async for _ in every(10, jitter=0.2):
            moments.append(monotonic())  # noqa: PERF401

    async with Story(work) as clock:
        assert moments == [0]
        await clock.advance(1000)
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert all(8 <= gap <= 12 for gap in gaps)
    assert len({round(gap, 3) for gap in gaps}) > 10


async def test_every_skips_overrun_turns() -> None:
    turns: list[float] = []

    async def work() -> None:
        from almenara.clock import sleep

        async for turn in every(10, jitter=0):
            turns.append(monotonic())
            if turn == 0:
                await sleep(35)

    async with Story(work) as clock:
        await clock.advance(60)
    assert turns == [0, 35, 45, 55]


async def test_poll_backs_off_and_recovers_at_once() -> None:
    calls: list[float] = []
    report = Report()

    async def ask() -> None:
        calls.append(monotonic())
        if 1 < len(calls) <= 5:
            raise ConnectionError("no answer")

    async with Story(lambda: poll(ask, seconds=10, report=report, limit=40)) as clock:
        await clock.advance(400)
    gaps = [after - before for before, after in itertools.pairwise(calls)]
    assert 9 <= gaps[0] <= 11
    for gap, expected in zip(gaps[1:5], (10, 20, 40, 40), strict=True):
        assert expected * 0.7 <= gap <= expected * 1.3
    assert 9 <= gaps[5] <= 11
    assert report.reasons[0].startswith("no answer (attempt 1, next in ")
    assert report.recoveries >= 2


async def test_poll_raises_permanent_errors() -> None:
    async def ask() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await poll(ask, seconds=1)


def test_backoff_never_overflows() -> None:
    backoff = Backoff(1.0, 60.0, jitter=0)
    assert [backoff.failed() for _ in range(8)][-2:] == [60.0, 60.0]
    backoff.failures = 100_000
    assert backoff.failed() == 60.0


async def test_blocking_returns_result_or_error_of_the_thread() -> None:
    here = threading.get_ident()
    assert await blocking(threading.get_ident) != here

    def fail() -> None:
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there"):
        await blocking(fail)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await blocking(lambda: next(iter(())))


async def test_blocking_client_stays_in_one_thread() -> None:
    threads: list[int] = []
    closed = threading.Event()

    def make() -> list[int]:
        threads.append(threading.get_ident())
        return threads

    def close(client: list[int]) -> None:
        client.append(threading.get_ident())
        closed.set()

    async with BlockingClient(make, close=close) as client:
        for _ in range(3):
            await client.call(lambda it: it.append(threading.get_ident()))
    assert closed.wait(5)
    assert len(threads) == 5
    assert len(set(threads)) == 1


async def test_blocking_client_abandons_a_hanging_call() -> None:
    made: list[int] = []
    release = threading.Event()
    async with BlockingClient(lambda: made.append(1) or len(made)) as client:
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.call(lambda _: release.wait(30))
        assert time.monotonic() - started < 25, "the call takes 30 s"
        assert await client.call(lambda number: number) == 2
    release.set()


class Upstream:
    """A system that can be listed and watched, with a script of its answers."""

    def __init__(self, *acts: Any) -> None:
        self.acts = list(acts)
        self.lists: list[float] = []
        self.watches: list[tuple[int, float]] = []
        self.accepted: list[int] = []

    async def list_all(self) -> int:
        self.lists.append(monotonic())
        return 100 * len(self.lists)

    async def changes(self, after: int) -> AsyncIterator[tuple[int, int]]:
        self.watches.append((after, monotonic()))
        act = self.acts.pop(0) if self.acts else None
        if isinstance(act, Exception):
            raise act
        for item in act or ():
            yield item, item
        if act is None:
            from almenara.clock import sleep

            await sleep(10_000)

    async def accept(self, item: int) -> None:
        self.accepted.append(item)


async def followed(upstream: Upstream, **options: Any) -> Report:
    report = Report()

    async def work() -> None:
        await watch(upstream.list_all, upstream.changes, upstream.accept, report=report, **options)

    async with Story(work) as clock:
        await clock.advance(1000)
    return report


async def test_watch_continues_from_last_accepted_position() -> None:
    upstream = Upstream([101, 102], ConnectionError("reset"), [103])
    report = await followed(upstream)
    assert [after for after, _ in upstream.watches] == [100, 102, 102, 103]
    assert upstream.accepted == [101, 102, 103]
    assert len(upstream.lists) == 1
    assert report.reasons[0].startswith("reset; next retry in ")


async def test_watch_lists_again_after_expiry_with_backoff() -> None:
    upstream = Upstream([101], *[ExpiredError() for _ in range(6)])
    await followed(upstream)
    assert len(upstream.lists) == 7
    gaps = [after - before for before, after in zip(upstream.lists, upstream.lists[1:],
                                                    strict=False)]  # fmt: skip
    assert gaps[-1] > gaps[1]


async def test_watch_pauses_when_every_watch_ends_at_once() -> None:
    upstream = Upstream(*[[] for _ in range(500)])
    await followed(upstream)
    moments = [moment for _, moment in upstream.watches]
    assert len(moments) < 60
    assert moments[9] > 20


async def test_watch_resumes_without_listing() -> None:
    upstream = Upstream([8])
    await followed(upstream, resume=7)
    assert upstream.watches[0][0] == 7
    assert upstream.lists == []


@pytest.mark.parametrize("end", [None, TimeoutError()])
async def test_swallowed_cancellation_is_honored(end: Exception | None) -> None:
    async def swallow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if end is not None:
                raise end from None

    async def loop() -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await honor_cancellation(swallow())

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()


async def test_honor_cancellation_returns_result_after_a_failed_group() -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError

    with contextlib.suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
    assert await honor_cancellation(asyncio.sleep(0, 7)) == 7


async def test_finish_within_limits_the_cleanup_of_a_cancelled_task() -> None:
    outcomes: list[str] = []

    async def clean_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            outcomes.append("cancelled")

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            try:
                await finish_within(0.01, clean_up())
            except TimeoutError:
                outcomes.append("timed out")
            outcomes.append(await finish_within(60, asyncio.sleep(0, "finished")))

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcomes == ["cancelled", "timed out", "finished"]


async def test_cancellation_swallowed_by_an_ending_group_is_raised() -> None:
    is_ending, may_end = asyncio.Event(), asyncio.Event()

    async def close() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            is_ending.set()
            await may_end.wait()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(close())
            group.create_task(fail())

    async def loop() -> None:
        while True:
            with contextlib.suppress(ExceptionGroup):
                await run_in_task(run())

    task = asyncio.create_task(loop())
    await is_ending.wait()
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait([task], timeout=1)
    assert task.cancelled()
