"""The story of a correlation ID, or of the time around an event, in lanes and as a list."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency

from almenara.bus import Record
from almenara.errors import Unavailable
from almenara.history import Filter, History
from almenara.panels.changes import Transition, read_transitions
from almenara.panels.event_rows import event_row, link_to_events
from almenara.panels.formats import encode_query, format_duration
from almenara.panels.lane_chart import draw_lanes
from almenara.panels.lanes import (
    Lane,
    add_statuses,
    arrange_lanes,
    find_causes,
    find_related,
    read_facts,
)
from almenara.panels.slices import map_in_slices
from almenara.panels.time_window import parse_span
from almenara.panels.view import View
from almenara.signals import Event, Resource, Severity
from almenara.units import HOUR, MILLISECOND, MINUTE, SECOND
from almenara.web.authorization import VIEWER
from almenara.web.layout import PageRequest, render_page
from almenara.web.routes.events import OWN_TIME, is_sequence
from almenara.web.services import Services
from almenara.web.timed_view import read_time

PAGE_EVENTS: Final = 1_000
"""Events that are read at once."""
EVENT_LIMIT: Final = 5_000
"""Events that are placed one by one; of more, the newest."""
GROUPED_FROM: Final = 200
"""Events from which on neighbours of one type become one step of the list."""
STEP_LIMIT: Final = 500
"""Steps of the list; of more, the newest."""
SHORTEST_PAUSE: Final = SECOND
"""The shortest pause between two events that gets a line of its own."""
SPANS: Final = (("1 min", "1m"), ("5 min", "5m"), ("30 min", "30m"), ("2 h", "2h"))
"""Lengths of time around an event."""
DEFAULT_SPAN: Final = 5 * MINUTE
LONGEST_STATUSES: Final = 24 * HOUR
"""Length of a story up to which the statuses of its resources are read."""
SHORTEST_ZOOM: Final = 10 * MILLISECOND


@get("/timeline", name="timeline", opt=VIEWER, include_in_schema=False)
async def timeline(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the story of a correlation ID or around an event, or the form for an ID."""
    timed = await read_time(services, request, OWN_TIME)
    view = timed.view
    query = {name: text.strip() for name, text in request.query_params.items()}
    correlation, around = query.get("correlation", "")[:500], query.get("around", "")
    problem, chosen, title = "", None, correlation
    if correlation:
        chosen = Filter(correlation=correlation)
    elif around:
        chosen, title, problem = await read_around(view.history, around, query.get("span", ""))
    zoom, zoom_problem = read_zoom(query)
    context: dict[str, Any] = {
        "correlation": correlation,
        "around": around,
        "title_text": title,
        "problem": problem or zoom_problem,
        "is_empty_form": chosen is None and not problem,
        "spans": [
            (label, "/timeline" + encode_query({"around": around, "span": span}), span)
            for label, span in SPANS
        ],
        "span": query.get("span", "5m"),
    }
    if chosen is not None:
        context |= await build_story(view, chosen, zoom, correlation, query)
    else:
        context |= {"steps": [], "picture": None}
    return render_page(
        services, request, "timeline_page.html", context, name="timeline", title="Timeline",
        status_code=400 if context["problem"] or timed.problem else 200,
    )  # fmt: skip


