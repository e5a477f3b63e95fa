"""Texts while they are written: sent as they grow, masked, and exact on every screen."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from almenara.bus.embedded import EmbeddedBus
from almenara.config import PanelSettings, RedactionSettings, StorageSettings, SupervisorSettings
from almenara.history import History
from almenara.hookspecs import DataView, LiveText, ResourceQuery, TemplatePanel
from almenara.live.frames import Frame
from almenara.live.hub import Hub
from almenara.live.log_feed import LogFeeds
from almenara.live.text_streams import TextStreams
from almenara.panels.builtin.numbers import measure_rate
from almenara.panels.formats import text_anchor
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
from almenara.redaction import Redactor
from almenara.scope import FULL_SCOPE, Grant, Scope
from almenara.signals import Event, Resource, now
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor
from support.live_texts import TextScreen

pytestmark = pytest.mark.anyio

TEMPLATE = """{% import "macros.html" as ui %}<h4>{{ title }}</h4>
{% for name in names %}{{ ui.live_text(panel, texts, name) }}{% endfor %}"""


class Words:
    """A text stream whose texts a test writes."""

    name = "words"
    types = ("word", "odd.*")

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.title = "one"
        self.listeners: dict[Callable[[], None], Mapping[str, str]] = {}
        self.origins: set[str] = set()

    def accept(self, event: Event) -> Sequence[Event]:
        if event.type.startswith("odd."):
            raise ValueError("it is odd")
        data = (
            msgspec.json.decode(event.data) if isinstance(event.data, msgspec.Raw) else event.data
        )
        self.origins.add(event.origin)
        self.write(event.subject, data["word"])
        return [event] if data["word"] == "." else []

    def write(self, key: str, text: str) -> None:
        self.texts[key] = self.texts.get(key, "") + text
        self.notify()

    def notify(self) -> None:
        for listener in self.listeners:
            listener()

    def read(self, data: DataView, filters: Mapping[str, str]) -> Sequence[LiveText]:
        if not data.has_role("operator"):
            return []
        return [LiveText(key=key, text=text) for key, text in self.texts.items()]

    def listen(
        self, filters: Mapping[str, str], listener: Callable[[], None]
    ) -> Callable[[], None]:
        self.listeners[listener] = filters
        return lambda: self.listeners.pop(listener) and None

    async def prepare(self, data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
        return {"title": self.title, "names": ["a", "b"]}


class Browser(TextScreen):
    """A browser whose connection takes everything, or nothing while it is stalled."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub
        self.outbox = hub.connect(self)
        self.held: list[Frame] = []
        self.is_stalled = False

    @property
    def waiting(self) -> int:
        return sum(frame.size for frame in self.held)

    def write(self, frame: Frame) -> None:
        if self.is_stalled:
            self.held.append(frame)
        else:
            self.apply(frame.text)

    def end(self) -> None:
        """The connection is not tracked."""

    def resume(self) -> None:
        self.is_stalled = False
        for frame in self.held:
            self.apply(frame.text)
        self.held.clear()
        self.outbox.drained()

    async def open(self, scope: Scope = FULL_SCOPE) -> "Browser":
        await self.hub.subscribe(self.outbox, ["p.room"], None, scope)
        return self

    def text(self, key: str) -> str:
        return self.texts[text_anchor("panel-p-room", key)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
async def hub(tmp_path: Path, words: Words) -> AsyncIterator[Hub]:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        streams = TextStreams()
        streams.add("p", [words])
        bus.select_stored = streams.select_stored
        view = View(
            bus=bus, history=History(bus), resources=Resources(),
            sources=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
            log_feeds=LogFeeds(), text_streams=streams,
            redact_text=Redactor(RedactionSettings()).mask_text,
        )  # fmt: skip
        renderer = Renderer()
        registry = PanelRegistry(renderer)
        panel = TemplatePanel(
            name="room", title="Room", template="room.html", prepare=words.prepare, texts="words",
            query=ResourceQuery(kind="thing"),
        )  # fmt: skip
        registry.add("p", [panel], {"room.html": TEMPLATE})
        hub = Hub(view, registry, renderer)
        hub.start()
        yield hub
        await hub.close()


async def test_new_text_is_sent_without_the_rest(hub: Hub, words: Words) -> None:
    words.write("a", "hello ")
    browser = await Browser(hub).open()
    assert browser.text("a") == "hello "
    for number in range(20):
        words.write("a", f"{number} <b> & ")
        await asyncio.sleep(0.02)
    await browser.until(lambda: browser.text("a") == words.texts["a"])
    assert browser.whole == 1
    assert 0 < browser.parts <= 20


async def test_panel_that_changes_keeps_its_texts(hub: Hub, words: Words) -> None:
    browser = await Browser(hub).open()
    words.write("b", "text")
    words.title = "two"
    await hub.view.bus.publish([Resource(kind="thing", name="x")], "p")
    await browser.until(lambda: "two" in browser.skeleton and browser.text("b") == "text")
    assert browser.whole == 2


async def test_screen_is_exact_after_the_connection_stalled(hub: Hub, words: Words) -> None:
    fast, slow = await Browser(hub).open(), await Browser(hub).open()
    slow.is_stalled = True
    slow.outbox.limit = 50
    for number in range(20):
        words.write("a", f"word {number}, ")
        await asyncio.sleep(0.02)
    late = await Browser(hub).open()
    slow.resume()
    words.write("a", "the end")
    for browser in (fast, slow, late):
        await browser.until(lambda browser=browser: browser.text("a") == words.texts["a"])


async def test_secrets_are_masked_when_they_become_one(hub: Hub, words: Words) -> None:
    browser = await Browser(hub).open()
    seen = []
    for piece in ("the pass", "word", " = ", "hun", "ter2", ", and more"):
        words.write("a", piece)
        await asyncio.sleep(0.15)
        seen.append(browser.text("a"))
    assert not any("hun" in text for text in seen)
    assert browser.text("a") == "the password = ***, and more"


async def test_viewers_below_the_role_see_no_text(hub: Hub, words: Words) -> None:
    words.write("a", "only for operators")
    browser = await Browser(hub).open(Scope(grants=(Grant(),), access_log=False))
    assert browser.text("a") == ""
    assert "only for operators" not in browser.skeleton


async def test_listener_is_removed_with_the_last_viewer(hub: Hub, words: Words) -> None:
    browser = await Browser(hub).open()
    assert len(words.listeners) == 1
    hub.disconnect(browser.outbox)
    await browser.until(lambda: not words.listeners)


async def test_stream_of_a_reloaded_plugin_is_listened_to(hub: Hub, words: Words) -> None:
    browser = await Browser(hub).open()
    again = Words()
    hub.view.text_streams.add("p", [again])  # type: ignore[union-attr]
    again.write("a", "new")
    hub.rerender("p")
    await browser.until(lambda: browser.text("a") == "new")
    assert (len(words.listeners), len(again.listeners)) == (0, 1)
    again.write("a", " text")
    await browser.until(lambda: browser.text("a") == "new text")


async def test_stream_decides_what_of_its_events_is_stored(hub: Hub, words: Words) -> None:
    events = [
        Event(id=str(number), source="s", type=kind, subject="a", time=now(), data={"word": word})
        for number, (kind, word) in enumerate(
            [("word", "one"), ("word", "."), ("other", "two"), ("odd.x", "three")]
        )
    ]
    await hub.view.bus.publish(events, "fleet")
    stored = await hub.view.history.events(hub.panels["events"].parse_filters({}), limit=10)
    assert {record.signal.type for record in stored} == {"word", "other", "odd.x"}  # type: ignore[union-attr]
    assert words.texts == {"a": "one."}
    assert words.origins == {"fleet"}
    await hub.view.bus.publish(events[:1], "fleet")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(max_size=5)), max_size=30))
