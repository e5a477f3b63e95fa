"""LogFeeds: the lines of tails, each read once for all who look at it, and only while they do."""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import structlog

from almenara.errors import NotFound, describe_error
from almenara.hookspecs import ClusterRight, Line, LogAccess, LogStream, Publish
from almenara.supervisor.source_thread import SourceThread
from almenara.supervisor.watchdog import Heartbeat

log = structlog.get_logger(__name__)

LONGEST_LINE: Final = 4_000
LINGER: Final = 10.0
"""Seconds a feed goes on when nobody looks, as between a page and its WebSocket."""
FEEDS_AT_ONCE: Final = 64
BACKOFF: Final = 1.0
BACKOFF_LIMIT: Final = 15.0
STOP_TIMEOUT: Final = 2.0
COLOURS: Final = re.compile("\x1b\\[[0-9;:]*[mK]")

State = Literal["starting", "following", "ended", "failed"]


class Numbered(msgspec.Struct, frozen=True):
    """A line and its place among all that the feed has read."""

    number: int
    line: Line


class LogFeed:
    """The last lines of one tail with one set of values."""

    def __init__(self, name: str, tail: LogStream, asked: Mapping[str, str], limit: int) -> None:
        self.name, self.tail, self.asked = name, tail, asked
        self.lines: deque[Numbered] = deque(maxlen=limit)
        self.read = 0
        """Lines read so far."""
        self.state: State = "starting"
        self.error = ""
        self.users = 0
        self.listeners: set[Callable[[], None]] = set()
        self.task: asyncio.Task[None] | None = None
        self.ending: asyncio.TimerHandle | None = None
        self._begun = asyncio.Event()

    async def begun(self, seconds: float) -> None:
        """Wait until it has lines or says why it has none, for so long at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._begun.wait()
        except TimeoutError:
            return

    def after(self, number: int) -> Iterator[Numbered]:
        """The lines kept that were read after the one of this number."""
        return (it for it in self.lines if it.number > number)

    async def run(self) -> None:
        """Follow until cancelled or ended."""
        wait = BACKOFF
        while True:
            thread = SourceThread(f"tail {self.name}", self._follow, self._take, Heartbeat())
            before = self.read
            try:
                await thread.run(STOP_TIMEOUT)
            except NotFound as error:
                self._become("failed", describe_error(error))
                return
            except Exception as error:
                log.warning(
                    "a tail failed", tail=self.name, error=describe_error(error, with_type=True)
                )
                self._become("failed", describe_error(error, with_type=True))
            else:
                self._become("ended")
                return
            if self.read > before:
                wait = BACKOFF
            await asyncio.sleep(wait)
            wait = min(wait * 2, BACKOFF_LIMIT)
            # What it reads next begins with the same last lines.
            self.lines.clear()

    async def _follow(self, publish: Publish) -> None:
        give: Any = publish
        async for lines in self.tail.lines(self.asked):
            await give([_trimmed(line) for line in lines])
        await give([])

    async def _take(self, lines: Sequence[Any]) -> None:
        for line in lines:
            self.read += 1
            self.lines.append(Numbered(self.read, line))
        self._become("following")

    def _become(self, state: State, error: str = "") -> None:
        self.state, self.error = state, error
        self._begun.set()
        for tell in self.listeners:
            tell()


def _trimmed(line: Line) -> Line:
    text = COLOURS.sub("", line.text.rstrip("\r\n"))
    if len(text) > LONGEST_LINE:
        text = f"{text[:LONGEST_LINE]}\u2026 ({len(text):,} characters)"
    return line if text == line.text else msgspec.structs.replace(line, text=text)


def rights_of(tail: LogStream) -> Sequence[ClusterRight]:
    """The rights in a cluster that it may take to see lines of a tail."""
    return getattr(tail, "rights", ())


def access_for(plugin: str, tail: LogStream, asked: Mapping[str, str]) -> LogAccess:
    """Where the lines of a tail belong. Raises `NotFound`."""
    told: Callable[[Mapping[str, str]], LogAccess] | None = getattr(tail, "access_for", None)
    if told is not None:
        return told(asked)
    right = next(iter(rights_of(tail)), None)
    return LogAccess(source=plugin, namespace=asked.get("namespace", ""), right=right)


class LogFeeds:
    """The tails that plugins brought, and the feeds of those that somebody looks at."""

    def __init__(self) -> None:
        self._tails: dict[str, dict[str, LogStream]] = {}
        self._open: dict[tuple[str, tuple[tuple[str, str], ...], int], LogFeed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Of feeds that are open, or have not ended yet."""

    def add(self, plugin: str, tails: Sequence[LogStream]) -> None:
        """Take in the tails of a plugin."""
        self._tails[plugin] = {tail.name: tail for tail in tails}

    def remove(self, plugin: str) -> None:
        """Forget the tails of a plugin; what follows one of them ends."""
        self._tails.pop(plugin, None)
        for key, feed in list(self._open.items()):
            if key[0].startswith(f"{plugin}."):
                self._end(key, feed)

    def __len__(self) -> int:
        return len(self._open)

    def rights(self) -> set[ClusterRight]:
        """The rights in a cluster that any of the tails takes."""
        tails = (tail for tails in self._tails.values() for tail in tails.values())
        return {right for tail in tails for right in rights_of(tail)}

    def known(self, plugin: str, tail: str) -> LogStream:
        """A tail of a plugin. Raises `NotFound`."""
        found = self._tails.get(plugin, {}).get(tail)
        if found is None:
            raise NotFound(f"plugin {plugin} has no tail named {tail}")
        return found

    def open(self, plugin: str, tail: str, asked: Mapping[str, str], limit: int) -> LogFeed:
        """The feed of a tail with these values; each `open` is followed by a `leave`.

        Raises `NotFound` for a tail that is not there, and where too many are followed already.
        """
        name = f"{plugin}.{tail}"
        key = (name, tuple(sorted(asked.items())), limit)
        feed = self._open.get(key)
        if feed is None:
            known = self.known(plugin, tail)
            if len(self._open) >= FEEDS_AT_ONCE:
                raise NotFound(
                    f"{FEEDS_AT_ONCE} logs are followed already; close one and try again"
                )
            feed = self._open[key] = LogFeed(name, known, asked, limit)
            feed.task = asyncio.create_task(feed.run(), name=f"feed {name}")
            self._tasks.add(feed.task)
            feed.task.add_done_callback(self._tasks.discard)
        feed.users += 1
        if feed.ending is not None:
            feed.ending.cancel()
            feed.ending = None
        return feed

    def leave(self, feed: LogFeed) -> None:
        """One looks at it no more; the last one's leaving ends it, after a moment."""
        feed.users -= 1
        if feed.users:
            return
        key = next((key for key, it in self._open.items() if it is feed), None)
        if key is not None:
            feed.ending = asyncio.get_running_loop().call_later(LINGER, self._end, key, feed)

    def _end(self, key: tuple[str, tuple[tuple[str, str], ...], int], feed: LogFeed) -> None:
        if self._open.get(key) is feed:
            del self._open[key]
        if feed.task is not None:
            feed.task.cancel()

    async def close(self) -> None:
        """End every feed."""
        for key, feed in list(self._open.items()):
            if feed.ending is not None:
                feed.ending.cancel()
            self._end(key, feed)
        await asyncio.gather(*self._tasks, return_exceptions=True)


SAID: Final[Mapping[State, str]] = {
    "starting": "Reading; nothing has come yet.",
    "following": "",
    "ended": "It has ended; no more lines will come.",
    "failed": "It cannot be read.",
}


def wants(numbered: Numbered, text: str) -> bool:
    """Whether a line has all the words of a search."""
    line = numbered.line
    whole = f"{line.source} {line.text}".casefold()
    return all(word in whole for word in text.casefold().split())


def shown(feed: LogFeed, text: str, until: int) -> dict[str, Any]:
    """What a panel shows of a feed: the lines up to a number that have the words searched for."""
    lines = [it for it in feed.lines if it.number <= until and wants(it, text)]
    return {
        "lines": lines,
        "state": feed.state,
        "said": feed.error or SAID[feed.state],
        "searched": text,
        "read": len(feed.lines),
        "limit": feed.lines.maxlen,
    }


def untold(reason: str) -> dict[str, Any]:
    """What a panel shows where there is no feed."""
    return {
        "lines": [], "state": "failed", "said": reason, "searched": "", "read": 0, "limit": 0,
    }  # fmt: skip