async def read_around(
    history: History, text: str, span_text: str
) -> tuple[Filter | None, str, str]:
    """Return the filter of the time around an event, its title, and what is wrong."""
    if not is_sequence(text):
        return None, "", f"around must be the sequence of an event, not {text[:40]!r}."
    try:
        span = parse_span(span_text) if span_text else DEFAULT_SPAN
    except ValueError as error:
        return None, "", f"{error}."
    record = await history.event(int(text))
    if record is None or not isinstance(record.signal, Event):
        return None, "", f"There is no event {text}. It may have been removed by the retention."
    event = record.signal
    chosen = Filter(since=event.time - span // 2, until=event.time + span // 2 + 1)
    return chosen, f"around {event.type} #{text}", ""


def read_zoom(query: dict[str, str]) -> tuple[Filter, str]:
    """Return the part of the story that is displayed, and what is wrong with it."""
    times = {name: query[name] for name in ("since", "until") if query.get(name)}
    try:
        return Filter.from_query(times), ""
    except ValueError as error:
        return Filter(), f"{error}. The whole story is displayed."


async def read_story(history: History, chosen: Filter) -> list[Record]:
    """Return the newest events of a story, in the order of the log."""
    records: list[Record] = []
    before: int | None = None
    while len(records) < EVENT_LIMIT:
        page = await history.events(chosen, before=before, limit=PAGE_EVENTS, is_preview=True)
        records += page
        if len(page) < PAGE_EVENTS:
            break
        before = page[-1].sequence
    records.reverse()
    return records


async def build_story(
    view: View, chosen: Filter, zoom: Filter, correlation: str, query: dict[str, str]
) -> dict[str, Any]:
    """Return the values of the page for a story."""
    window = Filter(
        correlation=chosen.correlation,
        since=max(filter(None, (chosen.since, zoom.since)), default=None),
        until=min(filter(None, (chosen.until, zoom.until)), default=None),
    )
    records = await read_story(view.history, window)
    is_cut = len(records) >= EVENT_LIMIT
    total = await view.history.count(window) if is_cut else len(records)
    named: dict[str, list[Resource]] = defaultdict(list)
    for resource in view.resources.all():
        if not resource.deleted:
            named[resource.name].append(resource)
    groups = await map_in_slices(
        lambda record: list(read_facts([record], named, correlation)), records
    )
    facts = sorted(
        (fact for group in groups for fact in group),
        key=lambda fact: (fact.event.time, fact.sequence),
    )
    story: dict[str, Any] = {
        "list_link": link_to_events(
            correlation=window.correlation, since=window.since, until=window.until
        ),
        "total": total,
        "is_cut": is_cut,
        "picture": None,
        **arrange_steps(records),
    }
    if not facts:
        return story
    lanes = arrange_lanes(facts)
    since = min([facts[0].event.time, *(bar.since for lane in lanes for bar in lane.bars)])
    until = max(facts[-1].event.time, since + SHORTEST_ZOOM)
    if zoom.since is not None:
        since = max(since, zoom.since)
    if chosen.since is not None and chosen.until is not None and zoom == Filter():
        since, until = chosen.since, chosen.until
    own = {name: query[name] for name in ("correlation", "around", "span") if query.get(name)}

    def link(first: int, last: int) -> str:
        if last - first < SHORTEST_ZOOM:
            return link_to_events(correlation=window.correlation, since=first, until=last)
        return "/timeline" + encode_query({**own, **Filter(since=first, until=last).to_query()})

    known = {each.key: each for group in named.values() for each in group}
    lanes += find_related(lanes, known, named)
    await add_past_statuses(view, lanes, since, until)
    quarter = max((until - since) // 4, SHORTEST_ZOOM)
    story |= {
        "picture": draw_lanes(lanes, find_causes(facts), since, until, link),
        "lane_count": len(lanes),
        "zoom_in": link(since + quarter, until - quarter)
        if until - since > 4 * SHORTEST_ZOOM
        else "",
        "earlier": link(since - 2 * quarter, until - 2 * quarter),
        "later": link(since + 2 * quarter, until + 2 * quarter),
        "older": link(0, facts[0].event.time) if is_cut else "",
        "whole": "/timeline" + encode_query(own) if zoom != Filter() else "",
    }
    return story


async def add_past_statuses(view: View, lanes: Sequence[Lane], since: int, until: int) -> None:
    """Add what became of the resources of lanes, as far as it is stored."""
    recorder = view.resources.recorder
    if until - since > LONGEST_STATUSES or not any(lane.kind for lane in lanes):
        return
    if recorder is None or recorder.earliest is None or until <= recorder.earliest:
        return
    start = max(since, recorder.earliest)
    keys = {lane.key for lane in lanes}
    try:
        state = await view.resources.at(start)
        if state is None:
            return
        transitions: list[Transition] = [
            transition
            async for transition in read_transitions(view, start, until)
            if transition.resource.key in keys
        ]
    except Unavailable:
        return
    known = {each.key: each for key in keys if (each := state.get(*key)) is not None}
    add_statuses(lanes, transitions, known, start, until)


def arrange_steps(records: Sequence[Record]) -> dict[str, Any]:
    """Order events by time, with the offset of each from the first and the pause before it.

    A pause is reported from a fortieth of the whole duration on, and is long from an eighth on. Of
    more than `GROUPED_FROM` events, neighbours of one type and origin are one step.
    """
    events = sorted(
        ((record.signal, record) for record in records if isinstance(record.signal, Event)),
        key=lambda pair: (pair[0].time, pair[1].sequence),
    )
    first = events[0][0].time if events else 0
    span = events[-1][0].time - first if events else 0
    steps: list[dict[str, Any]] = []
    previous = first
    is_grouped = len(events) > GROUPED_FROM
    before: Event | None = None
    for event, record in events:
        offset, pause = event.time - first, event.time - previous
        previous = event.time
        if is_grouped and before is not None and _belongs_together(before, event):
            steps[-1]["count"] += 1
            continue
        before = event
        steps.append(
            {
                **event_row(record),
                "count": 1,
                "offset": "+" + format_duration(offset / SECOND),
                "pause": (
                    format_duration(pause / SECOND)
                    if pause >= max(span // 40, SHORTEST_PAUSE)
                    else ""
                ),
                "is_long_pause": pause >= max(span // 8, SHORTEST_PAUSE),
            }
        )
    return {
        "steps": steps[-STEP_LIMIT:],
        "steps_left_out": max(len(steps) - STEP_LIMIT, 0),
        "first": first,
        "last": first + span,
        "span": format_duration(span / SECOND),
        "error_count": sum(event.severity >= Severity.ERROR for event, _ in events),
        "origins": sorted({event.origin or event.source for event, _ in events}),
    }


def _belongs_together(before: Event, event: Event) -> bool:
    return (before.type, before.origin, before.severity) == (
        event.type, event.origin, event.severity
    )  # fmt: skip
