"""The timeline: all events with one correlation ID, in the order of time."""

from collections.abc import Sequence
from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery

from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.event_rows import event_row, link_to_events
from almenara.panels.formats import format_duration
from almenara.signals import Event, Severity
from almenara.units import SECOND
from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.layout import PageRequest, render_page
from almenara.web.services import Services

EVENT_LIMIT: Final = 500
"""Events on one timeline; the newest where there are more."""
SHORTEST_PAUSE: Final = SECOND
"""The shortest pause between two events that gets a line of its own."""
RIBBON_WIDTH: Final = 1000
"""Units of the picture above the timeline, over which its events are spread."""


@get("/timeline", name="timeline", opt=VIEWER, include_in_schema=False)
async def timeline(
    request: PageRequest, services: NamedDependency[Services], correlation: FromQuery[str] = ""
) -> Response[str]:
    """Render the timeline of a correlation ID, or the form that asks for one."""
    correlation = correlation.strip()
    history = scoped_view(services, request).history
    event_filter = Filter(correlation=correlation)
    records = (
        await history.events(event_filter, limit=EVENT_LIMIT, is_preview=True)
        if correlation
        else []
    )
    context = {
        "correlation": correlation,
        "list_link": link_to_events(correlation=correlation) if correlation else "/events",
        "is_cut": len(records) == EVENT_LIMIT,
        **arrange_steps(records),
    }
    return render_page(
        services, request, "timeline_page.html", context, name="timeline", title="Timeline"
    )


def arrange_steps(records: Sequence[Record]) -> dict[str, Any]:
    """Order events by time, with the offset of each from the first and the pause before it.

    A pause is reported from a fortieth of the whole duration on, and is long from an eighth on.
    """
    events = sorted(
        ((record.signal, record) for record in records if isinstance(record.signal, Event)),
        key=lambda pair: (pair[0].time, pair[1].sequence),
    )
    first = events[0][0].time if events else 0
    span = events[-1][0].time - first if events else 0
    steps = []
    previous = first
    for event, record in events:
        offset, pause = event.time - first, event.time - previous
        steps.append(
            {
                **event_row(record),
                "offset": "+" + format_duration(offset / SECOND),
                "pause": (
                    format_duration(pause / SECOND)
                    if pause >= max(span // 40, SHORTEST_PAUSE)
                    else ""
                ),
                "is_long_pause": pause >= max(span // 8, SHORTEST_PAUSE),
                **place_mark(event.severity),
                "position": f"{offset / span * RIBBON_WIDTH if span else 0:.1f}",
            }
        )
        previous = event.time
    return {
        "steps": steps,
        "first": first,
        "last": first + span,
        "span": format_duration(span / SECOND),
        "error_count": sum(event.severity >= Severity.ERROR for event, _ in events),
        "origins": sorted({event.origin or event.source for event, _ in events}),
    }


def place_mark(severity: Severity) -> dict[str, int]:
    """Return the top and height of an event's mark in the ribbon; errors are taller."""
    is_error = severity >= Severity.ERROR
    return {"mark_top": 2 if is_error else 7, "mark_height": 24 if is_error else 14}
