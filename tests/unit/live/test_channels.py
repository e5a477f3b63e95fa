"""Channels and the hub: rendered once for all viewers, bounded for each."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from almenara.bus import Record
from almenara.bus.embedded import EmbeddedBus
from almenara.config import PanelSettings, StorageSettings, SupervisorSettings
from almenara.errors import LimitExceeded, NotFound
from almenara.history import History
from almenara.hookspecs import DataView, EventQuery, TemplatePanel
from almenara.live.channel import MAX_BYTES_PER_SECOND
from almenara.live.event_channel import MAX_MISSED, EventChannel
from almenara.live.frames import Frame
from almenara.live.hub import Hub
from almenara.live.log_feed import LogFeeds
from almenara.live.outbox import TOO_SLOW
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
from almenara.signals import Event, Severity, now
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor

pytestmark = pytest.mark.anyio

SETTINGS = PanelSettings(visible_events=20, outbox_bytes=60_000, send_timeout=0.3)


@pytest.fixture
async def channels(tmp_path: Path) -> AsyncIterator[Hub]:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        view = View(
            bus=bus,
            history=History(bus),
            resources=Resources(),
            sources=Supervisor(bus, SupervisorSettings()),
            settings=SETTINGS,
            log_feeds=LogFeeds(),
        )
        renderer = Renderer()
        channels = Hub(view, PanelRegistry(renderer), renderer)
        channels.start()
        yield channels
        await channels.close()


class Viewer:
    """A browser that applies frames as a page does, as far as rows go, over a connection that can
    be made to take nothing."""

    def __init__(self, channels: Hub) -> None:
        self.channels = channels
        self.outbox = channels.connect(self)
        self.frames: list[dict[str, Any]] = []
        self.rows: list[int] = []
        self.reported = 0
        self.ended = asyncio.Event()
        self.most_waiting = 0
        self._stalled = False
        self._waiting: list[Frame] = []

    @property
    def waiting(self) -> int:
        return sum(frame.size for frame in self._waiting)

    def write(self, frame: Frame) -> None:
        if self._stalled:
            self._waiting.append(frame)
            self.most_waiting = max(self.most_waiting, self.waiting)
            if self.outbox.blocked_since is None:
                self.outbox.blocked_since = asyncio.get_running_loop().time()
        else:
            self.apply(frame.text)

    def end(self) -> None:
        self.ended.set()

    def stall(self) -> None:
        self._stalled = True

    def resume(self) -> None:
        self._stalled = False
        waiting, self._waiting = self._waiting, []
        for frame in waiting:
            self.apply(frame.text)
        self.outbox.blocked_since = None
        self.outbox.drained()

    def apply(self, text: str) -> None:
        frame = msgspec.json.decode(text)
        self.frames.append(frame)
        target = frame.get("target")
        if target == "#event-note":
            missed = re.search(r"<b>([\d,]+)", frame["content"])
            assert missed is not None
            self.reported += int(missed[1].replace(",", ""))
        if target not in ("#event-rows", "#panel-events"):
            return
        parts = frame["content"].split('data-sequence="')[1:]
        sequences = [int(part.split('"')[0]) for part in parts]
        newest = self.rows[0] if self.rows else 0
        self.reported += frame.get("arrived", 0) or sum(sequence > newest for sequence in sequences)
        self.rows = sequences + self.rows if frame["swap"] == "afterbegin" else sequences
        del self.rows[SETTINGS.visible_events :]


async def publish(channels: Hub, start: int, count: int, size: int = 10) -> None:
    await channels.view.bus.publish(
        [
            Event(id=str(number), source="s", type="t", time=now(), data={"x": "y" * size})
            for number in range(start, start + count)
        ],
        "test",
    )


async def newest(channels: Hub) -> list[int]:
    records = await channels.view.history.events(
        next(iter(channels.parse_channels(["events"])))[2], limit=SETTINGS.visible_events
    )
    return [record.sequence for record in records]


async def until_equal(viewer: Viewer, channels: Hub) -> None:
    async with asyncio.timeout(10):
        while viewer.rows != await newest(channels):
            await asyncio.sleep(0.02)


async def test_channel_renders_once_for_all_viewers(channels: Hub) -> None:
    viewers = [Viewer(channels) for _ in range(30)]
    for viewer in viewers:
        await channels.subscribe(viewer.outbox, ["events"], None)
    assert len(channels) == 1
    renders = channels.counters.renders
    for start in range(0, 2000, 100):
        await publish(channels, start, 100)
    for viewer in viewers:
        await until_equal(viewer, channels)
        assert viewer.reported == 2000
    assert channels.counters.renders - renders < 20
    for viewer in viewers:
        channels.disconnect(viewer.outbox)
    assert (channels.clients, len(channels)) == (0, 0)


async def test_stalled_browser_is_dropped_and_delays_no_other(channels: Hub) -> None:
    slow, quick = Viewer(channels), Viewer(channels)
    for viewer in (slow, quick):
        await channels.subscribe(viewer.outbox, ["events"], None)
    slow.stall()
    for start in range(0, 500, 10):
        await publish(channels, start, 10, 3000)
        assert slow.waiting <= SETTINGS.outbox_bytes
    await until_equal(quick, channels)
    async with asyncio.timeout(10):
        await slow.ended.wait()
    assert slow.outbox.close_code == TOO_SLOW
    assert quick.outbox.close_code is None
    assert channels.counters.too_slow == 1
    assert quick.reported == 500


async def test_slow_browser_skips_frames_then_catches_up(
    channels: Hub,
) -> None:
    viewer = Viewer(channels)
    await channels.subscribe(viewer.outbox, ["events"], None)
    await publish(channels, 0, 30)
    await until_equal(viewer, channels)
    channels.settings = msgspec.structs.replace(channels.settings, send_timeout=60)
    viewer.stall()
    start = 30
    async with asyncio.timeout(10):
        while not channels.counters.skipped:
            await publish(channels, start, 10, 5000)
            start += 10
            await asyncio.sleep(0.01)
    await publish(channels, start, 100)
    assert viewer.most_waiting <= SETTINGS.outbox_bytes
    viewer.resume()
    await until_equal(viewer, channels)
    assert viewer.reported == start + 100


async def test_returning_browser_gets_every_row_or_the_missed_count(
    channels: Hub,
) -> None:
    before = [Viewer(channels) for _ in range(20)]
    for viewer in before:
        await channels.subscribe(viewer.outbox, ["events"], None)
    await publish(channels, 0, 50)
    for viewer in before:
        await until_equal(viewer, channels)
    stays = Viewer(channels)
    await channels.subscribe(stays.outbox, ["events"], None)
    for viewer in before:
        channels.disconnect(viewer.outbox)
    await publish(channels, 50, 100)
    await until_equal(stays, channels)
    after = []
    for left in before:
        viewer = Viewer(channels)
        viewer.rows = left.rows
        await channels.subscribe(viewer.outbox, ["events"], left.rows[0])
        after.append(viewer)
    await publish(channels, 150, 5)
    for viewer in after:
        await until_equal(viewer, channels)
        assert viewer.reported == 105
    # Beyond the limit the count says so, also to a browser that was away before the first viewer.
    long_away = Viewer(channels)
    await publish(channels, 155, 700)
    await until_equal(stays, channels)
    await channels.subscribe(long_away.outbox, ["events"], 1)
    assert "500+ events" in long_away.frames[-1]["content"]
    for viewer in (stays, long_away, *after):
        channels.disconnect(viewer.outbox)
    assert len(channels) == 0
    alone = Viewer(channels)
    await channels.subscribe(alone.outbox, ["events"], 700)
    assert f"{855 - 700 - SETTINGS.visible_events} events" in alone.frames[-1]["content"]


async def test_router_gives_exact_matches_their_events_and_others_all(
    channels: Hub,
) -> None:
    names = ("events", "events?type=t", "events?type=other", "events?type=t*&source=s",
             "events?subject=here&severity=ERROR")  # fmt: skip
    viewers = {name: Viewer(channels) for name in names}
    for name, viewer in viewers.items():
        await channels.subscribe(viewer.outbox, [name], None)
    await publish(channels, 0, 10)
    await channels.view.bus.publish(
        [
            Event(id="x", source="s", type="other", time=now()),
            Event(id="y", source="s", type="t", time=now(), subject="here"),
            Event(
                id="z", source="s", type="t", time=now(), subject="here", severity=Severity.ERROR
            ),
        ],
        "test",
    )
    expected = {
        "events": 13, "events?type=t": 12, "events?type=other": 1, "events?type=t*&source=s": 12,
        "events?subject=here&severity=ERROR": 1,
    }  # fmt: skip
    async with asyncio.timeout(10):
        while {name: len(viewer.rows) for name, viewer in viewers.items()} != expected:
            await asyncio.sleep(0.02)
    channels.disconnect(viewers["events?type=t"].outbox)
    await publish(channels, 10, 1)
    async with asyncio.timeout(10):
        while len(viewers["events"].rows) != 14:
            await asyncio.sleep(0.02)
    assert len(viewers["events?type=t"].rows) == 12


async def test_channel_key_ignores_filters_of_other_panels_and_their_order(channels: Hub) -> None:
    first, second = (
        next(iter(channels.parse_channels([name])))[0]
        for name in ("strip?severity=ERROR", "strip?text=x")
    )
    assert first == second
    first, second = (
        next(iter(channels.parse_channels([name])))[0]
        for name in ("events?severity=ERROR&type=a", "events?type=a&severity=ERROR")
    )
    assert first == second


async def test_hub_refuses_unknown_panels_too_many_and_bad_filters(channels: Hub) -> None:
    with pytest.raises(NotFound, match="There is no panel 'nothing'"):
        channels.parse_channels(["nothing"])
    with pytest.raises(LimitExceeded, match="32 channels at most"):
        channels.parse_channels(["events"] * 33)
    with pytest.raises(ValueError, match="severity"):
        channels.parse_channels(["events?severity=BAD"])


async def test_outbox_never_buffers_more_than_its_limit(channels: Hub) -> None:
    viewer = Viewer(channels)
    viewer.stall()
    for _ in range(1000):
        viewer.outbox.send(None, Frame("x" * 300, 300, rows=True))
    assert viewer.most_waiting <= SETTINGS.outbox_bytes
    viewer.outbox.close(1012)
    assert viewer.ended.is_set()
    viewer.outbox.close(TOO_SLOW)
    assert viewer.outbox.close_code == 1012


async def test_events_not_yet_rendered_are_not_counted_as_missed(channels: Hub) -> None:
    viewer = Viewer(channels)
    await channels.subscribe(viewer.outbox, ["events"], None)
    for start in range(0, 60, 10):
        await publish(channels, start, 10)
    async with asyncio.timeout(5):
        while not viewer.rows or viewer.rows[0] != 60:
            await asyncio.sleep(0.01)
    (channel,) = viewer.outbox.channels
    assert isinstance(channel, EventChannel)
    missed = 60 - SETTINGS.visible_events - 1
    assert channel.count_missed(1) == missed
    coming = Event(id="x", source="s", type="t", time=now())
    channel.accept([Record(sequence, coming) for sequence in range(61, 61 + 2 * MAX_MISSED)])
    assert channel.count_missed(1) == missed


async def test_large_panel_is_sent_less_often(
    tmp_path: Path,
) -> None:
    render_count = 0

    async def prepare(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
        nonlocal render_count
        render_count += 1
        return {"text": f"{render_count}" + "x" * 400_000}

    panel = TemplatePanel(
        name="map", title="Map", template="map.html", prepare=prepare,
        query=EventQuery(),
    )  # fmt: skip
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        view = View(
            bus=bus,
            history=History(bus),
            resources=Resources(),
            sources=Supervisor(bus, SupervisorSettings()),
            settings=PanelSettings(),
            log_feeds=LogFeeds(),
        )
        renderer = Renderer()
        catalogue = PanelRegistry(renderer)
        catalogue.add("p", [panel], {"map.html": "{{ text }}"})
        channels = Hub(view, catalogue, renderer)
        channels.start()
        viewer = Viewer(channels)
        await channels.subscribe(viewer.outbox, ["p.map"], None)
        loop = asyncio.get_running_loop()
        before, started = len(viewer.frames), loop.time()
        number = 0
        while len(viewer.frames) < before + 4:
            number += 1
            await publish(channels, number, 1)
        frames = len(viewer.frames) - before
        # The first comes at once; each of the others waits until the one before has been read.
        assert (frames - 1) * 400_000 / (loop.time() - started) <= MAX_BYTES_PER_SECOND
        await channels.close()
