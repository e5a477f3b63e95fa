"""The Events page: the events that match a filter, newest first."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.response import Redirect

from almenara.clock import clock_at
from almenara.history import Filter
from almenara.panels.event_rows import event_row
from almenara.panels.filters import EVENT_FILTERS
from almenara.panels.formats import encode_query
from almenara.signals import now
from almenara.web.authorization import VIEWER
from almenara.web.filter_form import CURSORS, build_event_form
from almenara.web.layout import PageRequest, render_page, render_panel, strip_parameters
from almenara.web.services import Services
from almenara.web.state import get_identity
from almenara.web.timed_view import read_time

VISIBLE_FILTERS: Final = 12
"""Saved filters that the page links to; the list of all has the others."""
LARGEST_SEQUENCE: Final = 2**63 - 1
SEQUENCE: Final = re.compile(r"[0-9]{1,19}")
LIVE_PANELS: Final = ("events", "histogram")
OWN_TIME: Final = ("range", "at", "play", "started")
"""The parameters of the time window; `since` and `until` are filters of events here."""


@get("/events", name="events", opt=VIEWER, include_in_schema=False)
async def events(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Render a page of the list: the newest events, live, or older ones where a cursor is given."""
    timed = await read_time(services, request, OWN_TIME)
    view, window = timed.view, timed.window
    values = strip_parameters(request, EVENT_FILTERS | set(CURSORS) | set(OWN_TIME))
    if values != dict(request.query_params):
        return Redirect("/events" + encode_query(values), status_code=303)
    # Links keep the text typed in, so that `15m` still means the last 15 minutes tomorrow.
    parameters = {name: value for name, value in values.items() if name not in CURSORS}
    # A range is the time up to now, unless the filter has times of its own.
    since = {"since": values["range"]} if "range" in values and not timed.problem else {}
    filters = {
        name: text for name, text in {**since, **parameters}.items() if name in EVENT_FILTERS
    }
    moment = {"at": values["at"]} if "at" in values and view.moment is not None else {}
    try:
        after, before = (parse_sequence(name, values.get(name)) for name in CURSORS)
        with clock_at(view.moment):
            event_filter = Filter.from_query(filters)
    except ValueError as error:
        return render_page(
            services,
            request,
            "events_page.html",
            {
                **await build_event_form(view, values),
                **list_saved_filters(services, request, filters),
                "problem": str(error),
            },
            name="events",
            title="Events",
            status_code=400,
        )
    is_paged = after is not None or before is not None
    # Neither an older page nor a range that has ended can get new events.
    is_closed = event_filter.until is not None and event_filter.until <= now()
    is_live = window.is_live and not is_paged and not is_closed
    history = view.history
    limit = services.settings.panels.visible_events
    records = await history.events(
        event_filter, after=after, before=before, limit=limit, is_preview=True
    )
    older_link = newer_link = ""
    if records:
        oldest, newest = records[-1].sequence, records[0].sequence
        if await history.events(event_filter, before=oldest, limit=1, is_preview=True):
            older_link = "/events" + encode_query({**parameters, "before": str(oldest)})
        if is_paged and await history.events(event_filter, after=newest, limit=1, is_preview=True):
            newer_link = "/events" + encode_query({**parameters, "after": str(newest)})
    histogram = services.panels["histogram"]
    event_list = services.renderer.render(
        services.panels["events"].template,
        {
            "filter": event_filter,
            "filtered": event_filter,
            "rows": [event_row(record) for record in records],
            "conflated": 0,
        },
    )
    return render_page(
        services,
        request,
        "events_page.html",
        {
            **await build_event_form(view, values),
            **list_saved_filters(services, request, filters),
            "problem": None,
            "panels": {
                "histogram": await render_panel(services, view, histogram, event_filter),
                "events": event_list,
            },
            "older_link": older_link,
            "newer_link": newer_link,
            "newest_link": "/events" + encode_query(parameters),
            "is_paged": is_paged,
            "is_live": is_live,
            "export_query": urlencode({**filters, **moment}),
        },
        name="events",
        title="Events",
        channels=(
            [services.panels[name].channel(event_filter, window) for name in LIVE_PANELS]
            if is_live or (window.speed and not is_paged)
            else []
        ),
        status_code=400 if timed.problem else 200,
    )


def list_saved_filters(
    services: Services, request: PageRequest, query: Mapping[str, str]
) -> dict[str, Any]:
    """Return the links to saved filters, and the one that saves the filter of the page."""
    saved = services.saved_filters.by_title(get_identity(request))
    return {
        "saved_filters": [
            {
                "title": each.title,
                "link": "/events" + encode_query(each.query),
                "is_current": each.query == query,
            }
            for each in saved[:VISIBLE_FILTERS]
        ],
        "save_link": "/event-filters/edit" + encode_query(query)
        if query and all(each.query != query for each in saved)
        else "",
    }


def is_sequence(text: str) -> bool:
    """Whether a text is the sequence of an event."""
    return SEQUENCE.fullmatch(text) is not None and int(text) <= LARGEST_SEQUENCE


def parse_sequence(name: str, text: str | None) -> int | None:
    """Return the sequence in a parameter; None without one. Raises `ValueError`."""
    if text is None:
        return None
    if not is_sequence(text):
        raise ValueError(
            f"{name} must be the sequence of an event, a whole number, not {text[:40]!r}"
        )
    return int(text)
