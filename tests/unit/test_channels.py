import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.history import History
from almenara.panels.catalogue import Catalogue
from almenara.panels.channels import Channels, UnknownPanelError
from almenara.panels.feeds import Feeds
from almenara.panels.outbox import TOO_SLOW, Counters, Outbox
from almenara.panels.panel import View
from almenara.panels.renderer import Frame, Renderer
from almenara.resources import Resources
from almenara.settings import PanelSettings, StorageSettings, SupervisorSettings
from almenara.signals import Event, now
from almenara.supervisor import Supervisor

pytestmark = pytest.mark.anyio

SETTINGS = PanelSettings(visible_events=20, outbox_bytes=60_000, send_timeout=0.3)


@pytest.fixture
async def channels(tmp_path: Path) -> AsyncIterator[Channels]:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        view = View(
            bus=bus,
            history=History(bus),
            resources=Resources(),
            supervisor=Supervisor(bus, SupervisorSettings()),
            settings=SETTINGS,
            feeds=Feeds(),
        )
        renderer = Renderer()
        channels = Channels(view, Catalogue(renderer), renderer)
        channels.start()
        yield channels
        await channels.close()


class Viewer:
    """A browser that applies frames as a page does, as far as rows go."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.outbox = channels.outbox()
        self.frames: list[dict[str, object]] = []
        self.rows: list[int] = []
        self.stalled = asyncio.Event()
        self.stalled.set()

    async def send(self, text: str) -> None:
        await self.stalled.wait()
        frame = msgspec.json.decode(text)
        self.frames.append(frame)
        if frame["target"] not in ("#event-rows", "#panel-events"):
            return
        found = [int(it.split('"')[0]) for it in frame["content"].split('data-sequence="')[1:]]
        self.rows = found + self.rows if frame["swap"] == "afterbegin" else found
        del self.rows[SETTINGS.visible_events :]


async def publish(channels: Channels, start: int, count: int, size: int = 10) -> None:
    await channels.view.bus.publish(
        [
            Event(id=str(it), source="s", type="t", time=now(), data={"x": "y" * size})
            for it in range(start, start + count)
        ],
        "test",
    )


async def newest(channels: Channels) -> list[int]:
    found = await channels.view.history.events(
        next(iter(channels.named(["events"])))[2], limit=SETTINGS.visible_events
    )
    return [it.sequence for it in found]


async def until_equal(viewer: Viewer, channels: Channels) -> None:
    async with asyncio.timeout(10):
        while viewer.rows != await newest(channels):
            await asyncio.sleep(0.02)


async def test_a_panel_is_rendered_once_for_all_who_look(channels: Channels) -> None:
    viewers = [Viewer(channels) for _ in range(30)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(it.outbox.deliver(it.send)) for it in viewers]
        for it in viewers:
            await channels.join(it.outbox, ["events"], None)
        assert len(channels) == 1
        renders = channels.counters.renders
        for start in range(0, 2000, 100):
            await publish(channels, start, 100)
        for it in viewers:
            await until_equal(it, channels)
        assert channels.counters.renders - renders < 20
        for task in tasks:
            task.cancel()
    for it in viewers:
        channels.leave(it.outbox)
    assert (channels.clients, len(channels)) == (0, 0)


async def test_a_stalled_browser_is_dropped_and_delays_no_other(channels: Channels) -> None:
    slow, quick = Viewer(channels), Viewer(channels)
    async with asyncio.TaskGroup() as group:
        dropped = group.create_task(slow.outbox.deliver(slow.send))
        other = group.create_task(quick.outbox.deliver(quick.send))
        for it in (slow, quick):
            await channels.join(it.outbox, ["events"], None)
        slow.stalled.clear()
        for start in range(0, 500, 10):
            await publish(channels, start, 10, 3000)
            assert slow.outbox.bytes <= SETTINGS.outbox_bytes
        await until_equal(quick, channels)
        assert await dropped == TOO_SLOW
        assert channels.counters.too_slow == 1
        other.cancel()


async def test_who_falls_behind_skips_frames_and_then_has_what_is_current(
    channels: Channels,
) -> None:
    viewer = Viewer(channels)
    async with asyncio.TaskGroup() as group:
        await channels.join(viewer.outbox, ["events"], None)
        for start in range(0, 400, 10):
            await publish(channels, start, 10, 5000)
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            while not channels.counters.skipped:
                await asyncio.sleep(0.01)
        assert viewer.outbox.bytes <= SETTINGS.outbox_bytes
        delivering = group.create_task(viewer.outbox.deliver(viewer.send))
        await until_equal(viewer, channels)
        delivering.cancel()


async def test_filters_that_mean_nothing_to_a_panel_share_its_channel(channels: Channels) -> None:
    first, second = (
        next(iter(channels.named([it])))[0] for it in ("strip?severity=ERROR", "strip?text=x")
    )
    assert first == second
    first, second = (
        next(iter(channels.named([it])))[0]
        for it in ("events?severity=ERROR&type=a", "events?type=a&severity=ERROR")
    )
    assert first == second


async def test_what_is_no_panel_is_refused_by_name(channels: Channels) -> None:
    with pytest.raises(UnknownPanelError, match="there is no panel 'nothing'"):
        channels.named(["nothing"])
    with pytest.raises(UnknownPanelError, match="more than 32"):
        channels.named(["events"] * 33)
    with pytest.raises(ValueError, match="severity"):
        channels.named(["events?severity=BAD"])


async def test_an_outbox_never_holds_more_than_its_limit() -> None:
    outbox = Outbox(1000, 1.0, Counters())
    for _ in range(100):
        outbox.put(None, Frame("x" * 300, 300, rows=True))
    assert outbox.bytes <= 1000
    outbox.close(1012)
    assert await outbox.deliver(lambda text: asyncio.sleep(0)) == 1012
