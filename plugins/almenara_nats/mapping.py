"""Maps a NATS message to an event, whatever its bytes are.

Three generations of payloads are published side by side: bare fields, an envelope with an
`idempotency_key`, and CloudEvents (structured, or in `ce-*` headers).
"""

import uuid
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from almenara.cloudevents import CloudEventError, from_binary, from_structured
from almenara.sdk import type_from_address
from almenara.signals import Event
from almenara_nats.binary_formats import ProtobufDecoder
from almenara_nats.encodings import decode_content, split_batch
from almenara_nats.payload import (
    Payload,
    make_undecoded,
    parse_payload,
    read_structured_data,
)
from almenara_nats.severity import read_severity
from almenara_nats.text import bound_attributes, bound_name, replace_control_characters, to_text
from almenara_nats.timestamps import is_plausible, read_timestamp

CORE: Final = "core"
"""The name of the origin of messages that no stream stored: `nats/core`."""
KEY_PREFIX: Final = "nats/"
"""What a key of deduplication begins with, before the place of the message."""
VERSION_HEADER: Final = "ce-specversion"
ID_HEADER: Final = "nats-msg-id"
CORRELATION_FIELDS: Final = ("correlation_id", "correlationid", "story_id")
NESTED_FIELDS: Final = ("payload", "constraints", "data")


class Message(msgspec.Struct):
    """A message as it was received."""

    subject: str
    headers: Mapping[str, str]
    """Names in lower case."""
    payload: bytes
    stream: str
    sequence: int
    """Sequence in the stream; 0 for a message of core NATS."""
    received: int
    """When the server stored it, or when a message of core NATS arrived, in microseconds."""
    item: int = 0
    """Number of the event in a batch, from 1; 0 for a message that is one event."""

    @property
    def origin(self) -> str:
        return f"nats/{self.stream}"

    @property
    def place(self) -> str:
        """Stream, time and sequence: unique, also in a stream that was recreated."""
        place = f"{self.stream}@{self.received}:{self.sequence}"
        return f"{place}/{self.item}" if self.item else place

    @property
    def fallback_id(self) -> str:
        """The id of a message without one of its own."""
        return self.place if self.sequence else str(uuid.uuid4())


class Draft(msgspec.Struct):
    """What the envelope of a message declares."""

    id: str
    source: str
    type: str
    subject: str
    time: int
    correlation: str
    attributes: dict[str, str]
    data: Any
    raw: bytes | None
    severity: Any = None


def parse_headers(block: bytes) -> dict[str, str]:
    """Return the headers of a NATS header block, names in lower case; repeated ones are joined."""
    headers: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            continue
        key = name.strip().decode("utf-8", "replace").lower()
        text = value.strip().decode("utf-8", "replace")
        if key:
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def read_messages(
    subject: str,
    headers: Mapping[str, str],
    payload: bytes,
    *,
    stream: str = CORE,
    sequence: int = 0,
    received: int,
    raw_limit: int = 64 * 1024,
    data_limit: int = 1024**2,
    by_place: bool = False,
    protobuf: ProtobufDecoder | None = None,
) -> list[Event]:
    """Return the event of one message, or those of a CloudEvents batch; never raises, whatever the
    bytes are.

    `headers` have their names in lower case. `received` is JetStream's timestamp of the message, or
    the time of arrival of a core message (`sequence` 0), in microseconds. `by_place` makes each
    stored message an event of its own, even if its id was used before.
    """
    content = decode_content(headers, payload, data_limit, subject, protobuf)
    items = split_batch(headers, content.body) if not content.problem else ()
    events = []
    for item, body in enumerate(items or [content.body], 1 if items else 0):
        message = Message(subject, headers, body, stream, sequence, received, item)
        if content.problem:
            parsed = make_undecoded(body, content.problem, raw_limit)
        else:
            parsed = parse_payload(body, raw_limit=raw_limit, data_limit=data_limit)
        events.append(_make_event(message, parsed, by_place=by_place))
    return events


def _make_event(message: Message, parsed: Payload, *, by_place: bool) -> Event:
    problems: list[str] = []
    draft = _draft_cloudevent(message, parsed, problems)
    if draft is None:
        if message.item and not problems:
            problems.append("this item of its batch is no CloudEvent")
        draft = _draft_plain(message, parsed, problems)
    if parsed.problem:
        problems.insert(0, parsed.problem)
    severity = read_severity(
        draft.severity, parsed.fields, draft.type, message.subject, parsed.text, problems
    )
    attributes = bound_attributes(draft.attributes, problems) if draft.attributes else {}
    correlation = draft.correlation
    return Event(
        id=bound_name(draft.id, "id", problems),
        source=bound_name(draft.source, "source", problems),
        type=bound_name(draft.type, "type", problems) or "unknown",
        subject=bound_name(draft.subject, "subject", problems),
        time=draft.time,
        data=draft.data,
        severity=severity,
        origin=bound_name(message.origin, "origin", problems),
        correlation=bound_name(correlation, "correlation", problems) if correlation else None,
        attributes=attributes,
        raw=draft.raw,
        problem=replace_control_characters("; ".join(problems)) if problems else None,
        deduplication_key=f"{KEY_PREFIX}{message.place}" if by_place and message.sequence else "",
    )


