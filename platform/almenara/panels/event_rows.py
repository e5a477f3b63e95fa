"""A line of a list of events, and the addresses of lists."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.renderer import query
from almenara.signals import Event

SUMMARY: Final = 160
EVENT_FILTERS: Final = frozenset(
    ("source", "origin", "type", "subject", "severity", "text", "correlation", "since", "until")
)


def events_link(**parts: Any) -> str:
    """The address of the events that a filter of these parts lets through."""
    return "/events" + query(Filter(**parts).to_query())


TELLING: Final = (
    "error", "reason", "message", "title", "token", "proposal", "rationale", "status",
)  # fmt: skip
"""What people want to read first of a payload."""
RANK: Final = {name: place for place, name in enumerate(TELLING)}
TOLD_ELSEWHERE: Final = frozenset(
    ("event_type", "type", "timestamp", "idempotency_key", "correlation_id", "producer", "metadata")
)
"""What other columns of a row say already, or nobody reads in a row."""
PART: Final = 80


def summary(event: Event) -> str:
    """The payload in one short line: what tells most first."""
    if event.raw is None and isinstance(event.data, msgspec.Raw):
        try:
            data = msgspec.json.decode(event.data)
        except (msgspec.MsgspecError, RecursionError):
            data = None
        if isinstance(data, dict):
            return _told(data)
    return _beginning(event)


def _told(data: Mapping[str, Any]) -> str:
    inner = data.get("payload")
    fields = dict(data)
    if isinstance(inner, dict):
        del fields["payload"]
        fields |= inner
    parts: list[str] = []
    length = 0
    for name in sorted(fields, key=lambda it: RANK.get(it, len(RANK))):
        if name in TOLD_ELSEWHERE:
            continue
        value = fields[name]
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        text = text if len(text) <= PART else text[:PART] + "\u2026"
        parts.append(text if name in RANK else f"{name}={text}")
        length += len(parts[-1])
        if length > SUMMARY:
            break
    return "  ".join(parts)


def _beginning(event: Event) -> str:
    if event.raw is not None:
        return event.raw[:SUMMARY].decode("utf-8", "backslashreplace")
    if event.data is None:
        return ""
    try:
        text = msgspec.json.encode(event.data)[: SUMMARY * 4].decode("utf-8", "ignore")
    except (TypeError, ValueError, OverflowError, RecursionError):
        return "payload that cannot be written as JSON"
    return text if len(text) <= SUMMARY else text[:SUMMARY] + "\u2026"


def row(record: Record) -> Mapping[str, Any]:
    """What one line of an event list shows."""
    event = record.signal
    if not isinstance(event, Event):
        raise TypeError(f"{type(event).__name__} has no row in a list of events")
    return {
        "sequence": record.sequence,
        "event": event,
        "severity": event.severity.name,
        "summary": summary(event),
    }
