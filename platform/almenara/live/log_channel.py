"""The channel of a log: only new lines are sent, and only the last ones are kept on screen."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.errors import LimitExceeded, NotFound
from almenara.live.channel import Channel
from almenara.live.frames import Frame, make_frame
from almenara.panels.kinds.log import describe_feed, describe_refusal, matches_text, open_feed
from almenara.panels.view import LogFeed

FIRST_LINES_TIMEOUT: Final = 1.0
"""Seconds that a channel waits for lines before it opens without any."""


class LogChannel(Channel):
    """The lines of a log feed that match the words of a search."""

    _feed: LogFeed | None = None
    _last_number = 0
    """The number of the last line that was sent, or did not match."""
    _sent_state: tuple[str, str] = ("", "")
    """The state and the error that were sent."""

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            if self._feed is not None:
                self._feed.listeners.discard(self.mark_changed)
                self.view.log_feeds.close_feed(self._feed)

    async def open(self) -> None:
        if self.panel.log_query is None:
            raise TypeError(f"the panel {self.panel.name} follows no log")
        try:
            self._feed = open_feed(self.view, self.panel.plugin, self.panel.log_query, self.filters)
        except (NotFound, LimitExceeded) as error:
            self._frame = self._render_log(describe_refusal(str(error)))
            return
        self._feed.listeners.add(self.mark_changed)
        await self._feed.wait_until_started(FIRST_LINES_TIMEOUT)
        self._frame = self._render_feed(self._feed)

    async def tick(self) -> Frame | None:
        feed = self._feed
        if feed is None:
            return None
        new = [numbered for numbered in feed.lines if numbered.number > self._last_number]
        if (feed.state, feed.error) != self._sent_state or (
            feed.read_count - self._last_number > len(new)
        ):
            self._frame = self._render_feed(feed)
            return self._frame
        self._last_number = feed.read_count
        lines = [numbered for numbered in new if matches_text(numbered, self._text)]
        if not lines:
            return None
        self._frame = None
        rows = self.renderer.render("log_lines.html", {"lines": lines})
        return make_frame(
            rows, f"#{self.panel.anchor}-lines", "beforeend", rows=True, panel=self.panel.name
        )

    def snapshot(self) -> Frame:
        if self._frame is None and self._feed is not None:
            # No further than other subscribers are, who get the next lines as an addition.
            values = describe_feed(self._feed, self._text, self._last_number)
            self._frame = self._render_log(values)
        return super().snapshot()

    @property
    def _text(self) -> str:
        return self.filters.to_query().get("text", "")

    def _render_feed(self, feed: LogFeed) -> Frame:
        self._last_number = feed.read_count
        self._sent_state = feed.state, feed.error
        return self._render_log(describe_feed(feed, self._text, self._last_number))

    def _render_log(self, values: Mapping[str, Any]) -> Frame:
        self.counters.renders += 1
        content = self.renderer.render(self.panel.template, {"panel": self.panel, **values})
        return make_frame(content, self.target, "innerHTML", panel=self.panel.name)