def test_texts_of_any_kind_are_exact(pieces: list[tuple[str, str]]) -> None:
    assert asyncio.run(write_all(pieces)) == []


async def write_all(pieces: list[tuple[str, str]]) -> list[str]:
    """Write texts through a channel without a bus; return the keys whose screen differs."""
    words, streams, renderer = Words(), TextStreams(), Renderer()
    streams.add("p", [words])
    registry = PanelRegistry(renderer)
    panel = TemplatePanel(
        name="room", title="Room", template="room.html", prepare=words.prepare, texts="words",
        query=ResourceQuery(kind="thing"),
    )  # fmt: skip
    registry.add("p", [panel], {"room.html": TEMPLATE})
    none: Any = None
    view = View(
        bus=none, history=none, resources=Resources(), sources=none, settings=PanelSettings(),
        log_feeds=LogFeeds(), text_streams=streams,
    )  # fmt: skip
    hub = Hub(view, registry, renderer)
    channel = hub.channel_type(registry["p.room"])(
        "key",
        registry["p.room"],
        registry["p.room"].parse_filters({}),
        view,
        renderer,
        hub.counters,
    )
    screen = TextScreen()
    await channel.open()
    screen.apply(channel.snapshot().text)
    for key, piece in pieces:
        words.write(key, piece)
        frame = await channel.tick()
        if frame is not None:
            screen.apply(frame.text)
    late = TextScreen()
    late.apply(channel.snapshot().text)
    return [
        key
        for key in words.texts
        if screen.texts[text_anchor("panel-p-room", key)]
        != late.texts[text_anchor("panel-p-room", key)]
    ]


async def test_text_is_left_out_of_the_events_per_second_that_are_stored(
    tmp_path: Path, words: Words
) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        streams = TextStreams()
        streams.add("p", [words])
        bus.select_stored = streams.select_stored
        events = [
            Event(id=f"{kind}-{number}", source="s", type=kind, time=now(), data={"word": "a"})
            for kind, count in ((words.types[0], 70), ("other", 30))
            for number in range(count)
        ]
        await bus.publish(events, "model")
        assert bus.counters.left_out == {"model": 70}
        view = View(
            bus=bus, history=History(bus), resources=Resources(),
            sources=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
            log_feeds=LogFeeds(),
        )  # fmt: skip
        assert await measure_rate(view) == 30 / 10
