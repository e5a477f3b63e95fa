"""Log feeds: read once for all viewers, only while there are any, whatever the stream does."""

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
from almenara.errors import LimitExceeded
from almenara.history import History
from almenara.hookspecs import ClusterRight, Line, LogAccess, LogPanel, LogQuery
from almenara.live import log_feed
from almenara.live.frames import Frame
from almenara.live.hub import Hub
from almenara.live.log_feed import LogFeeds
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
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
    """A log stream that yields the lines that a test queues."""

    name = "log"

    def __init__(self) -> None:
        self.opened: list[Mapping[str, str]] = []
        self.closed = 0
        self.threads: set[int] = set()
        self.queued: list[str] = []
        self.error: Callable[[], BaseException] | None = None

    async def lines(self, filters: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        self.opened.append(dict(filters))
        self.threads.add(threading.get_ident())
        yield [Line(text="first", source="app", time=1)]
        try:
            while True:
                if self.error is not None:
                    raise self.error()
                lines, self.queued = self.queued, []
                if lines:
                    yield [Line(text=text) for text in lines]
                await asyncio.sleep(0.01)
        finally:
            self.closed += 1


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def channels(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setattr(log_feed, "LINGER", 0.05)
    monkeypatch.setattr(log_feed, "FIRST_RETRY", 0.05)
    async with EmbeddedBus(StorageSettings(dir=tmp_path)) as bus:
        feeds = LogFeeds()
        feeds.add("p", [log])
        view = View(
            bus=bus, history=History(bus), resources=Resources(),
            sources=Supervisor(bus, SupervisorSettings()), settings=PanelSettings(),
            log_feeds=feeds,
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
        self.outbox = channels.connect(self)
        self.text = ""

    def write(self, frame: Frame) -> None:
        frame_values = msgspec.json.decode(frame.text)
        if "content" in frame_values:
            is_whole = frame_values["swap"] == "innerHTML"
            self.text = frame_values["content"] if is_whole else self.text + frame_values["content"]

    def end(self) -> None:
        """The connection is not tracked."""

    @property
    def lines(self) -> list[str]:
        texts = [part.split("<")[0] for part in self.text.split('class="text">')[1:]]
        return texts[-PANEL.query.limit :]  # type: ignore[union-attr]

    async def subscribe(self, scope: Scope = FULL_SCOPE) -> None:
        await self.channels.subscribe(self.outbox, [self.panel], None, scope)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_feed_is_read_once_for_all_viewers_and_ends_with_the_last(
    channels: Hub, log: Log
) -> None:
    screens = [Screen(channels) for _ in range(3)]
    for screen in screens:
        await screen.subscribe()
    for number in range(50):
        log.queued.append(f"line {number}")
        await asyncio.sleep(0.005)
    late = Screen(channels)
    await late.subscribe()
    log.queued.append("last")
    await until(lambda: all(screen.lines[-1:] == ["last"] for screen in [*screens, late]))
    expected = [*(f"line {number}" for number in range(31, 50)), "last"]
    assert [screen.lines for screen in [*screens, late]] == [expected] * 4
    assert len(log.opened) == 1
    assert log.threads.isdisjoint({threading.get_ident()})
    for screen in [*screens, late]:
        channels.disconnect(screen.outbox)
    await until(lambda: log.closed == 1)
    assert len(channels.view.log_feeds) == 0


async def test_search_filters_lines_of_the_same_feed(channels: Hub, log: Log) -> None:
    whole, part = Screen(channels), Screen(channels, "p.log?text=ODD+line")
    await whole.subscribe()
    await part.subscribe()
    log.queued += [f"{'odd' if number % 2 else 'even'} line {number}" for number in range(6)]
    await until(lambda: len(whole.lines) == 7)
    await until(lambda: len(part.lines) == 3)
    assert part.lines == ["odd line 1", "odd line 3", "odd line 5"]
    assert len(log.opened) == 1


async def test_failing_stream_shows_its_error_and_is_retried(channels: Hub, log: Log) -> None:
    screen = Screen(channels)
    await screen.subscribe()
    log.error = lambda: OSError("the pod answers <no>")
    await until(lambda: "the pod answers &lt;no&gt;" in screen.text)
    log.error = None
    log.queued.append("here again")
    await until(lambda: screen.lines == ["first", "here again"])
    assert len(log.opened) >= 2


async def test_missing_log_is_shown_and_not_retried(channels: Hub, log: Log) -> None:
    log.error = lambda: NotFound("there is no pod named x")
    screen = Screen(channels)
    await screen.subscribe()
    await until(lambda: "there is no pod named x" in screen.text)
    await asyncio.sleep(0.3)
    assert len(log.opened) == 1


class Stubborn(Log):
    """A log stream that blocks its event loop."""

    async def lines(self, filters: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        yield [Line(text="about to block")]
        time.sleep(1.5)
        yield [Line(text="moves again")]


class Flooding(Log):
    """A log stream that yields lines without end."""

    async def lines(self, filters: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        for number in itertools.count():
            yield [Line(text=f"{number}-{place}" + "x" * 200) for place in range(100)]
            if number % 50 == 0:
                await asyncio.sleep(0)


@pytest.mark.parametrize("log", [Stubborn(), Flooding()])
async def test_blocking_or_flooding_stream_delays_no_one(channels: Hub, log: Log) -> None:
    screen = Screen(channels)
    longest_pause = 0.0
    await screen.subscribe()
    for _ in range(60):
        started = time.monotonic()
        await asyncio.sleep(0.01)
        longest_pause = max(longest_pause, time.monotonic() - started - 0.01)
    # The stream sleeps for 1.5 s; the shared loop was never blocked that long.
    assert longest_pause < 1.0
    assert len(screen.lines) <= 20


async def test_lines_lose_colours_and_reveal_invisible_characters(channels: Hub, log: Log) -> None:
    screen = Screen(channels)
    await screen.subscribe()
    log.queued += ["\x1b[31mred\x1b[0m\n", "\u202ebackwards\x07", "<b>bold</b>", "y" * 9000]
    await until(lambda: len(screen.lines) == 5)
    red, backwards, bold, long = screen.lines[1:]
    assert red == "red"
    assert backwards == "\u27e8U+202E\u27e9backwards\u2407"
    assert bold == "&lt;b&gt;bold&lt;/b&gt;"
    assert long.endswith("(9,000 characters)")
    assert len(long) < 4100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[1;38:5:196mred\x1b[m", "red"),
        ("\x1b[2K\x1b[1G\x1b[?25ldone\x1b[?25h", "done"),
        ("see \x1b]8;;https://example.org/a?b\x1b\\the docs\x1b]8;;\x1b\\.", "see the docs."),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b(B\x1b=plain\x1bc", "plain"),
        ("[31mnot a sequence", "[31mnot a sequence"),
    ],
)
async def test_lines_lose_escape_sequences(
    channels: Hub, log: Log, text: str, expected: str
) -> None:
    screen = Screen(channels)
    await screen.subscribe()
    log.queued += [text]
    await until(lambda: len(screen.lines) == 2)

    assert screen.lines[1] == expected


class Guarded(Log):
    """A log stream of several sources that requires a right in the cluster."""

    rights = (ClusterRight(verb="get", resource="pods", subresource="log"),)

    def access_for(self, filters: Mapping[str, str]) -> LogAccess:
        name = filters.get("name", "")
        if name == "nowhere":
            raise NotFound("there is no nowhere")
        return LogAccess(source="p-east", namespace=f"east/{name}", right=self.rights[0])


@pytest.mark.parametrize("log", [Guarded()])
async def test_log_requires_its_scope_and_cluster_right(channels: Hub, log: Log) -> None:
    in_cluster = Scope(
        access_log=False, guarded=("p-east",), namespaces=("east/a", "east/b"),
        rights=(("get pods/log", "east/a"), ("get pods/log", "west/c")),
    )  # fmt: skip
    other_source = Scope(grants=(Grant(sources=("p-west",)),), access_log=False)
    for scope, name, message in (
        (in_cluster, "a", "first"),
        (in_cluster, "b", "requires the right to `get pods/log` in the namespace east/b"),
        (in_cluster, "c", "your permissions do not include it"),
        (in_cluster, "nowhere", "there is no nowhere"),
        (other_source, "a", "your permissions do not include it"),
        (FULL_SCOPE, "b", "first"),
        (Scope(access_log=False), "b", "first"),
    ):
        screen = Screen(channels, f"p.log?name={name}")
        await screen.subscribe(scope)
        assert message in screen.text.replace("&#39;", "'"), (name, message)
        channels.disconnect(screen.outbox)
    assert {filters["name"] for filters in log.opened} == {"a", "b"}
    less = msgspec.structs.replace(in_cluster, rights=())
    assert in_cluster.covers(less)
    assert not less.covers(in_cluster)


class Catalog(Log):
    """A log stream in which only the names that begin with `real` exist."""

    async def lines(self, filters: Mapping[str, str]) -> AsyncIterator[Sequence[Line]]:
        if not filters.get("name", "").startswith("real"):
            raise NotFound(f"there is no pod named {filters.get('name')}")
        yield [Line(text=f"line of {filters['name']}")]
        await asyncio.Event().wait()


async def open_logs(channels: Hub, user: str, names: Sequence[str]) -> list[str]:
    """What a user sees of each log, opened one after the other and left open."""
    scope = FULL_SCOPE
    texts = []
    for place in range(0, len(names), 8):
        screens = [Screen(channels, f"p.log?name={name}") for name in names[place : place + 8]]
        for screen in screens:
            screen.outbox = channels.connect(screen, user)
            await screen.subscribe(scope)
        await until(
            lambda screens=screens: all("waiting" not in screen.text.lower() for screen in screens)
        )
        texts += [screen.text for screen in screens]
    return texts


@pytest.mark.parametrize("log", [Catalog()])
async def test_one_user_cannot_take_the_logs_of_all(channels: Hub, log: Log) -> None:
    limit, total = log_feed.FEEDS_PER_USER, log_feed.MAX_FEEDS
    greedy = await open_logs(channels, "mallory", [f"no{number}" for number in range(limit + 4)])
    assert all("there is no pod named" in text for text in greedy[:limit])
    assert all(f"You have {limit} logs open already" in text for text in greedy[limit:])
    assert len(channels.view.log_feeds) == limit  # type: ignore[arg-type]
    # Others open theirs, also once all places are taken: what has failed makes room.
    for user in range((total - limit) // limit):
        texts = await open_logs(channels, f"u{user}", [f"real{user}-{n}" for n in range(limit)])
        assert all("line of real" in text for text in texts)
    assert len(channels.view.log_feeds) == total  # type: ignore[arg-type]
    texts = await open_logs(channels, "ada", ["real-ada"])
    assert "line of real-ada" in texts[0]
    assert len(channels.view.log_feeds) == total  # type: ignore[arg-type]


@pytest.mark.parametrize("log", [Catalog()])
async def test_feeds_that_no_one_looks_at_make_room_first(
    channels: Hub, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_feed, "LINGER", 60.0)
    feeds = channels.view.log_feeds
    for number in range(log_feed.FEEDS_PER_USER):
        feeds.close_feed(feeds.open("p", "log", {"name": f"real{number}"}, 20, "ada"))
    feed = feeds.open("p", "log", {"name": "real-new"}, 20, "ada")
    await feed.wait_until_started(5)
    assert [each.line.text for each in feed.lines] == ["line of real-new"]
    assert len(feeds) == log_feed.FEEDS_PER_USER  # type: ignore[arg-type]


@pytest.mark.parametrize("log", [Catalog()])
async def test_logs_that_are_all_in_use_refuse_one_more_with_a_reason(
    channels: Hub, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_feed, "MAX_FEEDS", 2)
    feeds = channels.view.log_feeds
    used = [feeds.open("p", "log", {"name": f"real{number}"}, 20) for number in range(2)]
    for feed in used:
        await feed.wait_until_started(5)
    with pytest.raises(LimitExceeded, match="2 logs are open already"):
        feeds.open("p", "log", {"name": "real-more"}, 20)
    # The same log again is no further feed.
    assert feeds.open("p", "log", {"name": "real0"}, 20) is used[0]
