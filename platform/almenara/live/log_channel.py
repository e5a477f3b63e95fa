"""Panels that show a log: only new lines are sent, and only the last ones are kept."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.errors import NotFound
from almenara.live.channel import Channel
from almenara.live.log_feed import LogFeed, shown, untold, wants
from almenara.panels.kinds import opened
from almenara.panels.renderer import Frame, envelope

FIRST_LINES: Final = 1.0
"""Seconds that a channel waits for lines before it opens without any."""


class LogChannel(Channel):
    """The lines of a feed that have the words searched for."""

    _feed: LogFeed | None = None
    _seen = 0
    """The number of the last line that was sent, or left out by the search."""
    _told: tuple[str, str] = ("", "")

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            if self._feed is not None:
                self._feed.listeners.discard(self.touch)
                self.view.feeds.leave(self._feed)

    async def open(self) -> None:
        try:
            self._feed = opened(self.view, self.panel.plugin, self.panel.log, self.filter)
        except NotFound as error:
            self._frame = self._whole(untold(str(error.args[0])))
            return
        self._feed.listeners.add(self.touch)
        await self._feed.begun(FIRST_LINES)
        self._frame = self._anew(self._feed)

    async def tick(self) -> Frame | None:
        feed = self._feed
        if feed is None:
            return None
        fresh = list(feed.after(self._seen))
        if (feed.state, feed.error) != self._told or feed.read - self._seen > len(fresh):
            self._frame = self._anew(feed)
            return self._frame
        self._seen = feed.read
        wanted = [it for it in fresh if wants(it, self._text)]
        if not wanted:
            return None
        self._frame = None
        rows = self.renderer.render("log_lines.html", {"lines": wanted})
        return envelope(
            rows, f"#{self.panel.anchor}-lines", "beforeend", rows=True, panel=self.panel.name
        )

    def snapshot(self) -> Frame:
        if self._frame is None and self._feed is not None:
            # No further than the others are, who get what comes next as an addition.
            self._frame = self._whole(shown(self._feed, self._text, self._seen))
        return super().snapshot()

    @property
    def _text(self) -> str:
        return str(self.filter.to_query().get("text", ""))

    def _anew(self, feed: LogFeed) -> Frame:
        self._seen = feed.read
        self._told = feed.state, feed.error
        return self._whole(shown(feed, self._text, self._seen))

    def _whole(self, values: Mapping[str, Any]) -> Frame:
        self.counters.renders += 1
        content = self.renderer.render(self.panel.template, {"panel": self.panel, **values})
        return envelope(content, self.target, "innerHTML", panel=self.panel.name)
