"""Log feeds: the lines of log streams, read once for all viewers, and only while needed."""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import structlog

from almenara.errors import LimitExceeded, NotFound, describe_error
from almenara.hookspecs import ClusterRight, Line, LogStream, Publish
from almenara.panels import view
from almenara.panels.kinds.log import rights_of
from almenara.panels.view import NumberedLine
from almenara.supervisor.source_thread import SourceThread
from almenara.supervisor.watchdog import Heartbeat

log = structlog.get_logger(__name__)

MAX_LINE: Final = 4_000
LINGER: Final = 10.0
"""Seconds that a feed without users goes on, as between a page and its WebSocket."""
MAX_FEEDS: Final = 64
FEEDS_PER_USER: Final = 16
FIRST_RETRY: Final = 1.0
MAX_RETRY: Final = 15.0
STOP_TIMEOUT: Final = 2.0
ESCAPE_SEQUENCES: Final = re.compile(
    "\x1b(?:"
    "\\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movement, erasing
    "|[\\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\\\)"  # OSC and other strings: titles, hyperlinks
    "|[ -/]+[0-~]"  # character sets
    "|[0-Z\\\\^-~]"  # single functions, such as reset
    ")"
)
"""What ECMA-48 terminals act on instead of displaying it."""

State = Literal["starting", "following", "ended", "failed"]
FeedKey = tuple[str, tuple[tuple[str, str], ...], int]
"""The full name of a log stream, the values of its filters, and the limit of lines."""


