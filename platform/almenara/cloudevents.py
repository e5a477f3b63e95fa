"""CloudEvents 1.0 to events and back, in structured and in binary mode.

Envelope: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md; for NATS,
`bindings/nats-protocol-binding.md`. Trace context: https://www.w3.org/TR/trace-context/.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from almenara.errors import AlmenaraError
from almenara.signals import Event, Severity, format_time, parse_severity, parse_time

CLOUDEVENT_REQUIRED: Final = ("specversion", "id", "source", "type")
CLOUDEVENT_ATTRIBUTES: Final = frozenset(
    (*CLOUDEVENT_REQUIRED, "subject", "time", "datacontenttype", "dataschema")
)
HEADER_PREFIX: Final = "ce-"


class CloudEventError(AlmenaraError, ValueError):
    """A message claims to be a CloudEvent and is not one; the text says what is missing."""


def is_structured(body: Mapping[str, Any]) -> bool:
    """Whether a decoded JSON object is a CloudEvent in structured mode."""
    return "specversion" in body and "source" in body and "type" in body and "id" in body


def from_structured(body: Mapping[str, Any], *, received: int) -> Event:
    """The event in a structured-mode CloudEvent; `received` stands in for a missing `time`.

    Raises `CloudEventError` where a required attribute is missing or is not a non-empty string.
    """
    data = body.get("data")
    raw: bytes | None = None
    if "data_base64" in body:
        try:
            raw = base64.b64decode(body["data_base64"], validate=True)
        except (ValueError, TypeError) as error:
            raise CloudEventError(f"data_base64 is not base64: {error}") from None
        data = raw.decode("utf-8", "replace")
    attributes = {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in body.items()
        if name not in ("data", "data_base64")
    }
    return _from_attributes(attributes, data=data, raw=raw, received=received)


def from_binary(headers: Mapping[str, str], data: Any, *, received: int) -> Event:
    """The event of binary-mode `ce-*` headers (names in lower case) around already decoded `data`.

    Raises `CloudEventError` where a required attribute is missing or empty.
    """
    attributes = {
        name.removeprefix(HEADER_PREFIX): value
        for name, value in headers.items()
        if name.startswith(HEADER_PREFIX)
    }
    for name in ("traceparent", "tracestate"):
        if name in headers:
            attributes.setdefault(name, headers[name])
    return _from_attributes(attributes, data=data, raw=None, received=received)


def _from_attributes(
    attributes: dict[str, str], *, data: Any, raw: bytes | None, received: int
) -> Event:
    for name in CLOUDEVENT_REQUIRED:
        if not attributes.get(name):
            raise CloudEventError(f"the CloudEvent has no {name}")
    if not attributes["specversion"].startswith("1."):
        raise CloudEventError(f"CloudEvents {attributes['specversion']} is not known here; 1.0 is")
    moment, problem = received, None
    if stamp := attributes.get("time"):
        try:
            moment = parse_time(stamp)
        except ValueError:
            problem = f"time {stamp[:80]!r} is not RFC 3339; the time of arrival stands in"
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
            if name not in CLOUDEVENT_ATTRIBUTES
            and name not in ("severity", "correlationid", "correlation_id")
        },
        raw=raw,
        problem=problem,
    )


def to_structured(event: Event) -> dict[str, Any]:
    """The structured-mode CloudEvent of an event; `msgspec.json.encode` writes it."""
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": format_time(event.time),
        "severity": event.severity.name,
    }
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
    """The binary-mode headers (`ce-*`) and the payload of an event."""
    body = to_structured(event)
    data, encoded = body.pop("data", None), body.pop("data_base64", None)
    content_type = body.pop("datacontenttype", None)
    headers = {HEADER_PREFIX + name: str(value) for name, value in body.items()}
    if content_type:
        headers["content-type"] = content_type
    payload = event.raw if encoded is not None and event.raw is not None else None
    return headers, payload if payload is not None else msgspec.json.encode(data)
