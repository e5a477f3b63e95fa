"""Logs: read once for all who look at them, while they look, and whatever the reader does."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import PanelSettings, StorageSettings, SupervisorSettings
from almenara.history import History
from almenara.hookspecs import ClusterRight, Line, LogAccess, LogPanel, LogQuery
from almenara.live import log_feed as feeding
from almenara.live.hub import Hub
from almenara.live.log_feed import LogFeeds
from almenara.panels.panel import View
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Frame, Renderer
from almenara.scope import FULL_SCOPE, Grant, Scope
from almenara.sdk import NotFound
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor

pytestmark = pytest.mark.anyio

PANEL = LogPanel(
    name="log", title="Log", query=LogQuery(stream="log", limit=20),
    filters=["name", "text"],
)  # fmt: skip


class Log:
    """A tail that gives what it is told to."""

    name = "log"

    def __init__(self) -> None:
        self.opened: list[Mapping[str, str]] = []
        self.closed = 0
        self.threads: set[int] = set()
        self.waiting: list[str] = []
        self.error: Callable[[], BaseException] | None = None

    async def lines(self, asked: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        self.opened.append(dict(asked))
        self.threads.add(threading.get_ident())
        yield [Line(text="first", source="app", time=1)]
        try:
            while True:
                if self.error is not None:
                    raise self.error()
                lines, self.waiting = self.waiting, []
                if lines:
                    yield [Line(text=it) for it in lines]
                await asyncio.sleep(0.01)
        finally:
            self.closed += 1


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def channels(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setattr(feeding, "LINGER", 0.05)
    monkeypatch.setattr(feeding, "BACKOFF", 0.05)
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        feeds = LogFeeds()
        feeds.add("p", [log])
        view = View(
            bus=bus, history=History(bus), resources=Resources(),
            supervisor=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(), feeds=feeds,
        )  # fmt: skip
        renderer = Renderer()
        catalogue = PanelRegistry(renderer)
        catalogue.add("p", [PANEL], None)
        channels = Hub(view, catalogue, renderer)
        channels.start()
        yield channels
        await channels.close()
        await feeds.close()


class Screen:
    """A browser that applies the frames of a log as a page does."""

    waiting = 0

    def __init__(self, channels: Hub, panel: str = "p.log") -> None:
        self.channels, self.panel = channels, panel
        self.outbox = channels.outbox(self)
        self.text = ""

    def write(self, frame: Frame) -> None:
        told = msgspec.json.decode(frame.text)
        if "content" in told:
            whole = told["swap"] == "innerHTML"
            self.text = told["content"] if whole else self.text + told["content"]

    def end(self) -> None:
        """Nothing holds it."""

    @property
    def lines(self) -> list[str]:
        found = [it.split("<")[0] for it in self.text.split('class="text">')[1:]]
        return found[-PANEL.query.limit :]  # type: ignore[union-attr]

    async def look(self, scope: Scope = FULL_SCOPE) -> None:
        await self.channels.join(self.outbox, [self.panel], None, scope)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_log_is_read_once_for_all_who_look_and_only_while_they_do(
    channels: Hub, log: Log
) -> None:
    screens = [Screen(channels) for _ in range(3)]
    for it in screens:
        await it.look()
    for number in range(50):
        log.waiting.append(f"line {number}")
        await asyncio.sleep(0.005)
    late = Screen(channels)
    await late.look()
    log.waiting.append("last")
    await until(lambda: all(it.lines[-1:] == ["last"] for it in [*screens, late]))
    wanted = [*(f"line {it}" for it in range(31, 50)), "last"]
    assert [it.lines for it in [*screens, late]] == [wanted] * 4
    assert len(log.opened) == 1
    assert log.threads.isdisjoint({threading.get_ident()})
    for screen in [*screens, late]:
        channels.leave(screen.outbox)
    await until(lambda: log.closed == 1)
    assert len(channels.view.feeds) == 0


async def test_a_search_shows_the_lines_that_have_its_words_of_the_same_reading(
    channels: Hub, log: Log
) -> None:
    whole, part = Screen(channels), Screen(channels, "p.log?text=ODD+line")
    await whole.look()
    await part.look()
    log.waiting += [f"{'odd' if it % 2 else 'even'} line {it}" for it in range(6)]
    await until(lambda: len(whole.lines) == 7)
    await until(lambda: len(part.lines) == 3)
    assert part.lines == ["odd line 1", "odd line 3", "odd line 5"]
    assert len(log.opened) == 1


async def test_what_a_tail_raises_is_told_and_it_is_tried_again(channels: Hub, log: Log) -> None:
    screen = Screen(channels)
    await screen.look()
    log.error = lambda: OSError("the pod answers <no>")
    await until(lambda: "the pod answers &lt;no&gt;" in screen.text)
    log.error = None
    log.waiting.append("here again")
    await until(lambda: screen.lines == ["first", "here again"])
    assert len(log.opened) >= 2


async def test_what_is_not_there_is_told_and_not_tried_again(channels: Hub, log: Log) -> None:
    log.error = lambda: NotFound("there is no pod named x")
    screen = Screen(channels)
    await screen.look()
    await until(lambda: "there is no pod named x" in screen.text)
    await asyncio.sleep(0.3)
    assert len(log.opened) == 1


class Stubborn(Log):
    """A tail that blocks its event loop."""

    async def lines(self, asked: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        yield [Line(text="about to block")]
        time.sleep(1.5)
        yield [Line(text="moves again")]


class Flooding(Log):
    """A tail that writes without end."""

    async def lines(self, asked: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        for number in itertools.count():
            yield [Line(text=f"{number}-{it}" + "x" * 200) for it in range(100)]
            if number % 50 == 0:
                await asyncio.sleep(0)


@pytest.mark.parametrize("log", [Stubborn(), Flooding()])
async def test_a_tail_that_blocks_or_floods_holds_nobody_up(channels: Hub, log: Log) -> None:
    screen = Screen(channels)
    late = 0.0
    await screen.look()
    for _ in range(60):
        began = time.monotonic()
        await asyncio.sleep(0.01)
        late = max(late, time.monotonic() - began - 0.01)
    # The sleep in the tail lasts 1.5 s; the loop that all share never stood still that long.
    assert late < 1.0
    assert len(screen.lines) <= 20


async def test_colours_are_left_out_and_what_hides_itself_is_written_out(
    channels: Hub, log: Log
) -> None:
    screen = Screen(channels)
    await screen.look()
    log.waiting += ["\x1b[31mred\x1b[0m\n", "\u202ebackwards\x07", "<b>bold</b>", "y" * 9000]
    await until(lambda: len(screen.lines) == 5)
    red, backwards, bold, long = screen.lines[1:]
    assert red == "red"
    assert backwards == "\u27e8U+202E\u27e9backwards\u2407"
    assert bold == "&lt;b&gt;bold&lt;/b&gt;"
    assert long.endswith("(9,000 characters)")
    assert len(long) < 4100


class Guarded(Log):
    """A tail of several sources, that takes a right in the cluster."""

    rights = (ClusterRight(verb="get", resource="pods", subresource="log"),)

    def access_for(self, asked: Mapping[str, str]) -> LogAccess:
        called = asked.get("name", "")
        if called == "nowhere":
            raise NotFound("there is no nowhere")
        return LogAccess(source="p-east", namespace=f"east/{called}", right=self.rights[0])


@pytest.mark.parametrize("log", [Guarded()])
async def test_a_log_is_for_who_has_the_right_that_it_takes_where_it_belongs(
    channels: Hub, log: Log
) -> None:
    in_cluster = Scope(
        access_log=False, guarded=("p-east",), namespaces=("east/a", "east/b"),
        rights=(("get pods/log", "east/a"), ("get pods/log", "west/c")),
    )  # fmt: skip
    other_source = Scope(grants=(Grant(sources=("p-west",)),), access_log=False)
    for scope, name, said in (
        (in_cluster, "a", "first"),
        (in_cluster, "b", "it takes the right to `get pods/log` in the namespace east/b"),
        (in_cluster, "c", "not among what you may see"),
        (in_cluster, "nowhere", "there is no nowhere"),
        (other_source, "a", "not among what you may see"),
        (FULL_SCOPE, "b", "first"),
        (Scope(access_log=False), "b", "first"),
    ):
        screen = Screen(channels, f"p.log?name={name}")
        await screen.look(scope)
        assert said in screen.text.replace("&#39;", "'"), (name, said)
        channels.leave(screen.outbox)
    assert {it["name"] for it in log.opened} == {"a", "b"}
    less = msgspec.structs.replace(in_cluster, rights=())
    assert in_cluster.covers(less)
    assert not less.covers(in_cluster)
