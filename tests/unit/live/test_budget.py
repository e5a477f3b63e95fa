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
from almenara.live.budget import BURST, LOOP_SHARE, UserBudget, measure_steps
from almenara.live.frames import Frame
from almenara.live.hub import Hub
from almenara.live.log_feed import LogFeeds
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
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


async def test_channel_is_charged_to_its_users_and_waits_for_them(hub: Hub) -> None:
    outbox = hub.connect(Peer(), "ada")
    await hub.subscribe(outbox, ["strip"], None)
    (channel,) = hub._channels.values()
    channel._record_loop_seconds(BURST + 1.0)
    assert channel._charge_users() == pytest.approx(1.0 / LOOP_SHARE, abs=0.2)
    # Someone else looks at the same panel and has taken nothing: it is rendered for both.
    other = hub.connect(Peer(), "grace")
    await hub.subscribe(other, ["strip"], None)
    assert channel._charge_users() == 0.0


def test_budget_allows_a_burst_and_then_its_share() -> None:
    budget = UserBudget(1)
    budget.charge(BURST)
    assert budget.delay() == 0.0
    budget.charge(1.0)
    assert budget.delay() == pytest.approx(1.0 / LOOP_SHARE, abs=0.1)


async def test_measured_steps_leave_out_waiting_and_pass_on_results_and_errors() -> None:
    seconds: list[float] = []

    async def work() -> str:
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass
        await asyncio.sleep(0.2)
        return "done"

    assert await measure_steps(work(), seconds.append) == "done"
    assert 0.015 < sum(seconds) < 0.15

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await measure_steps(fail(), seconds.append)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await measure_steps(asyncio.sleep(10), seconds.append)


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
    # The words are computed once: the others together cost about as much as the first.
    assert time.process_time() - started < max(once * 5, 0.1)


def test_events_of_the_same_identity_are_searched_by_content() -> None:
    forget_search_texts()
    for number in range(50):
        # Objects are freed and their addresses reused; the words must be those of each event.
        event = Event(id="1", source="s", type="t", time=1, data=f"word{number}")
        assert Filter(text=f"word{number}").matches(event)
        assert not Filter(text=f"word{number + 1}").matches(event)
