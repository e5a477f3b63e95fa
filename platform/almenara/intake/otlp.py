"""OpenTelemetry: log records and spans become events, numbers of metrics become samples."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from almenara.config import IntakeSettings
from almenara.intake.errors import RefusedPushError
from almenara.intake.otlp_model import Kind, decode_request, encode_response
from almenara.signals import Event, Resource, Sample, Severity, Signal, now
from almenara.units import SECOND

NANOSECONDS: Final = 1_000
"""Nanoseconds of a microsecond."""
SERVICE_KIND: Final = "otel.service"
UNKNOWN_SERVICE: Final = "unknown_service"
SPAN_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
ERROR_STATUS: Final = 2
NO_VALUE: Final = 1
"""The flag of a data point without a value."""
LONGEST_SUBJECT: Final = 200
OTHER_POINTS: Final = ("histogram", "exponential_histogram", "summary")
LARGEST_NANOSECONDS: Final = 253_402_300_799 * SECOND * NANOSECONDS
DEEPEST_VALUE: Final = 64
REJECTED: Final = "histograms, summaries and numbers that are not finite are not stored"

encode = msgspec.json.Encoder(order="sorted").encode


class Read(msgspec.Struct, frozen=True):
    """What a request contains, and what of it has no signal."""

    signals: Sequence[Signal]
    rejected: int = 0


class OtlpReader:
    """Reads one request, and writes its response."""

    def __init__(self, kind: Kind, content_type: str, settings: IntakeSettings) -> None:
        self.kind, self.content_type, self.settings = kind, content_type, settings
        self.rejected = 0
        """Data points that have no signal."""

    def read(self, body: bytes) -> Sequence[Signal]:
        """Return the signals of a request. Raises `RefusedPushError`."""
        request = decode_request(body, self.content_type, self.kind, self.settings.max_nesting)
        result = READERS[self.kind](request, now())
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
    for resource, scope, record in _walk(request, "resource_logs", "scope_logs", "log_records"):
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
    for resource, scope, span in _walk(request, "resource_spans", "scope_spans", "spans"):
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


def read_metrics(request: Any, received: int) -> Read:
    """Return a sample for each number of a gauge or sum, and a resource for each service.

    Histograms and summaries, and numbers that are not finite, are rejected.
    """
    signals: list[Signal] = []
    services: set[tuple[str, str]] = set()
    rejected = 0
    for resource, _, metric in _walk(request, "resource_metrics", "scope_metrics", "metrics"):
        name, namespace = service_of(resource), str(resource.get("service.namespace", ""))
        for field in OTHER_POINTS:
            if (other := _optional(metric, field)) is not None:
                rejected += len(other.data_points)
        for field in ("gauge", "sum"):
            numbers = _optional(metric, field)
            for point in numbers.data_points if numbers is not None else ():
                value = _number(point)
                if point.flags & NO_VALUE:
                    continue
                if value is None or not metric.name:
                    rejected += 1
                    continue
                if (namespace, name) not in services:
                    services.add((namespace, name))
                    signals.append(
                        Resource(
                            kind=SERVICE_KIND, name=name, namespace=namespace, status="reporting",
                            state={"attributes": resource}, time=received,
                        )
                    )  # fmt: skip
                signals.append(
                    Sample(
                        kind=SERVICE_KIND, name=name, namespace=namespace,
                        metric=metric.name + write_labels(read_attributes(point.attributes)),
                        value=value, unit="" if metric.unit == "1" else metric.unit,
                        time=read_time(point.time_unix_nano, received),
                    )
                )  # fmt: skip
    return Read(signals, rejected)


READERS: Final[dict[Kind, Callable[[Any, int], Read]]] = {
    "logs": read_logs,
    "traces": read_spans,
    "metrics": read_metrics,
}


def _walk(
    request: Any, resources: str, scopes: str, items: str
) -> Iterable[tuple[dict[str, Any], dict[str, Any], Any]]:
    """Yield each item with the attributes of its resource, and with its scope."""
    for of_resource in getattr(request, resources):
        resource = read_attributes(of_resource.resource.attributes)
        for of_scope in getattr(of_resource, scopes):
            scope = getattr(of_scope, "scope", None)
            described = {} if scope is None else {"name": scope.name, "version": scope.version}
            for item in getattr(of_scope, items):
                yield resource, described, item


def _optional(message: Any, field: str) -> Any:
    """Return a field of a oneof; None where another one is set."""
    if hasattr(message, "HasField") and not message.HasField(field):
        return None
    return getattr(message, field)


def _number(point: Any) -> float | None:
    value = _optional(point, "as_int")
    if value is None:
        value = _optional(point, "as_double")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_attributes(attributes: Iterable[Any]) -> dict[str, Any]:
    """Return attributes by key; of a repeated key the last."""
    return {attribute.key: read_value(attribute.value) for attribute in attributes}


def read_value(value: Any, depth: int = 0) -> Any:
    """Return a value of any type as it is written in JSON. Raises `RefusedPushError`."""
    if depth > DEEPEST_VALUE:
        raise RefusedPushError(f"A value is nested deeper than {DEEPEST_VALUE}.")
    content: Any
    if hasattr(value, "WhichOneof"):
        field = value.WhichOneof("value")
        content = getattr(value, field) if field else None
    else:
        field, content = next(
            (
                (name, part)
                for name in value.__struct_fields__
                if (part := getattr(value, name)) is not None
            ),
            ("", None),
        )
    match field:
        case "array_value":
            return [read_value(part, depth + 1) for part in content.values]
        case "kvlist_value":
            return {part.key: read_value(part.value, depth + 1) for part in content.values}
        case "bytes_value":
            return content if isinstance(content, str) else base64.b64encode(content).decode()
        case "double_value":
            # JSON has no infinity.
            return content if isinstance(content, str) or math.isfinite(content) else str(content)
    return content


def read_id(value: bytes | str) -> str:
    """Return a trace or span id in lower-case hexadecimal; empty for an id of zeros."""
    text = value.hex() if isinstance(value, bytes) else value.lower()
    return text if text.strip("0") else ""


def read_time(nanoseconds: int, received: int) -> int:
    """Return the microseconds of a time; `received` where it is missing or out of range."""
    return nanoseconds // NANOSECONDS if 0 < nanoseconds <= LARGEST_NANOSECONDS else received


def read_severity_number(number: int) -> Severity:
    """Return the severity of OpenTelemetry's number: four numbers have one name."""
    if number <= 0:
        return Severity.INFO
    return max((severity for severity in Severity if severity <= number), default=Severity.DEBUG)


def service_of(resource: dict[str, Any]) -> str:
    """Return the name of the service that sent something."""
    return str(resource.get("service.name") or UNKNOWN_SERVICE)


def source_of(resource: dict[str, Any]) -> str:
    """Return the source of the events of a service."""
    return f"otel/{service_of(resource)}"


def trace_attributes(trace: str, span: str) -> dict[str, str]:
    """Return the `traceparent` of a span; nothing without one."""
    return {"traceparent": f"00-{trace}-{span}-01"} if trace and span else {}


def write_labels(attributes: dict[str, Any]) -> str:
    """Return the attributes of a data point as the end of the name of its metric: `{a=b,c=d}`."""
    labels = ",".join(f"{key}={value}" for key, value in sorted(attributes.items()))
    return f"{{{labels}}}" if labels else ""
