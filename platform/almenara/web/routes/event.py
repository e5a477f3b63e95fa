"""One event: its page, and the same content for the drawer of the Events page."""

from typing import Any, Final

from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from almenara.bus import Record
from almenara.history import Filter, History
from almenara.panels.event_rows import link_to_events
from almenara.panels.filters import EVENT_FILTERS
from almenara.panels.formats import encode_query
from almenara.signals import Event
from almenara.web.authorization import VIEWER
from almenara.web.layout import REVALIDATE, PageRequest, render_page, render_problem_page
from almenara.web.payloads import encode_json, format_envelope, format_hex, format_json
from almenara.web.routes.events import LARGEST_SEQUENCE
from almenara.web.services import Services
from almenara.web.timed_view import timed_view

MOMENT: Final = ("at",)
"""The parameter of the time window; the others are filters of events."""
COUNT_LIMIT: Final = 500
"""Related events are counted up to here; beyond, the page shows `500+`."""


@get("/events/{sequence:int}", name="event", opt=VIEWER, include_in_schema=False)
async def event(
    request: PageRequest,
    services: NamedDependency[Services],
    sequence: FromPath[int],
    part: FromQuery[str | None] = None,
) -> Response[str]:
    """Render an event's page; with `part=detail` only the content, for the drawer."""
    history = (await timed_view(services, request, MOMENT)).history
    record = await history.event(sequence) if 0 <= sequence <= LARGEST_SEQUENCE else None
    if record is None or not isinstance(record.signal, Event):
        return _render_missing(services, request, sequence, part)
    try:
        # "Newer" and "Older" lead to the neighbours in the filtered list.
        event_filter = Filter.from_query(
            {name: text for name, text in request.query_params.items() if name in EVENT_FILTERS}
        )
    except ValueError:
        event_filter = Filter()
    context = await describe_event(history, record, record.signal, event_filter)
    if part == "detail":
        content = services.renderer.render("event_detail.html", {**context, "in_drawer": True})
        return Response(content, media_type=MediaType.HTML, headers=REVALIDATE)
    return render_page(
        services,
        request,
        "event_page.html",
        {**context, "in_drawer": False},
        name="event",
        title=f"{record.signal.type or 'Event'} {sequence}",
    )


def _render_missing(
    services: Services, request: PageRequest, sequence: int, part: str | None
) -> Response[str]:
    title = "Event not found"
    detail = (
        f"There is no event {sequence}. It may have been removed because it was older than the"
        " retention period."
    )
    if part != "detail":
        return render_problem_page(services, request, 404, title, detail)
    content = services.renderer.render(
        "event_missing.html", {"sequence": sequence, "title": title, "detail": detail}
    )
    return Response(content, media_type=MediaType.HTML, status_code=404, headers=REVALIDATE)


async def describe_event(
    history: History, record: Record, event: Event, event_filter: Filter
) -> dict[str, Any]:
    """Return the values of `event_detail.html`, with links to the neighbours in a filtered list."""
    older = await history.events(event_filter, before=record.sequence, limit=1, is_preview=True)
    newer = await history.events(event_filter, after=record.sequence, limit=1, is_preview=True)
    suffix = encode_query(event_filter.to_query())
    text = encode_json(event.data)
    # An event that could not be decoded has its bytes in `raw` and null as data.
    is_empty = event.data is None or (event.raw is not None and text == "null")
    related = (
        await history.count(Filter(correlation=event.correlation), limit=COUNT_LIMIT)
        if event.correlation
        else 0
    )
    return {
        "sequence": record.sequence,
        "event": event,
        "severity": event.severity.name,
        "payload": None if is_empty else format_json(event.data),
        "is_unreadable": text is None,
        "raw_lines": format_hex(event.raw) if event.raw is not None else [],
        "raw_size": len(event.raw) if event.raw is not None else 0,
        "envelope": format_envelope(event),
        "older_link": f"/events/{older[0].sequence}{suffix}" if older else "",
        "newer_link": f"/events/{newer[0].sequence}{suffix}" if newer else "",
        "permalink": f"/events/{record.sequence}",
        "related_count": related,
        "count_limit": COUNT_LIMIT,
        "links": {
            "type": link_to_events(type=event.type),
            "origin": link_to_events(origin=event.origin),
            "source": link_to_events(source=event.source),
            "subject": link_to_events(subject=event.subject),
            "severity": link_to_events(severity=event.severity),
            "around": "/timeline" + encode_query({"around": str(record.sequence)}),
            "timeline": "/timeline" + encode_query({"correlation": event.correlation or ""}),
        },
    }
