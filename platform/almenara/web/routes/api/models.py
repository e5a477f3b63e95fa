"""The objects of the JSON API, and how signals become them."""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from almenara.bus import Record
from almenara.panels.formats import EARLIEST_TIME, LATEST_TIME
from almenara.signals import Event, Resource, format_time


class EventItem(msgspec.Struct, kw_only=True):
    """An event and its place in the log."""

    sequence: int
    id: str
    source: str
    type: str
    time: str | None
    """RFC 3339, in UTC; null for a time outside the years 1 to 9999."""
    timestamp: int
    """The time in microseconds since the Unix epoch."""
    subject: str
    severity: str
    origin: str
    correlation: str | None
    data: Any
    attributes: dict[str, str]
    problem: str | None
    """What was wrong with the message the event was read from; null for a well-formed one."""
    raw: str | None
    """The original bytes, in base64, where `data` could not be decoded from them."""


class EventPage(msgspec.Struct, kw_only=True):
    """Events, newest first, and the addresses of the pages around them."""

    events: list[EventItem]
    older: str | None
    """The address of the page before these; null on the last page."""
    newer: str | None
    """The address of the page after these; request it later for events that arrive from now on."""


class ResourceItem(msgspec.Struct, kw_only=True):
    """The latest known state of a resource, and the newest value of each of its metrics."""

    kind: str
    namespace: str
    name: str
    status: str
    severity: str
    state: dict[str, Any]
    time: str | None
    deleted: bool
    origin: str
    """The source that published it."""
    source_status: str
    """The status of that source at the moment, as in `/api/sources`; `absent` where it no longer
    exists. Unless it is `running`, everything else is the last that was known."""
    samples: dict[str, float]


class Health(msgspec.Struct, kw_only=True):
    """The status of Almenara."""

    status: str
    """`ok`, or `degraded` while a source does not run or the bus cannot write."""
    version: str
    started: str | None
    sources: dict[str, str]
    """The status of each source by its name."""
    subscribers: int
    """Browsers with a live page."""
    events_stored: int
    """Visible events; for a scope that depends on labels, those of the newest 100,000 signals."""
    last_sequence: int
    """The newest sequence; for a limited scope that of the newest visible event."""
    write_problem: str | None
    """Why nothing can be stored at the moment; null while storing works."""
    warnings: list[str] = []
    """What an operator should know about the storage and the replicas, one text each."""


def format_api_time(microseconds: int) -> str | None:
    """Return a time as RFC 3339; None outside the years that RFC 3339 can write."""
    inside = EARLIEST_TIME <= microseconds <= LATEST_TIME
    return format_time(microseconds) if inside else None


def join_lines(data: Any) -> Any:
    """Return encoded JSON without line breaks; other values unchanged.

    `msgspec` copies a `Raw` value as it is, so that the pretty-printed payload of a publisher would
    spread its event over several lines of NDJSON. Line breaks are whitespace between tokens: those
    inside strings are escaped in JSON.
    """
    if not isinstance(data, msgspec.Raw):
        return data
    encoded = bytes(data)
    if b"\n" not in encoded and b"\r" not in encoded:
        return data
    return msgspec.Raw(encoded.replace(b"\n", b" ").replace(b"\r", b" "))


def build_event_item(record: Record) -> EventItem:
    """Return the event of a record as the API shows it."""
    event = record.signal
    if not isinstance(event, Event):
        raise TypeError(f"record {record.sequence} is a {type(event).__name__}, not an event")
    return EventItem(
        sequence=record.sequence,
        id=event.id,
        source=event.source,
        type=event.type,
        time=format_api_time(event.time),
        timestamp=event.time,
        subject=event.subject,
        severity=event.severity.name,
        origin=event.origin,
        correlation=event.correlation,
        data=join_lines(event.data),
        attributes=event.attributes,
        problem=event.problem,
        raw=None if event.raw is None else base64.b64encode(event.raw).decode(),
    )


def build_resource_item(
    resource: Resource, samples: dict[str, float], statuses: Mapping[str, str]
) -> ResourceItem:
    """Return a resource as the API shows it; `statuses` are those of the sources, by name."""
    return ResourceItem(
        kind=resource.kind,
        namespace=resource.namespace,
        name=resource.name,
        status=resource.status,
        severity=resource.severity.name,
        state=resource.state,
        time=format_api_time(resource.time),
        deleted=resource.deleted,
        origin=resource.origin,
        source_status=statuses.get(resource.origin, "absent"),
        samples=samples,
    )
