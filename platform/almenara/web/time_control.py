"""The time control of pages, the bar of the past, and the window in the links of a page."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Request

from almenara.panels.formats import encode_query, format_timestamp
from almenara.panels.time_window import (
    DEFAULT_SPAN,
    SPEEDS,
    TIME_PARAMETERS,
    TimeWindow,
    format_span,
)
from almenara.signals import now
from almenara.units import MINUTE
from almenara.web.timed_view import TimedRequest

RANGES: Final = (
    ("15 min", "15m"), ("1 h", "1h"), ("6 h", "6h"), ("24 h", "24h"), ("7 d", "7d"),
)  # fmt: skip
CURSORS: Final = ("after", "before", "page", "part")
"""Parameters of an address that belong to one window."""
STEPS: Final = (("failure", "failure"), ("transition", "transition"))
"""What the bar steps to: the kind of step, and its name."""
PAGE_LINK: Final = re.compile(
    r'href="(?<!data-time href=")(/(?:'
    r'(?:dashboards|panels|events|timeline|alerts|sources|changes|explore)\b[^"#]*'
    r'|\?[^"#]*)?)(#[^"]*)?"'
)
"""A link to a page, in markup that Jinja has escaped: no text can contain its quotes."""


def keep_window(content: str, window: TimeWindow) -> str:
    """Return a page whose links lead to pages of the same time window."""
    query = window.to_query()
    if not query:
        return content
    # Lists of events have bounds of their own, and stay as of the same moment.
    conflicts = ("at",) if "at" in query else TIME_PARAMETERS
    own = re.compile(rf"[?;&](?:{'|'.join(conflicts)})=")
    suffix = urlencode(query).replace("&", "&amp;")

    def add(link: re.Match[str]) -> str:
        address, fragment = link[1], link[2] or ""
        if own.search(address):
            return link[0]
        return f'href="{address}{"&amp;" if "?" in address else "?"}{suffix}{fragment}"'

    return PAGE_LINK.sub(add, content)


def build_time_control(
    request: Request[Any, Any, Any], timed: TimedRequest | None
) -> dict[str, Any] | None:
    """Return the values of `time_control.html` and `past_bar.html`; None for a page without."""
    if timed is None:
        return None
    window = timed.window
    path = request.url.path
    others = {
        name: text
        for name, text in request.query_params.items()
        if name not in TIME_PARAMETERS and name not in CURSORS and text
    }

    def link(**times: str) -> str:
        return path + encode_query({**others, **times})

    chosen = format_span(window.span)
    return {
        "path": path,
        "others": others,
        "label": describe_window(window),
        "window": window,
        "problem": timed.problem,
        "live": link(),
        "ranges": [
            {
                "label": label,
                "link": link(range=text),
                "is_current": window.is_live and window.since is None and text == chosen,
            }
            for label, text in RANGES
        ],
        "query": window.to_query(),
        "earliest": timed.earliest,
        "changes": link_to_changes(window),
        "bar": None if timed.view.past is None else build_bar(timed, link, others),
    }


def build_bar(timed: TimedRequest, link: Any, others: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of `past_bar.html`."""
    view, window, earliest = timed.view, timed.window, timed.earliest
    past = view.past
    if past is None:
        raise ValueError("the view is not of the past")
    moment = past.moment

    def at(time: int, **more: str) -> str:
        shown = TimeWindow(mode="moment", span=window.span, until=time)
        return str(link(**shown.to_query(), **more))

    steps = [*STEPS]
    if others.get("correlation"):
        steps.append(("correlation", "event of this correlation"))
    end = min(moment + MINUTE, now())
    return {
        "moment": moment,
        "earliest": earliest,
        "blind": past.blind,
        "noted": past.noted,
        "was_running": past.was_running,
        "speed": window.speed,
        "started": window.started,
        "first": window.until,
        "here": at(moment),
        "minute_back": at(max(moment - MINUTE, earliest or 0)),
        "minute_on": at(end) if end > moment else "",
        "steps": [
            {
                "name": name,
                "back": "/step" + encode_query(step_query(at(moment), kind, "back")),
                "on": "/step" + encode_query(step_query(at(moment), kind, "on")),
            }
            for kind, name in steps
        ],
        "speeds": [(speed, at(moment, play=str(speed))) for speed in SPEEDS],
        "live": link(),
        "changes": link_to_changes(window.position(now())),
    }


def link_to_changes(window: TimeWindow) -> str:
    """Return the address of what changed in a window."""
    if window.is_live and window.since is None:
        return "/changes" + encode_query({"range": format_span(window.span)})
    since, until = window.bounds(now())
    return "/changes" + encode_query({"since": to_text(since), "until": to_text(until)})


def step_query(page: str, kind: str, direction: str) -> dict[str, str]:
    """Return the parameters of the address that steps from a page."""
    return {"to": kind, "direction": direction, "page": page}


def to_text(moment: int) -> str:
    """Return a moment as a parameter of an address."""
    return TimeWindow(mode="moment", until=moment).to_query()["at"]


def describe_window(window: TimeWindow) -> str:
    """Return the name of a window, as the time control shows it."""
    if window.mode == "moment" and window.until is not None:
        return ""
    if window.until is not None and window.since is not None:
        return f"{format_timestamp(window.since)} to {format_timestamp(window.until)}"
    if window.since is not None:
        return f"since {format_timestamp(window.since)}"
    if window.span == DEFAULT_SPAN:
        return "Live"
    name = next((label for label, text in RANGES if text == format_span(window.span)), "")
    return f"Last {name or format_span(window.span)}"
