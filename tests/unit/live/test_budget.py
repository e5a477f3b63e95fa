"""What one user may take of the event loop, and what an event costs with many live filters."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import PanelSettings, StorageSettings, SupervisorSettings
from almenara.errors import LimitExceeded
from almenara.history import Filter, History
from almenara.history.filter import forget_search_texts
from almenara.live.budget import BURST, LOOP_SHARE, UserBudget, run_within
from almenara.live.frames import Frame
from almenara.live.hub import Hub
from almenara.live.log_feed import LogFeeds
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.slices import SLICE
from almenara.panels.view import View
from almenara.signals import Event
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor

pytestmark = pytest.mark.anyio


class Peer:
    """A connection that takes everything."""

    waiting = 0

    def write(self, frame: Frame) -> None:
        """Drop the frame."""

    def end(self) -> None:
        """There is nothing to close."""


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        view = View(
            bus=bus, history=History(bus), resources=Resources(),
            sources=Supervisor(bus, SupervisorSettings()),
            settings=PanelSettings(channels_per_user=4), log_feeds=LogFeeds(),
        )  # fmt: skip
        renderer = Renderer()
        hub = Hub(view, PanelRegistry(renderer), renderer)
        hub.start()
        yield hub
        await hub.close()


async def test_user_gets_no_more_channels_over_all_connections(hub: Hub) -> None:
    first, second = hub.connect(Peer(), "ada"), hub.connect(Peer(), "ada")
    await hub.subscribe(first, ["events?text=a", "events?text=b", "strip"], None)
    # A channel that the user has already costs nothing more.
    await hub.subscribe(second, ["events?text=a", "strip", "strip", "events?text=c"], None)
    with pytest.raises(LimitExceeded, match="4 live panels"):
        await hub.subscribe(second, ["events?text=d"], None)
    other = hub.connect(Peer(), "grace")
    await hub.subscribe(other, ["events?text=d"], None)
    hub.disconnect(first)
    await hub.subscribe(second, ["events?text=d"], None)
    hub.disconnect(second)
    hub.disconnect(other)
    assert len(hub) == 0
    again = hub.connect(Peer(), "ada")
    await hub.subscribe(again, [f"events?text={letter}" for letter in "abcd"], None)


async def test_without_sign_in_channels_have_no_budget(hub: Hub) -> None:
    outbox = hub.connect(Peer())
    await hub.subscribe(outbox, [f"events?text={letter}" for letter in "abcdefgh"], None)
    assert len(hub) == 8


async def test_channel_is_charged_to_the_user_who_owes_least(hub: Hub) -> None:
    ada, grace = hub.connect(Peer(), "ada"), hub.connect(Peer(), "grace")
    for outbox in (ada, grace):
        await hub.subscribe(outbox, ["strip"], None)
    (channel,) = hub._channels.values()
    assert ada.budget is not None
    assert grace.budget is not None
    ada.budget.settle(100.0)

    async def work() -> str:
        return "done"

    owed = grace.budget.debt
    # Ada would have to wait for minutes; someone else looks at the same panel.
    async with asyncio.timeout(5):
        assert await channel._within_budget(work()) == "done"
    assert grace.budget.debt <= owed + 1.0
    hub.disconnect(grace)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await channel._within_budget(work())


def test_budget_allows_a_burst_and_then_its_share() -> None:
    budget = UserBudget(1)
    for _ in range(round(BURST / SLICE)):
        assert budget.reserve() == 0.0
    waits = [budget.reserve() for _ in range(10)]
    # Each turn comes one paid-off slice after the one before.
    assert waits == sorted(waits)
    assert waits[-1] - waits[0] == pytest.approx(9 * SLICE / LOOP_SHARE, abs=0.05)


async def test_waiting_is_not_charged_and_results_and_errors_pass() -> None:
    budget = UserBudget(1)

    async def work() -> str:
        await asyncio.sleep(0.3)
        return "done"

    assert await run_within(work(), budget) == "done"
    assert budget.debt < 0.2

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await run_within(fail(), budget)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run_within(asyncio.sleep(10), budget)


async def test_many_busy_panels_of_one_user_leave_the_loop_to_others() -> None:
    budget, slices = UserBudget(100), 0
    end = time.monotonic() + 1.5

    async def render() -> None:
        nonlocal slices
        while time.monotonic() < end:
            slices += 1
            stop = time.perf_counter() + SLICE
            while time.perf_counter() < stop:
                pass
            await asyncio.sleep(0)

    async def run() -> None:
        await run_within(render(), budget)

    async with asyncio.TaskGroup() as group:
        for _ in range(60):
            group.create_task(run())
        # Of the burst 60 slices would come in a row; after it they are apart.
        await asyncio.sleep(0.8)
        turns, before = 0, slices
        while time.monotonic() < end:
            await asyncio.sleep(0)
            turns += 1
        during = slices - before
    # Without a budget this loop gets one turn for every 60 slices, however busy the machine is.
    assert during < 5 * turns


def test_large_event_costs_little_with_many_text_filters() -> None:
    payload = " ".join(f"word{number}" for number in range(100_000))
    event = Event(id="1", source="s", type="t", time=1, data={"text": payload})
    filters = [Filter(text=f"missing{number} phrase*") for number in range(640)]
    forget_search_texts()
    started = time.process_time()
    Filter(text="word1").matches(event)
    once = time.process_time() - started
    started = time.process_time()
    assert not any(each.matches(event) for each in filters)
    # The words are computed once: without that, each filter costs as much as the first.
    assert time.process_time() - started < 640 * once / 10


def test_events_of_the_same_identity_are_searched_by_content() -> None:
    forget_search_texts()
    for number in range(50):
        # Objects are freed and their addresses reused; the words must be those of each event.
        event = Event(id="1", source="s", type="t", time=1, data=f"word{number}")
        assert Filter(text=f"word{number}").matches(event)
        assert not Filter(text=f"word{number + 1}").matches(event)
