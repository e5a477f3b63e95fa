"""CloudEvents 1.0 to events and back, in structured and in binary mode.

Envelope: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md; headers of the binary
mode: `bindings/http-protocol-binding.md` and `bindings/nats-protocol-binding.md`. Trace context:
https://www.w3.org/TR/trace-context/.
"""

import base64
import contextlib
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

from almenara.errors import AlmenaraError
from almenara.signals import Event, Severity, format_time, parse_severity, parse_time

REQUIRED: Final = ("specversion", "id", "source", "type")
ATTRIBUTES: Final = frozenset((*REQUIRED, "subject", "time", "datacontenttype", "dataschema"))
OF_EVENT: Final = frozenset(("severity", "correlationid", "correlation_id"))
"""Extensions that are fields of `Event`."""
DATA: Final = ("data", "data_base64")
HEADER_PREFIX: Final = "ce-"
UNESCAPED: Final = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("%", "")
"""Characters that a header of the binary mode holds as they are; all others are percent-encoded."""
NULL: Final = b"null"

decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class CloudEventError(AlmenaraError, ValueError):
    """A message claims to be a CloudEvent and is not one; the text names what is wrong."""


def is_structured(body: Mapping[str, Any]) -> bool:
    """Whether a decoded JSON object claims to be a CloudEvent in structured mode."""
    return all(body.get(name) is not None for name in ("specversion", "source", "type"))


def parse_structured(payload: bytes, *, received: int, default_id: str = "") -> Event:
    """Return the event in the JSON text of a structured-mode CloudEvent, with its data unchanged.

    Raises `CloudEventError` as `from_structured` does, and for text that is not a JSON object.
    """
    try:
        members = decode_members(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CloudEventError(f"the CloudEvent is not a JSON object: {error}") from None
    body = {
        name: raw if name == "data" and raw != NULL else msgspec.json.decode(raw)
        for name, raw in members.items()
    }
    return from_structured(body, received=received, default_id=default_id)


def from_structured(body: Mapping[str, Any], *, received: int, default_id: str = "") -> Event:
    """Return the event in a decoded structured-mode CloudEvent.

    `received` stands in for a missing `time`, and `default_id`, the place of the message in its
    stream for example, for a missing `id`. An attribute that is null is a missing one.

    Raises `CloudEventError` where a required attribute is missing or empty.
    """
    data = body.get("data")
    raw: bytes | None = None
    if (encoded := body.get("data_base64")) is not None:
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (ValueError, TypeError) as error:
            raise CloudEventError(f"data_base64 is not base64: {error}") from None
        data = raw.decode("utf-8", "replace")
    attributes = {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in body.items()
        if name not in DATA and value is not None
    }
    return _from_attributes(
        attributes, data=data, raw=raw, received=received, default_id=default_id
    )


def from_binary(
    headers: Mapping[str, str], data: Any, *, received: int, default_id: str = ""
) -> Event:
    """Return the event of binary-mode `ce-*` headers (names in lower case) around decoded `data`.

    Raises `CloudEventError` where a required attribute is missing or empty.
    """
    attributes = {
        name.removeprefix(HEADER_PREFIX): decode_header(value)
        for name, value in headers.items()
        if name.startswith(HEADER_PREFIX)
    }
    for name in ("traceparent", "tracestate"):
        if name in headers:
            attributes.setdefault(name, headers[name])
    return _from_attributes(
        attributes, data=data, raw=None, received=received, default_id=default_id
    )


def decode_header(value: str) -> str:
    """Return the text of a header, which is percent-encoded UTF-8; unchanged where it is not."""
    if "%" not in value:
        return value
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        return value


def encode_header(value: str) -> str:
    """Return a text as a header may hold it."""
    return quote(value, safe=UNESCAPED)


def _from_attributes(
    attributes: dict[str, str], *, data: Any, raw: bytes | None, received: int, default_id: str
) -> Event:
    if default_id:
        attributes.setdefault("id", default_id)
    for name in REQUIRED:
        if not attributes.get(name):
            raise CloudEventError(f"the CloudEvent has no {name}")
    if not attributes["specversion"].startswith("1."):
        raise CloudEventError(
            f"the CloudEvent has specversion {attributes['specversion'][:20]}; 1.x is supported"
        )
    moment, problem = received, None
    if stamp := attributes.get("time"):
        try:
            moment = parse_time(stamp)
        except (ValueError, OverflowError):
            problem = f"time {stamp[:80]!r} is not RFC 3339; the time of arrival is used"
    severity = Severity.INFO
    if level := attributes.get("severity"):
        try:
            severity = parse_severity(level)
        except ValueError as error:
            problem = problem or str(error)
    return Event(
        id=attributes["id"],
        source=attributes["source"],
        type=attributes["type"],
        subject=attributes.get("subject", ""),
        time=moment,
        data=data,
        severity=severity,
        correlation=attributes.get("correlationid") or attributes.get("correlation_id"),
        attributes={
            name: value
            for name, value in attributes.items()
            if name not in ATTRIBUTES and name not in OF_EVENT
        },
        raw=raw,
        problem=problem,
    )


def to_structured(event: Event) -> dict[str, Any]:
    """Return the structured-mode CloudEvent of an event; `msgspec.json.encode` writes it.

    A time that RFC 3339 cannot write is left out.
    """
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
    }
    with contextlib.suppress(OverflowError):
        body["time"] = format_time(event.time)
    body["severity"] = event.severity.name
    if event.subject:
        body["subject"] = event.subject
    if event.correlation:
        body["correlationid"] = event.correlation
    body.update((name, value) for name, value in event.attributes.items() if name not in body)
    if event.raw is not None:
        body["data_base64"] = base64.b64encode(event.raw).decode()
    else:
        body["datacontenttype"] = "application/json"
        body["data"] = event.data
    return body


def to_binary(event: Event) -> tuple[dict[str, str], bytes]:
    """Return the binary-mode headers (`ce-*`) and the payload of an event."""
    body = to_structured(event)
    data, encoded = body.pop("data", None), body.pop("data_base64", None)
    content_type = body.pop("datacontenttype", None)
    headers = {HEADER_PREFIX + name: encode_header(str(value)) for name, value in body.items()}
    if content_type:
        headers["content-type"] = content_type
    payload = event.raw if encoded is not None and event.raw is not None else None
    return headers, payload if payload is not None else msgspec.json.encode(data)
