"""The JSON API."""

import base64
import csv
import difflib
import io
from collections import Counter
from collections.abc import AsyncIterator, Sequence, Set
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import FromPath, Parameter
from litestar.response import Stream

from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.event_rows import EVENT_FILTERS
from almenara.panels.renderer import EARLIEST_TIME, LATEST_TIME, query
from almenara.plugins import PluginInfo
from almenara.signals import Event, Resource, Severity, format_time
from almenara.supervisor import SourceState
from almenara.web.authorization import UNLIMITED, VIEWER, seen
from almenara.web.problems import PROBLEM_TYPE, BadParameterError, Problem
from almenara.web.services import Services

LARGEST_LIMIT: Final = 1_000
LARGEST_SEQUENCE: Final = 2**63 - 1
EXPORT_BATCH: Final = 500
PAGING: Final = frozenset(("after", "before", "limit"))


class EventItem(msgspec.Struct, kw_only=True):
    """An event and its place in the log."""

    sequence: int
    id: str
    source: str
    type: str
    time: str | None
    """RFC 3339, in UTC; null for a time that no calendar holds."""
    timestamp: int
    """The same in microseconds since the Unix epoch."""
    subject: str
    severity: str
    origin: str
    correlation: str | None
    data: Any
    attributes: dict[str, str]
    problem: str | None
    """What was wrong with the event as it came."""
    raw: str | None
    """The bytes as they came, in base64, where `data` could not be read from them."""


class EventPage(msgspec.Struct, kw_only=True):
    """Some events, newest first, and how to go on."""

    events: list[EventItem]
    older: str | None
    """The address of the page before these; null where there is none."""
    newer: str | None
    """The address of the page after these, to ask again later."""


class ResourceItem(msgspec.Struct, kw_only=True):
    """A resource as it was last told, and the newest value of each of its metrics."""

    kind: str
    namespace: str
    name: str
    status: str
    severity: str
    state: dict[str, Any]
    time: str | None
    deleted: bool
    origin: str
    samples: dict[str, float]


class Health(msgspec.Struct, kw_only=True):
    """How Almenara fares."""

    status: str
    """`ok`, or `degraded` where a source does not run or the bus cannot write."""
    version: str
    started: str | None
    sources: dict[str, str]
    """The status of each source by its name."""
    subscribers: int
    """Browsers with a live page."""
    events_stored: int
    last_sequence: int
    bus_full: str | None
    """Why the bus cannot write; null while it can."""


def written(microseconds: int) -> str | None:
    """RFC 3339, or None for a time that no calendar holds."""
    inside = EARLIEST_TIME <= microseconds <= LATEST_TIME
    return format_time(microseconds) if inside else None


def item(record: Record) -> EventItem:
    """The event of a record as the API shows it."""
    event = record.signal
    if not isinstance(event, Event):
        raise TypeError(f"record {record.sequence} holds no event")
    return EventItem(
        sequence=record.sequence,
        id=event.id,
        source=event.source,
        type=event.type,
        time=written(event.time),
        timestamp=event.time,
        subject=event.subject,
        severity=event.severity.name,
        origin=event.origin,
        correlation=event.correlation,
        data=event.data,
        attributes=event.attributes,
        problem=event.problem,
        raw=None if event.raw is None else base64.b64encode(event.raw).decode(),
    )


def _problem(description: str) -> ResponseSpec:
    return ResponseSpec(
        Problem, description=description, generate_examples=False,
        media_type=PROBLEM_TYPE,
    )  # fmt: skip


REFUSED: Final = {
    401: _problem("Nobody is signed in, or the token is not good"),
    403: _problem("It takes another role, or all sources to be seen"),
    405: _problem("Only GET and HEAD are answered"),
    429: _problem("Too many requests, or wrong tokens"),
}
"""What each address of the API answers besides what it is asked for."""
UNREADABLE: Final = {**REFUSED, 400: _problem("A parameter cannot be read")}
PROBLEMS: Final = {**UNREADABLE, 503: _problem("The query took too long")}
MISSING: Final = {**UNREADABLE, 404: _problem("There is no such event")}


def _text(description: str, example: str) -> Any:
    return Parameter(description=description, examples=[Example(value=example)])


Source = Annotated[str | None, _text("Who emitted it; `*` is one part, a last `>` the rest",
                                     "nats/PLANNING_EVENTS")]  # fmt: skip