class LogFeed:
    """The last lines of one log stream with one set of filters: `panels.view.LogFeed`."""

    def __init__(
        self, name: str, stream: LogStream, filters: Mapping[str, str], limit: int, user: str = ""
    ) -> None:
        self.name, self.stream, self.filters, self.limit = name, stream, filters, limit
        self.user = user
        """Who opened it; others share it at no cost."""
        self.lines: deque[NumberedLine] = deque(maxlen=limit)
        self.read_count = 0
        self.state: State = "starting"
        self.error = ""
        self.users = 0
        self.listeners: set[Callable[[], None]] = set()
        self.task: asyncio.Task[None] | None = None
        self.linger_timer: asyncio.TimerHandle | None = None
        self._started = asyncio.Event()

    async def wait_until_started(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._started.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Follow the stream until cancelled or ended; after an error, start again."""
        delay = FIRST_RETRY
        while True:
            thread = SourceThread(f"log {self.name}", self._follow, self._accept, Heartbeat())
            read_before = self.read_count
            try:
                await thread.run(STOP_TIMEOUT)
            except NotFound as error:
                self.set_state("failed", describe_error(error))
                return
            except Exception as error:
                text = describe_error(error, with_type=True)
                log.warning("a log stream failed", stream=self.name, error=text)
                self.set_state("failed", text)
            else:
                self.set_state("ended")
                return
            if self.read_count > read_before:
                delay = FIRST_RETRY
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_RETRY)
            # The stream starts again with the same last lines.
            self.lines.clear()

    async def _follow(self, publish: Publish) -> None:
        publish_lines: Any = publish
        async for lines in self.stream.lines(self.filters):
            await publish_lines([_clean(line) for line in lines])
        await publish_lines([])

    async def _accept(self, lines: Sequence[Any]) -> None:
        for line in lines:
            self.read_count += 1
            self.lines.append(NumberedLine(self.read_count, line))
        self.set_state("following")

    def set_state(self, state: State, error: str = "") -> None:
        """Set the state and call the listeners."""
        self.state, self.error = state, error
        self._started.set()
        for listener in self.listeners:
            listener()


def _clean(line: Line) -> Line:
    """The line without escape sequences, cut to `MAX_LINE` characters."""
    text = ESCAPE_SEQUENCES.sub("", line.text.rstrip("\r\n"))
    if len(text) > MAX_LINE:
        text = f"{text[:MAX_LINE]}\u2026 ({len(text):,} characters)"
    return line if text == line.text else msgspec.structs.replace(line, text=text)


class LogFeeds:
    """The log streams that plugins have, and the feeds that are open: `panels.view.LogFeeds`."""

    def __init__(self) -> None:
        self._streams: dict[str, dict[str, LogStream]] = {}
        self._feeds: dict[FeedKey, LogFeed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Of feeds that are open, or have not ended yet."""

    def add(self, plugin: str, streams: Sequence[LogStream]) -> None:
        """Add the log streams of a plugin."""
        self._streams[plugin] = {stream.name: stream for stream in streams}

    def remove(self, plugin: str) -> None:
        """Remove the log streams of a plugin; their feeds end."""
        self._streams.pop(plugin, None)
        for key, feed in list(self._feeds.items()):
            if key[0].startswith(f"{plugin}."):
                self._end(key, feed)

    def __len__(self) -> int:
        return len(self._feeds)

    def rights(self) -> set[ClusterRight]:
        """The rights in a cluster that any of the log streams needs."""
        return {
            right
            for streams in self._streams.values()
            for stream in streams.values()
            for right in rights_of(stream)
        }

    def stream(self, plugin: str, name: str) -> LogStream:
        stream = self._streams.get(plugin, {}).get(name)
        if stream is None:
            raise NotFound(f"The plugin {plugin} has no log stream named {name}.")
        return stream

    def open(
        self, plugin: str, stream: str, filters: Mapping[str, str], limit: int, user: str = ""
    ) -> LogFeed:
        name = f"{plugin}.{stream}"
        key = (name, tuple(sorted(filters.items())), limit)
        feed = self._feeds.get(key)
        if feed is None:
            log_stream = self.stream(plugin, stream)
            self._make_room(user)
            feed = self._feeds[key] = LogFeed(name, log_stream, filters, limit, user)
            feed.task = asyncio.create_task(feed.run(), name=f"log feed {name}")
            self._tasks.add(feed.task)
            feed.task.add_done_callback(self._tasks.discard)
        feed.users += 1
        if feed.linger_timer is not None:
            feed.linger_timer.cancel()
            feed.linger_timer = None
        return feed

    def _make_room(self, user: str) -> None:
        """End a feed where the user, or all together, have as many as they may.

        A user's own that no one looks at goes first. Of those of all, one that no one looks at or,
        without any, one that has failed: what does not exist must not keep others from their logs.
        """
        if user:
            own = {key: feed for key, feed in self._feeds.items() if feed.user == user}
            if len(own) >= FEEDS_PER_USER and not self._end_first(own, lambda feed: not feed.users):
                raise LimitExceeded(
                    f"You have {FEEDS_PER_USER} logs open already. Close one and reload this page."
                )
        if len(self._feeds) >= MAX_FEEDS and not (
            self._end_first(self._feeds, lambda feed: not feed.users)
            or self._end_first(self._feeds, lambda feed: feed.state in ("failed", "ended"))
        ):
            raise LimitExceeded(
                f"{MAX_FEEDS} logs are open already. Wait until one is closed, then reload."
            )

    def _end_first(
        self, feeds: Mapping[FeedKey, LogFeed], condition: Callable[[LogFeed], bool]
    ) -> bool:
        """End the oldest feed that meets a condition; whether there was one."""
        for key, feed in feeds.items():
            if condition(feed):
                self._end(key, feed)
                return True
        return False

    def close_feed(self, feed: view.LogFeed) -> None:
        key, own = next(
            ((key, each) for key, each in self._feeds.items() if each is feed), (None, None)
        )
        if key is None or own is None:
            return
        own.users -= 1
        if not own.users:
            loop = asyncio.get_running_loop()
            own.linger_timer = loop.call_later(LINGER, self._end, key, own)

    def _end(self, key: FeedKey, feed: LogFeed) -> None:
        if self._feeds.get(key) is feed:
            del self._feeds[key]
        if feed.linger_timer is not None:
            feed.linger_timer.cancel()
        if feed.task is not None:
            feed.task.cancel()

    async def close(self) -> None:
        """End every feed."""
        for key, feed in list(self._feeds.items()):
            self._end(key, feed)
        await asyncio.gather(*self._tasks, return_exceptions=True)
