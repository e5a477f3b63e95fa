"""OpenTelemetry: log records and spans become events, numbers of metrics become samples."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from almenara.config import IntakeSettings
from almenara.intake.errors import RefusedPushError
from almenara.intake.otlp_metrics import Read, read_metrics
from almenara.intake.otlp_model import Kind, decode_request, encode_response
from almenara.intake.otlp_values import (
    NANOSECONDS,
    read_attributes,
    read_id,
    read_time,
    read_value,
    service_of,
    source_of,
    walk,
)
from almenara.signals import Event, Severity, Signal, now
from almenara.units import SECOND

SPAN_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
ERROR_STATUS: Final = 2
LONGEST_SUBJECT: Final = 200
REJECTED: Final = (
    "data points without a name, without a finite number, or with delta temporality are not stored;"
    " set the temporality of the exporter to cumulative"
)

encode = msgspec.json.Encoder(order="sorted").encode


class OtlpReader:
    """Reads one request, and writes its response."""

    def __init__(self, kind: Kind, content_type: str, settings: IntakeSettings) -> None:
        self.kind, self.content_type, self.settings = kind, content_type, settings
        self.rejected = 0
        """Data points that have no signal."""

    def read(self, body: bytes) -> Sequence[Signal]:
        """Return the signals of a request. Raises `RefusedPushError`."""
        request = decode_request(body, self.content_type, self.kind, self.settings.max_nesting)
        try:
            result = READERS[self.kind](request, now())
        except OverflowError:
            # JSON has integers of any length, where OpenTelemetry has 64 bits.
            raise RefusedPushError(
                "A number in the request has more than 64 bits; correct it at the sender."
            ) from None
        self.rejected = result.rejected
        return result.signals

    def response(self) -> bytes:
        """Return the body of the response: of the encoding of the request, and with what was
        rejected."""
        return encode_response(self.content_type, self.kind, self.rejected, REJECTED)


def read_logs(request: Any, received: int) -> Read:
    """Return an event for each log record.

    Records have no id, so the id is the digest of the record, and the number of its occurrence
    within the request where records are equal: a request that is repeated has the same ids.
    """
    events: list[Signal] = []
    occurrences: Counter[str] = Counter()
    for resource, scope, record in walk(request, "resource_logs", "scope_logs", "log_records"):
        attributes = read_attributes(record.attributes)
        trace, span = read_id(record.trace_id), read_id(record.span_id)
        stamp = record.time_unix_nano or record.observed_time_unix_nano
        data = {
            "body": read_value(record.body),
            "attributes": attributes,
            "resource": resource,
            "scope": scope,
            "severity_text": record.severity_text,
            "event_name": record.event_name,
        }
        identity = encode([stamp, record.severity_number, trace, span, data])
        digest = hashlib.blake2b(identity, digest_size=16).hexdigest()
        occurrences[digest] += 1
        number = occurrences[digest]
        events.append(
            Event(
                id=digest if number == 1 else f"{digest}/{number}",
                source=source_of(resource),
                type="otel.log",
                subject=(record.event_name or service_of(resource))[:LONGEST_SUBJECT],
                time=read_time(stamp, received),
                severity=read_severity_number(record.severity_number),
                correlation=trace or None,
                attributes=trace_attributes(trace, span),
                data=msgspec.Raw(encode(data)),
            )
        )
    return Read(events)


def read_spans(request: Any, received: int) -> Read:
    """Return an event for each span: one that has started where it has no end, else one with its
    duration."""
    events: list[Signal] = []
    for resource, scope, span in walk(request, "resource_spans", "scope_spans", "spans"):
        trace, identity = read_id(span.trace_id), read_id(span.span_id)
        if not trace or not identity:
            raise RefusedPushError(
                f"resourceSpans.scopeSpans.spans[{len(events)}]: traceId and spanId are required."
            )
        start, end = span.start_time_unix_nano, span.end_time_unix_nano
        kind = span.kind if 0 <= span.kind < len(SPAN_KINDS) else 0
        data: dict[str, Any] = {
            "name": span.name,
            "kind": SPAN_KINDS[kind],
            "span_id": identity,
            "parent_span_id": read_id(span.parent_span_id),
            "status_message": span.status.message,
            "attributes": read_attributes(span.attributes),
            "events": [
                {
                    "name": event.name,
                    "time": read_time(event.time_unix_nano, received),
                    "attributes": read_attributes(event.attributes),
                }
                for event in span.events
            ],
            "links": [
                {"trace_id": read_id(link.trace_id), "span_id": read_id(link.span_id)}
                for link in span.links
            ],
            "resource": resource,
            "scope": scope,
        }
        if end:
            data["duration"] = max(end - start, 0) / (SECOND * NANOSECONDS)
            data["started"] = read_time(start, received)
        events.append(
            Event(
                id=f"{trace}/{identity}/{'end' if end else 'start'}",
                source=source_of(resource),
                type="otel.span" if end else "otel.span.started",
                subject=span.name[:LONGEST_SUBJECT],
                time=read_time(end or start, received),
                severity=Severity.ERROR if span.status.code == ERROR_STATUS else Severity.INFO,
                correlation=trace,
                attributes=trace_attributes(trace, identity),
                data=msgspec.Raw(encode(data)),
            )
        )
    return Read(events)


READERS: Final[dict[Kind, Callable[[Any, int], Read]]] = {
    "logs": read_logs,
    "traces": read_spans,
    "metrics": read_metrics,
}


def read_severity_number(number: int) -> Severity:
    """Return the severity of OpenTelemetry's number: four numbers have one name."""
    if number <= 0:
        return Severity.INFO
    return max((severity for severity in Severity if severity <= number), default=Severity.DEBUG)


def trace_attributes(trace: str, span: str) -> dict[str, str]:
    """Return the `traceparent` of a span; nothing without one."""
    return {"traceparent": f"00-{trace}-{span}-01"} if trace and span else {}