def _draft_plain(message: Message, parsed: Payload, problems: list[str]) -> Draft:
    """A message without a CloudEvents envelope, or with one that is malformed."""
    fields = parsed.fields
    attributes = dict(message.headers)
    for name in ("traceparent", "tracestate"):
        if name not in attributes and (value := to_text(fields.get(name))):
            attributes[name] = value
    return Draft(
        id=to_text(fields.get("idempotency_key"))
        or message.headers.get(ID_HEADER, "")
        or message.fallback_id,
        source=message.origin,
        type=to_text(fields.get("event_type"))
        or to_text(fields.get("type"))
        or type_from_address(message.subject),
        subject=message.subject,
        time=read_timestamp(fields, message.received, problems),
        correlation=find_correlation(fields),
        attributes=attributes,
        data=parsed.data,
        raw=parsed.raw,
        severity=fields.get("severity"),
    )


def _draft_cloudevent(message: Message, parsed: Payload, problems: list[str]) -> Draft | None:
    """The CloudEvent in a message; None, with a problem noted, where it only claims to be one."""
    is_binary = VERSION_HEADER in message.headers
    if not is_binary and not _is_structured(parsed.fields):
        return None
    try:
        event = _read_binary(message, parsed) if is_binary else _read_structured(message, parsed)
    except (CloudEventError, UnicodeError) as error:
        problems.append(str(error))
        return None
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        problems.append(f"the CloudEvent is malformed: {error}")
        return None
    if event.problem:
        problems.append(event.problem)
    attributes = dict(event.attributes)
    if event.subject and event.subject != message.subject:
        attributes["nats_subject"] = message.subject
    for name, value in message.headers.items():
        if not name.startswith("ce-"):
            attributes.setdefault(name, value)
    moment = event.time
    if not is_plausible(moment, message.received):
        problems.append("its time is out of bounds; the time of arrival is used")
        moment = message.received
    return Draft(
        id=event.id,
        source=event.source,
        type=event.type,
        subject=event.subject or message.subject,
        time=moment,
        correlation=event.correlation or find_correlation(parsed.fields),
        attributes=attributes,
        data=event.data,
        raw=event.raw,
        severity=message.headers.get("ce-severity") or parsed.fields.get("severity"),
    )


def _is_structured(fields: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a CloudEvent; one without an id is named by its place."""
    return (
        fields.get("specversion") is not None
        and fields.get("source") is not None
        and fields.get("type") is not None
    )


def _read_binary(message: Message, parsed: Payload) -> Event:
    # Attributes in headers are percent-encoded (NATS protocol binding, section 3.1.3.2).
    headers = {
        name: unquote(value) if name.startswith("ce-") else value
        for name, value in message.headers.items()
    }
    if not headers.get("ce-id"):
        headers = {**headers, "ce-id": message.fallback_id}
    content_type = headers.get("content-type", "").strip().lower()
    if parsed.problem and content_type.startswith("text/") and parsed.is_whole(message.payload):
        # Text that happens to begin as JSON does is what its publisher declared it to be.
        parsed.data = msgspec.Raw(msgspec.json.encode(message.payload.decode()))
        parsed.raw, parsed.problem = None, ""
    event = from_binary(headers, parsed.data, received=message.received)
    return msgspec.structs.replace(event, data=parsed.data, raw=parsed.raw)


def _read_structured(message: Message, parsed: Payload) -> Event:
    # To CloudEvents, an attribute that is null is one that is not there.
    fields = {name: value for name, value in parsed.fields.items() if value is not None}
    if not fields.get("id"):
        fields["id"] = message.fallback_id
    event = from_structured(fields, received=message.received)
    if parsed.raw is not None:
        return msgspec.structs.replace(event, data=parsed.data, raw=parsed.raw)
    if event.raw is not None:
        return event
    return msgspec.structs.replace(event, data=read_structured_data(bytes(parsed.data)))


def find_correlation(fields: Mapping[str, Any]) -> str:
    """Return the id that ties a message to others; empty where it has none."""
    for name in CORRELATION_FIELDS:
        if value := to_text(fields.get(name)):
            return value
    for name in NESTED_FIELDS:
        inner = fields.get(name)
        if isinstance(inner, dict) and (value := to_text(inner.get("story_id"))):
            return value
    return to_text(fields.get("task_id"))
