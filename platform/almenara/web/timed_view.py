"""The view of a request in its time window: of the present, or as of a moment."""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from litestar.connection import ASGIConnection

from almenara.errors import NotFound, Unavailable, describe_error
from almenara.panels.past import view_at
from almenara.panels.time_window import (
    PRESENT,
    TIME_PARAMETERS,
    TimeWindow,
    parse_time_window,
)
from almenara.panels.view import View
from almenara.signals import now
from almenara.web.authorization import scoped_view
from almenara.web.services import Services

Connection = ASGIConnection[Any, Any, Any, Any]
STATE_KEY = "timed_request"


class TimedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a request shows of time."""

    window: TimeWindow
    """Of a playback, with its speed; the view is as of the moment it has reached."""
    view: View
    problem: str = ""
    """Why it is another window than the address says, and which; empty where it is that."""
    reason: str = ""
    """The first part of the problem: what is wrong with the address."""
    earliest: int | None = None
    """The start of the stored past, in microseconds since the epoch."""


async def read_time(
    services: Services, connection: Connection, names: Collection[str] = TIME_PARAMETERS
) -> TimedRequest:
    """Read the time window of a request, and open the caller's view of it.

    `names` are the parameters that are read; the others are filters of the page.
    """
    view = scoped_view(services, connection)
    recorder = view.resources.recorder
    earliest = None if recorder is None else recorder.earliest
    values = {name: text for name, text in connection.query_params.items() if name in names}
    parsed = parse_time_window(values, now=now(), earliest=earliest)
    window, reason, problem = parsed.window, parsed.problem, parsed.message
    try:
        view = await view_at(view, window.position(now()))
    except (Unavailable, NotFound) as error:
        reason = f"{describe_error(error).rstrip('.')}."
        problem = f"{reason} {PRESENT}"
        window = TimeWindow(span=window.span)
        view = await view_at(view, window)
    timed = TimedRequest(
        window=window, view=view, problem=problem, reason=reason, earliest=earliest
    )
    connection.scope["state"][STATE_KEY] = timed
    return timed


def select_filters(values: Mapping[str, str], window: TimeWindow) -> dict[str, str]:
    """Return the parameters of an address that are filters of panels.

    `since` and `until` also bound the events of a page of a range, in its order.
    """
    times = window.to_query() if window.mode == "window" else {}
    bounds = {name: times.get(name, values.get(name, "")) for name in ("since", "until")}
    return {**values, **{name: text for name, text in bounds.items() if text}}


def get_timed_request(connection: Connection) -> TimedRequest | None:
    """Return what `read_time` read of a request; None for a page without a time window."""
    timed = connection.scope["state"].get(STATE_KEY)
    return timed if isinstance(timed, TimedRequest) else None


async def timed_view(
    services: Services, connection: Connection, names: Collection[str] = TIME_PARAMETERS
) -> View:
    """Return the view of a request in its time window, limited to the caller's scope."""
    return (await read_time(services, connection, names)).view
