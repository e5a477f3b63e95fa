"""The pages. Each is a plain one, drawn by the panels that then keep it live."""

import difflib
from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from litestar.response import Redirect

from almenara import hookspecs
from almenara.bus import Record
from almenara.history import Filter, History
from almenara.panels.event_rows import EVENT_FILTERS, events_link, row
from almenara.panels.panel import Choice, Panel, View
from almenara.panels.renderer import duration, query
from almenara.signals import Event, Severity, now
from almenara.web.authorization import PUBLIC, VIEWER, csrf_of, seen, ticket_of
from almenara.web.dashboards import Dashboard, about
from almenara.web.payloads import as_json, envelope_of, hex_lines, shown
from almenara.web.services import Services

PageRequest = Request[Any, Any, Any]

SOURCES: Final = ("sources", "streams")
CURSORS: Final = ("after", "before")
LARGEST_SEQUENCE: Final = 2**63 - 1
ABOUT: Final = ("namespace", "name")
"""The parameters that say which thing a page is about."""
TIMELINE: Final = 500
SECOND: Final = 1_000_000
GAP: Final = SECOND
"""A pause on a timeline that is worth a line of its own."""
RIBBON: Final = 1000
"""The width that a timeline's events are spread over, in units of its picture."""

FOREVER: Final = {"cache-control": "public, max-age=31536000, immutable"}
FRESH: Final = {"cache-control": "private, no-cache"}


class Field(msgspec.Struct, frozen=True):
    """One filter as people see it."""

    name: str
    label: str
    hint: str = ""
    choices: Sequence[str] = ()


FIELDS: Final = (
    Field("text", "Text", "words in the payload"),
    Field("severity", "Severity"),
    Field("origin", "Origin", "nats/>"),
    Field("type", "Type", "planning.>"),
    Field("source", "Source", "the emitter, as CloudEvents has it"),
    Field("subject", "Subject", "US-101"),
    Field("correlation", "Correlation", "the id of one story or job"),
    Field("since", "Since", "15m, 2h, 2026-01-31T12:00Z"),
    Field("until", "Until", "the same, or a time"),
)
MORE: Final = ("source", "subject", "correlation", "since", "until")
"""The filters that are folded away until they are used."""
PANEL_FIELDS: Final = (
    Field("namespace", "Namespace", "a name, or a pattern"),
    Field("name", "Name", "a name, or a pattern"),
    Field("status", "Status"),
    *FIELDS,
)
"""Those of panels, which may be of resources."""
UNGUARDED: Final = ("none", "insecure-none")
RANGES: Final = (("5 min", "5m"), ("1 hour", "1h"), ("24 hours", "24h"))


def page(
    services: Services,
    request: PageRequest,
    template: str,
    context: Mapping[str, Any],
    *,
    name: str,
    title: str,
    live: Iterable[str] = (),
    status_code: int = 200,
) -> Response[str]:
    """A whole page; `live` are the channels that its one WebSocket follows."""
    channels = [("panel", channel) for channel in live]
    ticket = ticket_of(request)
    content = services.renderer.render(
        template,
        {
            "page": name,
            "title": title,
            "version": services.version,
            "nonce": request.scope["state"].get("nonce", ""),
            "asset": services.assets.url,
            "sheets": services.assets.sheets(),
            "navigation": _navigation(services, request) if ticket is not None else [],
            "identity": ticket.identity if ticket is not None else None,
            "signed_in": ticket is not None and services.access.mode not in UNGUARDED,
            "unguarded": services.access.mode in UNGUARDED,
            "open_to_all": services.access.mode == "insecure-none",
            "csrf": csrf_of(request) if "asking" in request.scope["state"] else "",
            "live": f"/live?{urlencode(channels)}" if channels else "",
            "moment": now(),
            "visible_events": services.settings.panels.visible_events,
            **context,
        },
    )
    return Response(content, media_type=MediaType.HTML, status_code=status_code, headers=FRESH)


