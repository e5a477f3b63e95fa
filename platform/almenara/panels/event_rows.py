"""A row of a list of events, with its one-line summary, and links to lists of events."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.formats import encode_query
from almenara.signals import Event

MAX_SUMMARY: Final = 160
MAX_PART: Final = 80
MAX_DECODED: Final = 16_384
"""Bytes of a payload that are still decoded for its summary, as many as a preview has."""
LEADING_FIELDS: Final = (
    "error", "reason", "message", "title", "token", "proposal", "rationale", "status",
)  # fmt: skip
"""Fields of a payload that people read first; they are written without their names."""
RANK: Final = {name: place for place, name in enumerate(LEADING_FIELDS)}
OMITTED_FIELDS: Final = frozenset((
    "event_type", "type", "timestamp", "idempotency_key", "correlation_id", "producer", "metadata",
    "cause",
))  # fmt: skip
"""Fields that other columns of a row show, or that no one reads in a row."""
LARGE: Final = 10_000
"""Fractions have no fractional digits from here on."""
MICROSECONDS: Final = range(10**15, 10**16)
"""Times since 2001, which no one reads as numbers; a row has the time of its event."""


def link_to_events(**filters: Any) -> str:
    """The address of the events that match a filter of these values."""
    return "/events" + encode_query(Filter(**filters).to_query())


def decode_data(event: Event) -> Any:
    """The payload as Python values; None for no payload, for one that is not JSON, and for a long
    object."""
    if event.raw is not None or not isinstance(event.data, msgspec.Raw):
        return None
    encoded = memoryview(event.data)
    # Of a long payload a row shows the beginning: decoding megabytes would stall the loop.
    if encoded.nbytes > MAX_DECODED and encoded[:1].tobytes() != b'"':
        return None
    try:
        return msgspec.json.decode(encoded)
    except (msgspec.MsgspecError, RecursionError):
        return None


def summarize(event: Event) -> str:
    """The payload in one short line, the most telling fields first."""
    data = decode_data(event)
    if isinstance(data, dict):
        return _summarize_fields(data)
    if isinstance(data, str):
        return data if len(data) <= MAX_SUMMARY else data[:MAX_SUMMARY] + "\u2026"
    return _start_of_payload(event)


def _summarize_fields(data: Mapping[str, Any]) -> str:
    inner = data.get("payload")
    fields = dict(data)
    if isinstance(inner, dict):
        del fields["payload"]
        fields |= inner
    parts: list[str] = []
    length = 0
    for name in sorted(fields, key=lambda name: RANK.get(name, len(RANK))):
        if name in OMITTED_FIELDS:
            continue
        value = fields[name]
        for inner_name, inner in value.items() if isinstance(value, dict) else ((name, value),):
            if inner_name in OMITTED_FIELDS or (text := _format_value(inner)) is None:
                continue
            parts.append(text if inner_name in RANK else f"{inner_name[:MAX_PART]}={text}")
            length += len(parts[-1])
            if length > MAX_SUMMARY:
                return "  ".join(parts)
    return "  ".join(parts)


def _format_value(value: Any) -> str | None:
    """A value in a few characters; None for one that a row omits."""
    if value in (None, "", [], {}) or (type(value) is int and value in MICROSECONDS):
        return None
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < LARGE else f"{value:.0f}"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= MAX_PART else text[:MAX_PART] + "\u2026"


def _start_of_payload(event: Event) -> str:
    if event.raw is not None:
        return event.raw[:MAX_SUMMARY].decode("utf-8", "backslashreplace")
    if event.data is None:
        return ""
    try:
        encoded = (
            memoryview(event.data)[: MAX_SUMMARY * 4].tobytes()
            if isinstance(event.data, msgspec.Raw)
            else msgspec.json.encode(event.data)[: MAX_SUMMARY * 4]
        )
        text = encoded.decode("utf-8", "ignore")
    except (TypeError, ValueError, OverflowError, RecursionError):
        return "payload that cannot be written as JSON"
    if text == "null":
        return ""
    return text if len(text) <= MAX_SUMMARY else text[:MAX_SUMMARY] + "\u2026"


def event_row(record: Record) -> Mapping[str, Any]:
    """The values of a row: `sequence`, `event`, `severity` by name, and `summary`."""
    event = record.signal
    if not isinstance(event, Event):
        raise TypeError(f"{type(event).__name__} has no row in a list of events")
    return {
        "sequence": record.sequence,
        "event": event,
        "severity": event.severity.name,
        "summary": summarize(event),
    }
