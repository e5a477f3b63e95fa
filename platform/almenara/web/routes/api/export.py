"""Exports: all events that match a filter, as NDJSON or CSV, oldest first."""

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency, Provide
from litestar.response import Stream

from almenara.bus import Record
from almenara.clock import clock_at
from almenara.signals import Event
from almenara.web.authorization import VIEWER
from almenara.web.routes.api.models import build_event_item
from almenara.web.routes.api.parameters import (
    EXPORT_PROBLEMS,
    AfterParameter,
    AtParameter,
    BeforeParameter,
    CorrelationParameter,
    OriginParameter,
    SeverityParameter,
    SinceParameter,
    SourceParameter,
    SubjectParameter,
    TextParameter,
    TypeParameter,
    UntilParameter,
    parse_filter,
    view_of,
)
from almenara.web.services import Services
from almenara.web.state import get_auth_context

BATCH_EVENTS: Final = 500
BATCH_BYTES: Final = 2 * 1024**2
"""Payloads of a batch. An export holds a batch or two: the next is read once this one is sent."""
COLUMNS: Final = ("sequence", "time", "severity", "type", "source", "origin", "subject",
                  "correlation", "id", "data", "problem")  # fmt: skip
FORMULA_PREFIXES: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet reads as the start of a formula."""


async def select_batches(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    source: SourceParameter = None,
    origin: OriginParameter = None,
    type: TypeParameter = None,  # noqa: A002
    subject: SubjectParameter = None,
    severity: SeverityParameter = None,
    text: TextParameter = None,
    correlation: CorrelationParameter = None,
    since: SinceParameter = None,
    until: UntilParameter = None,
    after: AfterParameter = None,
    before: BeforeParameter = None,
    at: AtParameter = None,
) -> AsyncIterator[list[Record]]:
    """Return the batches of an export, up to the newest event at the time of the request.

    The first is read before anything is sent, so that a refusal is a response of its own. Raises
    `BadParameterError`, `TooManyExportsError`, and what the query raises.
    """
    view = await view_of(request, services)
    history = view.history
    with clock_at(view.moment):
        event_filter = parse_filter(request)
    context = get_auth_context(request)
    user = context.user_key if context is not None else ""

    async def read_batches() -> AsyncIterator[list[Record]]:
        with services.exports.run(user):
            cursor, end = after or 0, await history.last_sequence() + 1
            if before is not None:
                end = min(end, before)
            while True:
                records = await history.events(
                    event_filter, after=cursor, limit=BATCH_EVENTS, max_bytes=BATCH_BYTES
                )
                records = [record for record in reversed(records) if record.sequence < end]
                yield records
                if not records:
                    return
                cursor = records[-1].sequence

    batches = read_batches()
    first = await anext(batches)

    async def continue_batches() -> AsyncIterator[list[Record]]:
        yield first
        async for records in batches:
            yield records

    return continue_batches()


BATCHES: Final = {"batches": Provide(select_batches)}
"""The dependency of an export; its parameters become those of the export."""
Batches = NamedDependency[AsyncIterator[list[Record]]]


@get("/api/events.ndjson", opt=VIEWER, tags=["events"], responses=EXPORT_PROBLEMS,
     media_type="application/x-ndjson", dependencies=BATCHES)  # fmt: skip
async def export_ndjson(batches: Batches) -> Stream:
    """Export all events that match a filter, oldest first, one JSON object a line."""

    async def encode_lines() -> AsyncIterator[bytes]:
        async for records in batches:
            yield b"".join(
                msgspec.json.encode(build_event_item(record)) + b"\n" for record in records
            )

    return Stream(
        encode_lines(),
        media_type="application/x-ndjson",
        headers={"content-disposition": 'attachment; filename="events.ndjson"'},
    )


def escape_formula(value: Any) -> str:
    """Return a value as the text of a cell that a spreadsheet shows and never calculates."""
    if not isinstance(value, str):
        return "" if value is None else str(value)
    return f"'{value}" if value.lstrip().startswith(FORMULA_PREFIXES) else value


@get("/api/events.csv", opt=VIEWER, tags=["events"], responses=EXPORT_PROBLEMS,
     media_type="text/csv", dependencies=BATCHES)  # fmt: skip
async def export_csv(batches: Batches) -> Stream:
    """Export the same events as a table. A cell that could be a formula gets a leading `'`."""

    async def encode_lines() -> AsyncIterator[bytes]:
        yield encode_csv_lines([COLUMNS])
        async for records in batches:
            yield encode_csv_lines(map(build_csv_row, records))

    return Stream(
        encode_lines(),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": 'attachment; filename="events.csv"'},
    )


def build_csv_row(record: Record) -> list[str]:
    """Return the cells of an event, in the order of `COLUMNS`."""
    item = build_event_item(record)
    data = bytes(record.signal.data).decode() if isinstance(record.signal, Event) else ""
    return [escape_formula(data if name == "data" else getattr(item, name)) for name in COLUMNS]


def encode_csv_line(cells: Sequence[str]) -> bytes:
    """Return one line of CSV."""
    return encode_csv_lines((cells,))


def encode_csv_lines(rows: Iterable[Sequence[str]]) -> bytes:
    """Return lines of CSV."""
    lines = io.StringIO()
    csv.writer(lines).writerows(rows)
    return lines.getvalue().encode("utf-8", "replace")
