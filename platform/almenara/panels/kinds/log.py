"""The last lines of a log stream, followed while the panel is open."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.errors import LimitExceeded, NotFound
from almenara.hookspecs import ClusterRight, LogAccess, LogPanel, LogQuery, LogStream
from almenara.panels.filters import CustomFilters, PanelFilters
from almenara.panels.kinds.base import make_panel
from almenara.panels.panel import Panel
from almenara.panels.view import LogFeed, NumberedLine, View

FIRST_LINES_TIMEOUT: Final = 1.5
"""Seconds that a page waits for the first lines of a log."""
STATE_TEXTS: Final[Mapping[str, str]] = {
    "starting": "Waiting for the first lines.",
    "following": "",
    "ended": "The log has ended; no more lines will arrive.",
    "failed": "The log could not be read.",
}


def build(plugin: str, declaration: LogPanel, link: str) -> Panel:
    """Build the panel of a declaration."""
    query = declaration.query

    async def prepare(view: View, filters: CustomFilters) -> Mapping[str, Any]:
        try:
            feed = open_feed(view, plugin, query, filters)
        except (NotFound, LimitExceeded) as error:
            return describe_refusal(str(error))
        try:
            await feed.wait_until_started(FIRST_LINES_TIMEOUT)
            return describe_feed(feed, filters.to_query().get("text", ""), feed.read_count)
        finally:
            view.log_feeds.close_feed(feed)

    return make_panel(plugin, declaration, prepare, parse=CustomFilters.from_query, log_query=query)


def rights_of(stream: LogStream) -> Sequence[ClusterRight]:
    """The rights in a cluster that reading a log stream may need."""
    return getattr(stream, "rights", ())


def access_for(plugin: str, stream: LogStream, filters: Mapping[str, str]) -> LogAccess:
    """Where the lines of a log stream belong, which decides who may read them.

    Raises `NotFound` where the stream has no such log.
    """
    if hasattr(stream, "access_for"):
        access: LogAccess = stream.access_for(filters)
        return access
    right = next(iter(rights_of(stream)), None)
    return LogAccess(source=plugin, namespace=filters.get("namespace", ""), right=right)


def open_feed(view: View, plugin: str, query: LogQuery, filters: PanelFilters) -> LogFeed:
    """Open the feed of a log panel, if the view's scope permits it; close it after use.

    Raises `NotFound`, also for what is outside the scope, and `LimitExceeded`.
    """
    values = {name: text for name, text in filters.to_query().items() if name != "text"}
    stream = view.log_feeds.stream(plugin, query.stream)
    access = access_for(plugin, stream, values)
    scope = view.scope
    if not scope.permits_namespaced(access.source, access.namespace):
        raise NotFound("This log does not exist, or your permissions do not include it.")
    right = access.right
    if right is not None and not scope.has_cluster_right(
        str(right), access.source, access.namespace
    ):
        raise NotFound(
            f"Reading this log requires the right to `{right}` in the namespace"
            f" {access.namespace}, which you do not have in the cluster."
        )
    return view.log_feeds.open(plugin, query.stream, values, query.limit, view.user)


def matches_text(numbered: NumberedLine, text: str) -> bool:
    """Whether a line has all the words of a search."""
    line = f"{numbered.line.source} {numbered.line.text}".casefold()
    return all(word in line for word in text.casefold().split())


def describe_feed(feed: LogFeed, text: str, last_number: int) -> dict[str, Any]:
    """The values of the template for a feed: the lines up to a number that match a search."""
    return {
        "lines": [
            numbered
            for numbered in feed.lines
            if numbered.number <= last_number and matches_text(numbered, text)
        ],
        "state": feed.state,
        "message": feed.error or STATE_TEXTS[feed.state],
        "search": text,
        "buffered": len(feed.lines),
        "limit": feed.limit,
    }


def describe_refusal(reason: str) -> dict[str, Any]:
    """The values of the template where no feed could be opened."""
    return {
        "lines": [], "state": "failed", "message": reason, "search": "", "buffered": 0, "limit": 0,
    }  # fmt: skip
