"""A process that does not stop is ended, and its log has what it waits for."""

import asyncio
import json
import subprocess
import sys

import pytest

from almenara.cancellation import cancel_all
from almenara.cli.stop_watchdog import StopWatchdog

pytestmark = pytest.mark.anyio

HANGING = """
import asyncio, structlog
from almenara.cli.stop_watchdog import StopWatchdog
structlog.configure(processors=[structlog.processors.JSONRenderer()])

async def wait_forever():
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

async def main(watchdog):
    task = asyncio.create_task(wait_forever(), name="stubborn")
    watchdog.arm()
    await task

with StopWatchdog(0.5) as watchdog:
    asyncio.run(main(watchdog))
"""


def test_process_that_does_not_stop_is_ended_with_what_it_waits_for() -> None:
    result = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    entry = json.loads(result.stdout)
    calls = entry["tasks"]["stubborn"]
    assert [call.split()[-1] for call in calls] == ["wait_forever", "wait"]
    assert entry["threads"]["MainThread"]


def test_process_that_stops_in_time_is_left_alone() -> None:
    async def main(watchdog: StopWatchdog) -> None:
        watchdog.arm()
        await asyncio.sleep(0)

    with StopWatchdog(3_600) as watchdog:
        asyncio.run(main(watchdog))


async def test_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    ignored = 0

    async def lose_one() -> None:
        nonlocal ignored
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ignored += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(lose_one())
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await cancel_all([task], 0.01)
    assert task.cancelled()
    assert ignored == 1