Origin = Annotated[str | None, _text("Where it was read, as a pattern", "nats/>")]
Type = Annotated[str | None, _text("Type, as a pattern", "planning.story.*")]
Subject = Annotated[str | None, _text("Subject, as a pattern", "planning.>")]
AtLeast = Annotated[str | None, Parameter(
    description="At least this severity; empty for all", examples=[Example(value="ERROR")],
    schema_extra={"enum": ["", *(it.name for it in Severity)]})]  # fmt: skip
Text = Annotated[str | None, _text("Words in subject or payload; quotes, and a last `*`",
                                   "login butt*")]  # fmt: skip
Correlation = Annotated[str | None, _text("Correlation id", "US-101")]
Since = Annotated[str | None, _text("From this time on, RFC 3339 or `15m` ago", "15m")]
Until = Annotated[str | None, _text("Before this time", "2026-01-31T12:00:00Z")]
After = Annotated[int | None, Parameter(
    ge=0, le=LARGEST_SEQUENCE, description="Only after this sequence",
    examples=[Example(value=1200)])]  # fmt: skip
Before = Annotated[int | None, Parameter(
    ge=0, le=LARGEST_SEQUENCE, description="Only before this sequence",
    examples=[Example(value=1300)])]  # fmt: skip
Limit = Annotated[int, Parameter(
    ge=1, le=LARGEST_LIMIT, description="Events at most",
    examples=[Example(value=100)])]  # fmt: skip


def check_names(request: Request[Any, Any, Any], known: Set[str]) -> None:
    """Raise `BadParameterError` for a parameter that is unknown, or there twice."""
    for name, count in Counter(it for it, _ in request.query_params.multi_items()).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            raise BadParameterError(detail=f"{name[:60]!r} is not a parameter; {hint}")
        if count > 1:
            raise BadParameterError(detail=f"{name} is there {count} times; give it once")


def chosen(request: Request[Any, Any, Any]) -> Filter:
    """The filter in the address. Raises `BadParameterError`, for unknown parameters too."""
    check_names(request, EVENT_FILTERS | PAGING)
    try:
        return Filter.from_query(request.query_params)
    except ValueError as error:
        raise BadParameterError(detail=str(error)) from None


def _address(request: Request[Any, Any, Any], **cursor: int) -> str:
    kept = {
        name: value
        for name, value in request.query_params.items()
        if name not in ("after", "before")
    }
    return request.url.path + query({**kept, **{name: str(it) for name, it in cursor.items()}})


@get("/api/events", opt=VIEWER, tags=["events"], responses=PROBLEMS)
async def events(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    source: Source = None,
    origin: Origin = None,
    type: Type = None,  # noqa: A002
    subject: Subject = None,
    severity: AtLeast = None,
    text: Text = None,
    correlation: Correlation = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    before: Before = None,
    limit: Limit = 100,
) -> EventPage:
    """Events that a filter lets through, newest first. With `after` alone, those that follow it."""
    records = await seen(services, request).history.events(
        chosen(request), after=after, before=before, limit=limit
    )
    full = len(records) == limit
    first = records[-1].sequence if records else 0
    newest = records[0].sequence if records else after or 0
    return EventPage(
        events=[item(record) for record in records],
        older=_address(request, before=first) if full or (records and after) else None,
        newer=_address(request, after=newest),
    )


@get("/api/events/{sequence:int}", opt=VIEWER, tags=["events"], responses=MISSING)
async def event(
    request: Request[Any, Any, Any], services: NamedDependency[Services], sequence: FromPath[int]
) -> EventItem:
    """One event by its sequence."""
    record = await seen(services, request).history.event(sequence)
    if record is None:
        raise NotFoundException(
            f"No event {sequence} is in the history; it may have been older than what is kept."
        )
    return item(record)


async def exported(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    source: Source = None,
    origin: Origin = None,
    type: Type = None,  # noqa: A002
    subject: Subject = None,
    severity: AtLeast = None,
    text: Text = None,
    correlation: Correlation = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    before: Before = None,
) -> AsyncIterator[list[Record]]:
    """All events that the filter in the address lets through, oldest first, in batches.

    Raises `BadParameterError`.
    """
    wanted, history = chosen(request), seen(services, request).history

    async def batches() -> AsyncIterator[list[Record]]:
        cursor, end = after or 0, await history.last_sequence() + 1
        if before is not None:
            end = min(end, before)
        while True:
            records = await history.events(wanted, after=cursor, limit=EXPORT_BATCH)
            records = [record for record in reversed(records) if record.sequence < end]
            if not records:
                return
            yield records
            cursor = records[-1].sequence

    return batches()