def _navigation(services: Services, request: PageRequest) -> list[Dashboard]:
    return [it for it in services.dashboards(seen(services, request))[1:] if it.navigation]


def problem_page(
    services: Services, request: PageRequest, status_code: int, title: str, detail: str
) -> Response[str]:
    """What people are shown where something went wrong."""
    return page(
        services,
        request,
        "problem_page.html",
        {"status_code": status_code, "detail": detail},
        name="problem",
        title=title,
        status_code=status_code,
    )


async def draw(services: Services, view: View, shown: Panel, chosen: Choice) -> str:
    """A panel as it is now."""
    return await shown.render(view, chosen, services.renderer)


async def drawn(
    services: Services, view: View, names: Iterable[str], chosen: Filter
) -> dict[str, str]:
    """The panels of these names as they are now."""
    asked = chosen.to_query()
    panels = [services.catalogue[name] for name in names]
    return {it.name: await draw(services, view, it, it.choose(asked)) for it in panels}


@get("/", name="overview", opt=VIEWER, include_in_schema=False)
async def overview(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """What is going on now."""
    shown = services.dashboards(seen(services, request))[0]
    return await _dashboard(services, request, shown, name="overview")


@get("/dashboards/{name:str}", name="dashboard", opt=VIEWER, include_in_schema=False)
async def dashboard(
    request: PageRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Response[str] | Redirect:
    """A page of panels, of a plugin or of the configuration; its address narrows its panels."""
    known = services.dashboards(seen(services, request))
    found = next((it for it in known if it.name == name), None)
    if found is None:
        near = ", ".join(it.title for it in known)
        return problem_page(
            services, request, 404, "There is no such dashboard", f"There are {near}."
        )
    accepted = frozenset().union(*(it.panel.filters for it in found.panels))
    typed = meant(request, accepted)
    if typed is None:
        return Redirect(f"/dashboards/{name}" + query(_typed(request, accepted)), status_code=303)
    return await _dashboard(services, request, found, typed, name=f"dashboard {name}")


def _typed(request: PageRequest, accepted: frozenset[str]) -> dict[str, str]:
    """The parameters of an address that mean something, without those that are empty."""
    return {
        name: value.strip()
        for name, value in request.query_params.items()
        if name in accepted and value.strip()
    }


def meant(request: PageRequest, accepted: frozenset[str]) -> dict[str, str] | None:
    """The parameters of an address, or None where it holds others, which a redirect leaves out."""
    typed = _typed(request, accepted)
    return typed if typed == dict(request.query_params) else None


def filter_form(
    action: str,
    names: Collection[str],
    typed: Mapping[str, str],
    problem: str | None,
    asked_for: Iterable[Mapping[str, hookspecs.Filter]] = (),
) -> dict[str, Any]:
    """What `panel_filter.html` is given: fields of these names, with what was typed.

    `asked_for` says how plugins want them asked for; the first that does is heard.
    """
    known = {field.name: field for field in PANEL_FIELDS}
    ordered = [*(it for it in known if it in names), *(it for it in names if it not in known)]
    declared = ChainMap(*map(dict, asked_for))
    fields = [_field(it, declared.get(it), known.get(it)) for it in ordered]
    return {
        "action": action,
        "fields": fields,
        "values": {it.name: typed.get(it.name, "") for it in fields},
        "kept": {it: value for it, value in typed.items() if it not in ordered},
        "severities": list(Severity.__members__),
        "problem": problem,
    }


def _field(name: str, declared: hookspecs.Filter | None, usual: Field | None) -> Field:
    usual = usual or Field(name, name.replace("_", " ").capitalize())
    if declared is None:
        return usual
    return Field(name, declared.label or usual.label, declared.hint or usual.hint, declared.choices)


async def _dashboard(
    services: Services,
    request: PageRequest,
    shown: Dashboard,
    typed: Mapping[str, str] = {},
    *,
    name: str,
) -> Response[str]:
    view = seen(services, request)
    problem = None
    try:
        shown = about(shown, typed)
    except ValueError as error:
        problem = str(error)
    panels = {
        it.panel.name: await draw(services, view, it.panel, it.panel.choose(it.filter))
        for it in shown.panels
    }
    subject = [typed[it] for it in ABOUT if it in typed and it not in shown.filters]
    return page(
        services,
        request,
        "dashboard_page.html",
        {
            "placed": shown.panels,
            "panels": panels,
            "heading": shown.title,
            "subject": subject,
            **filter_form(
                shown.address,
                shown.filters,
                typed,
                problem,
                [shown.asked_for, *(it.panel.asked_for for it in shown.panels)],
            ),
        },
        name=name,
        title=" ".join([*subject[-1:], shown.title]),
        live=[it.channel for it in shown.panels],
        status_code=400 if problem else 200,
    )


@get("/panels/{name:str}", name="panel", opt=VIEWER, include_in_schema=False)
async def panel(
    request: PageRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Response[str] | Redirect:
    """One panel alone, as for a screen on the wall."""
    shown = services.catalogue.get(name)
    if shown is None:
        near = difflib.get_close_matches(name, services.catalogue, n=3)
        hint = f"Did you mean {', '.join(near)}?" if near else "The plugin may not be there."
        return problem_page(services, request, 404, "There is no such panel", hint)
    typed = meant(request, shown.filters)
    if typed is None:
        return Redirect(f"/panels/{name}" + query(_typed(request, shown.filters)), status_code=303)
    problem = None
    try:
        chosen = shown.choose(typed)
    except ValueError as error:
        problem, chosen = str(error), shown.choose({})
    view = seen(services, request)
    known = [
        it
        for it in services.dashboards(view)
        if it.navigation and any(p.panel.name == name for p in it.panels)
    ]
    return page(
        services,
        request,
        "panel_page.html",
        {
            "panel": shown,
            "drawn": await draw(services, view, shown, chosen),
            "home": known[-1] if known else None,
            **filter_form(
                f"/panels/{name}",
                sorted(shown.filters - {"sort"}),
                typed,
                problem,
                [shown.asked_for],
            ),
        },
        name="panel",
        title=shown.title,
        live=[shown.name + query(chosen.to_query())],
        status_code=400 if problem else 200,
    )


@get("/sources", name="sources", opt=VIEWER, include_in_schema=False)
async def sources(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Each source and how it fares, and each plugin."""
    view = seen(services, request)
    return page(
        services,
        request,
        "sources_page.html",
        {
            "panels": await drawn(services, view, SOURCES, Filter()),
            "plugins": services.plugins() if view.scope.sees_all_sources else (),
        },
        name="sources",
        title="Sources",
        live=SOURCES,
    )


@get("/events", name="events", opt=VIEWER, include_in_schema=False)
async def events(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """The events that a filter lets through, newest first."""
    view = seen(services, request)
    asked = dict(request.query_params)
    known = {name: value for name, value in asked.items() if name in {*EVENT_FILTERS, *CURSORS}}
    typed = {name: value.strip() for name, value in known.items() if value.strip()}
    if typed != asked:
        # A form sends its empty fields too; the address that people share should not hold them.
        return Redirect("/events" + query(typed), status_code=303)
    cursors = {name: typed[name] for name in CURSORS if name in typed}
    try:
        after, before = (_sequence(name, cursors.get(name)) for name in CURSORS)
        chosen = Filter.from_query(
            {name: value for name, value in typed.items() if name not in CURSORS}
        )
    except ValueError as error:
        return page(
            services,
            request,
            "events_page.html",
            {**await _form(view, typed), "problem": str(error)},
            name="events",
            title="Events",
            status_code=400,
        )
    limit = services.settings.panels.visible_events
    history = view.history
    records = await history.events(chosen, after=after, before=before, limit=limit)
    older = newer = False
    if records:
        older = bool(await history.events(chosen, before=records[-1].sequence, limit=1))
        newer = bool(cursors) and bool(
            await history.events(chosen, after=records[0].sequence, limit=1)
        )
    listed = services.renderer.render(
        services.catalogue["events"].template,
        {
            "filter": chosen,
            "filtered": chosen,
            "rows": [row(record) for record in records],
            "conflated": 0,
        },
    )
    # Links keep what was typed, so that `15m` still means the last 15 minutes tomorrow.
    parameters = {name: value for name, value in typed.items() if name not in CURSORS}
    channel = query(chosen.to_query())
    # A page further back stands still, and says so.
    live = [] if cursors else ["events" + channel, "histogram" + channel]
    return page(
        services,
        request,
        "events_page.html",
        {
            **await _form(view, typed),
            "problem": None,
            "panels": {**await drawn(services, view, ["histogram"], chosen), "events": listed},
            "older": "/events" + query({**parameters, "before": str(records[-1].sequence)})
            if older
            else "",
            "newer": "/events" + query({**parameters, "after": str(records[0].sequence)})
            if newer
            else "",
            "newest": "/events" + query(parameters),
            "paged": bool(cursors),
            "filter_query": urlencode(parameters),
        },
        name="events",
        title="Events",
        live=live,
    )


def _sequence(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) > LARGEST_SEQUENCE:
        raise ValueError(f"{name} must be the sequence of an event, a whole number; it is {text!r}")
    return int(text)


async def _form(view: View, typed: Mapping[str, str]) -> dict[str, Any]:
    """The filter form, with what was typed, and what it can complete."""
    values = {field.name: typed.get(field.name, "") for field in FIELDS}
    kept = {name: value for name, value in typed.items() if name not in CURSORS}
    chips = [
        {
            "label": field.label,
            "value": kept[field.name],
            "at_least": field.name == "severity",
            "without": "/events"
            + query({name: value for name, value in kept.items() if name != field.name}),
        }
        for field in FIELDS
        if field.name in kept
    ]
    without_range = {k: v for k, v in kept.items() if k not in ("since", "until")}
    ranges = [
        {"label": label, "link": "/events" + query({**without_range, "since": ago})}
        for label, ago in RANGES
    ]
    return {
        "fields": {field.name: field for field in FIELDS},
        "values": values,
        "chips": chips,
        "ranges": ranges,
        "unfolded": any(typed.get(name) for name in MORE),
        "severities": list(Severity.__members__),
        "origins": await view.history.origins(),
        "types": await view.history.types(),
    }


@get("/events/{sequence:int}", name="event", opt=VIEWER, include_in_schema=False)
async def event(
    request: PageRequest,
    services: NamedDependency[Services],
    sequence: FromPath[int],
    part: FromQuery[str | None] = None,
) -> Response[str]:
    """One event; with `part=detail` only the piece that the drawer shows."""
    history = seen(services, request).history
    record = await history.event(sequence) if 0 <= sequence <= LARGEST_SEQUENCE else None
    if record is None or not isinstance(record.signal, Event):
        return _missing(services, request, sequence, part)
    try:
        # Within the drawer, the next event is the next of those that are listed.
        chosen = Filter.from_query(
            {k: v for k, v in request.query_params.items() if k in EVENT_FILTERS and v}
        )
    except ValueError:
        chosen = Filter()
    context = await _detail(history, record, record.signal, chosen)
    if part == "detail":
        return Response(
            services.renderer.render("event_detail.html", {**context, "drawer": True}),
            media_type=MediaType.HTML,
            headers=FRESH,
        )
    return page(
        services,
        request,
        "event_page.html",
        {**context, "drawer": False},
        name="event",
        title=f"{record.signal.type or 'Event'} {sequence}",
    )


def _missing(
    services: Services, request: PageRequest, sequence: int, part: str | None
) -> Response[str]:
    title = "There is no such event"
    detail = f"No event {sequence} is in the history; it may have been older than what is kept."
    if part != "detail":
        return problem_page(services, request, 404, title, detail)
    content = services.renderer.render(
        "event_missing.html", {"sequence": sequence, "title": title, "detail": detail}
    )
    return Response(content, media_type=MediaType.HTML, status_code=404, headers=FRESH)


async def _detail(
    history: History, record: Record, happened: Event, chosen: Filter
) -> dict[str, Any]:
    older = await history.events(chosen, before=record.sequence, limit=1)
    newer = await history.events(chosen, after=record.sequence, limit=1)
    suffix = query(chosen.to_query())
    written = as_json(happened.data)
    # What could not be read is kept as bytes and has no data besides.
    empty = happened.data is None or (happened.raw is not None and written == "null")
    related = (
        await history.count(Filter(correlation=happened.correlation), limit=TIMELINE)
        if happened.correlation
        else 0
    )
    return {
        "sequence": record.sequence,
        "event": happened,
        "severity": happened.severity.name,
        "payload": None if empty else shown(happened.data),
        "unreadable": written is None,
        "raw_lines": hex_lines(happened.raw) if happened.raw is not None else [],
        "raw_size": len(happened.raw) if happened.raw is not None else 0,
        "envelope": envelope_of(happened),
        "older": f"/events/{older[0].sequence}{suffix}" if older else "",
        "newer": f"/events/{newer[0].sequence}{suffix}" if newer else "",
        "permalink": f"/events/{record.sequence}",
        "related": related,
        "counted": TIMELINE,
        "links": {
            "type": events_link(type=happened.type),
            "origin": events_link(origin=happened.origin),
            "source": events_link(source=happened.source),
            "subject": events_link(subject=happened.subject),
            "severity": events_link(severity=happened.severity),
            "timeline": "/timeline" + query({"correlation": happened.correlation or ""}),
        },
    }


@get("/timeline", name="timeline", opt=VIEWER, include_in_schema=False)
async def timeline(
    request: PageRequest, services: NamedDependency[Services], correlation: FromQuery[str] = ""
) -> Response[str]:
    """Everything with one correlation id, in the order of time."""
    correlation = correlation.strip()
    chosen = Filter(correlation=correlation)
    history = seen(services, request).history
    records = await history.events(chosen, limit=TIMELINE) if correlation else []
    context = {
        "correlation": correlation,
        "listed": events_link(correlation=correlation) if correlation else "/events",
        "cut": len(records) == TIMELINE,
        **_told(records),
    }
    return page(services, request, "timeline_page.html", context, name="timeline", title="Timeline")


def _told(records: Sequence[Record]) -> dict[str, Any]:
    """The events of a timeline with the pauses between them."""
    happened = sorted(
        ((record.signal, record) for record in records if isinstance(record.signal, Event)),
        key=lambda pair: (pair[0].time, pair[1].sequence),
    )
    first = happened[0][0].time if happened else 0
    span = happened[-1][0].time - first if happened else 0
    steps = []
    previous = first
    for it, record in happened:
        time, pause = it.time, it.time - previous
        steps.append(
            {
                **row(record),
                "offset": "+" + duration((time - first) / SECOND),
                "pause": duration(pause / SECOND) if pause >= max(span // 40, GAP) else "",
                "long": pause >= max(span // 8, GAP),
                "place": f"{(time - first) / span * RIBBON if span else 0:.1f}",
            }
        )
        previous = time
    return {
        "steps": steps,
        "first": first,
        "last": first + span,
        "span": duration(span / SECOND),
        "bad": sum(it.severity >= Severity.ERROR for it, _ in happened),
        "origins": sorted({it.origin or it.source for it, _ in happened}),
    }


@get(
    "/static/{name:path}", name="static", opt=PUBLIC, include_in_schema=False, sync_to_thread=False
)
def static(services: NamedDependency[Services], name: FromPath[str]) -> Response[bytes]:
    """A file whose name holds its content's hash."""
    asset = services.assets.find(name)
    if asset is None:
        return Response(b"", status_code=404, media_type=MediaType.TEXT)
    return Response(asset.content, media_type=asset.media_type, headers=FOREVER)


PAGES: Final = [overview, dashboard, panel, events, event, timeline, sources, static]