EXPORTED: Final = {"batches": Provide(exported)}
"""What an export writes; its parameters are those of the export."""
Batches = NamedDependency[AsyncIterator[list[Record]]]


@get("/api/events.ndjson", opt=VIEWER, tags=["events"], responses=PROBLEMS,
     media_type="application/x-ndjson", dependencies=EXPORTED)  # fmt: skip
async def export(batches: Batches) -> Stream:
    """All events that a filter lets through, oldest first, one JSON object a line."""

    async def lines() -> AsyncIterator[bytes]:
        async for records in batches:
            yield b"".join(msgspec.json.encode(item(record)) + b"\n" for record in records)

    return Stream(
        lines(),
        media_type="application/x-ndjson",
        headers={"content-disposition": 'attachment; filename="events.ndjson"'},
    )


COLUMNS: Final = ("sequence", "time", "severity", "type", "source", "origin", "subject",
                  "correlation", "id", "data", "problem")  # fmt: skip
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet reads as the beginning of a formula."""


def cell(value: Any) -> str:
    """A value as a cell of a table that a spreadsheet shows and never calculates."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    if isinstance(value, str) and text.lstrip().startswith(FORMULA):
        return f"'{text}"
    return text


@get("/api/events.csv", opt=VIEWER, tags=["events"], responses=PROBLEMS, media_type="text/csv",
     dependencies=EXPORTED)  # fmt: skip
async def export_table(batches: Batches) -> Stream:
    """The same as a table, for spreadsheets. A cell that could be a formula begins with `'`."""

    async def lines() -> AsyncIterator[bytes]:
        yield _line(COLUMNS)
        async for records in batches:
            for record in records:
                it = item(record)
                data = (
                    bytes(record.signal.data).decode() if isinstance(record.signal, Event) else ""
                )
                yield _line(
                    [cell(data if name == "data" else getattr(it, name)) for name in COLUMNS]
                )

    return Stream(
        lines(),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": 'attachment; filename="events.csv"'},
    )


def _line(cells: Sequence[str]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerow(cells)
    return written.getvalue().encode("utf-8", "replace")


@get("/api/resources", opt=VIEWER, tags=["resources"], responses=UNREADABLE)
async def resources(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    kind: Annotated[str | None, _text("Only this kind", "nats.stream")] = None,
) -> list[ResourceItem]:
    """Current state."""
    check_names(request, {"kind"})
    found = seen(services, request).resources
    return [
        _resource(it, found.metrics(it))
        for it in (found.all() if kind is None else found.of_kind(kind))
    ]


def _resource(resource: Resource, samples: dict[str, float]) -> ResourceItem:
    return ResourceItem(
        kind=resource.kind,
        namespace=resource.namespace,
        name=resource.name,
        status=resource.status,
        severity=resource.severity.name,
        state=resource.state,
        time=written(resource.time),
        deleted=resource.deleted,
        origin=resource.origin,
        samples=samples,
    )


@get("/api/sources", opt=VIEWER, tags=["sources"], responses=REFUSED)
async def sources(
    request: Request[Any, Any, Any], services: NamedDependency[Services]
) -> list[SourceState]:
    """Each source and how it fares; times in microseconds since the epoch."""
    return seen(services, request).supervisor.states()


@get("/api/health", opt=VIEWER, tags=["health"], responses=REFUSED)
async def health(request: Request[Any, Any, Any], services: NamedDependency[Services]) -> Health:
    """How Almenara fares. Always 200: read `status`, or ask `/readyz`."""
    view = seen(services, request)
    states = view.supervisor.states()
    well = services.bus.write_problem is None and all(it.status == "running" for it in states)
    return Health(
        status="ok" if well else "degraded",
        version=services.version,
        started=written(services.started),
        sources={it.name: it.status for it in states},
        subscribers=services.hub.clients,
        events_stored=await view.history.count_stored(),
        last_sequence=services.bus.last_sequence,
        bus_full=services.bus.write_problem,
    )


@get("/api/plugins", opt=UNLIMITED, tags=["sources"], responses=REFUSED)
async def plugins(services: NamedDependency[Services]) -> list[PluginInfo]:
    """Each plugin that was found, those that failed or are disabled among them."""
    return list(services.plugins())


API: Final = [events, event, export, export_table, resources, sources, plugins, health]
