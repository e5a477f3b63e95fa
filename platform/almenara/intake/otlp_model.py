"""Requests of OTLP/HTTP, as JSON and as Protocol Buffers, with the same fields in both.

https://opentelemetry.io/docs/specs/otlp/#otlphttp. The structs have the names of the protocol, so
that what reads them reads the messages of `opentelemetry-proto` as well.
"""

import importlib
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

from almenara.intake.body import decode_json
from almenara.intake.errors import RefusedPushError

Kind = Literal["logs", "traces", "metrics"]
JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"
EXTRA: Final = "otlp"


class Message(msgspec.Struct, rename="camel", kw_only=True):
    """A message as JSON: fields in camelCase, 64-bit integers as text, ids in hexadecimal."""


class AnyValue(Message):
    """A value of any type; exactly one field is set."""

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | None = None
    double_value: float | str | None = None
    array_value: "ArrayValue | None" = None
    kvlist_value: "KeyValueList | None" = None
    bytes_value: str | None = None


class ArrayValue(Message):
    values: list[AnyValue] = []


class KeyValue(Message):
    key: str = ""
    value: AnyValue = msgspec.field(default_factory=AnyValue)


class KeyValueList(Message):
    values: list[KeyValue] = []


class OtlpResource(Message):
    attributes: list[KeyValue] = []


class InstrumentationScope(Message):
    name: str = ""
    version: str = ""


class LogRecord(Message):
    time_unix_nano: int = 0
    observed_time_unix_nano: int = 0
    severity_number: int = 0
    severity_text: str = ""
    body: AnyValue = msgspec.field(default_factory=AnyValue)
    attributes: list[KeyValue] = []
    trace_id: str = ""
    span_id: str = ""
    event_name: str = ""


class ScopeLogs(Message):
    scope: InstrumentationScope = msgspec.field(default_factory=InstrumentationScope)
    log_records: list[LogRecord] = []


class ResourceLogs(Message):
    resource: OtlpResource = msgspec.field(default_factory=OtlpResource)
    scope_logs: list[ScopeLogs] = []


class LogsRequest(Message):
    resource_logs: list[ResourceLogs] = []


class SpanEvent(Message):
    time_unix_nano: int = 0
    name: str = ""
    attributes: list[KeyValue] = []


class SpanLink(Message):
    trace_id: str = ""
    span_id: str = ""


class SpanStatus(Message):
    message: str = ""
    code: int = 0


class Span(Message):
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    trace_state: str = ""
    name: str = ""
    kind: int = 0
    start_time_unix_nano: int = 0
    end_time_unix_nano: int = 0
    attributes: list[KeyValue] = []
    events: list[SpanEvent] = []
    links: list[SpanLink] = []
    status: SpanStatus = msgspec.field(default_factory=SpanStatus)


class ScopeSpans(Message):
    scope: InstrumentationScope = msgspec.field(default_factory=InstrumentationScope)
    spans: list[Span] = []


class ResourceSpans(Message):
    resource: OtlpResource = msgspec.field(default_factory=OtlpResource)
    scope_spans: list[ScopeSpans] = []


class TracesRequest(Message):
    resource_spans: list[ResourceSpans] = []


class NumberDataPoint(Message):
    attributes: list[KeyValue] = []
    time_unix_nano: int = 0
    as_double: float | str | None = None
    as_int: int | None = None
    flags: int = 0


class TemporalPoints(Message):
    aggregation_temporality: int | str = 0
    """The number of the enumeration, as the specification of JSON has it, or its name."""


class NumberPoints(TemporalPoints):
    data_points: list[NumberDataPoint] = []


class DataPoint(Message):
    attributes: list[KeyValue] = []
    time_unix_nano: int = 0
    count: int = 0
    flags: int = 0


class HistogramDataPoint(DataPoint):
    sum: float | str | None = None
    min: float | str | None = None
    max: float | str | None = None
    bucket_counts: list[int] = []
    explicit_bounds: list[float] = []


class Buckets(Message):
    offset: int = 0
    bucket_counts: list[int] = []


class ExponentialHistogramDataPoint(DataPoint):
    sum: float | str | None = None
    min: float | str | None = None
    max: float | str | None = None
    scale: int = 0
    zero_count: int = 0
    positive: Buckets = msgspec.field(default_factory=Buckets)
    negative: Buckets = msgspec.field(default_factory=Buckets)


class QuantileValue(Message):
    quantile: float = 0.0
    value: float | str = 0.0


class SummaryDataPoint(DataPoint):
    sum: float | str = 0.0
    quantile_values: list[QuantileValue] = []


class HistogramPoints(TemporalPoints):
    data_points: list[HistogramDataPoint] = []


class ExponentialHistogramPoints(TemporalPoints):
    data_points: list[ExponentialHistogramDataPoint] = []


class SummaryPoints(Message):
    data_points: list[SummaryDataPoint] = []


class Metric(Message):
    name: str = ""
    unit: str = ""
    gauge: NumberPoints | None = None
    sum: NumberPoints | None = None
    histogram: HistogramPoints | None = None
    exponential_histogram: ExponentialHistogramPoints | None = None
    summary: SummaryPoints | None = None


class ScopeMetrics(Message):
    metrics: list[Metric] = []


class ResourceMetrics(Message):
    resource: OtlpResource = msgspec.field(default_factory=OtlpResource)
    scope_metrics: list[ScopeMetrics] = []


class MetricsRequest(Message):
    resource_metrics: list[ResourceMetrics] = []


REQUESTS: Final[dict[Kind, type[Message]]] = {
    "logs": LogsRequest,
    "traces": TracesRequest,
    "metrics": MetricsRequest,
}
PROTOBUF_REQUESTS: Final[dict[Kind, tuple[str, str]]] = {
    "logs": ("logs", "ExportLogsServiceRequest"),
    "traces": ("trace", "ExportTraceServiceRequest"),
    "metrics": ("metrics", "ExportMetricsServiceRequest"),
}
"""Module and class of each request in `opentelemetry.proto.collector`."""


def decode_request(body: bytes, content_type: str, kind: Kind, max_nesting: int) -> Any:
    """Return the request in a body: one of the structs above, or the message of the same fields.

    Raises `RefusedPushError`.
    """
    if content_type == JSON:
        # Not strict: 64-bit integers are text in this JSON.
        return decode_json(body, REQUESTS[kind], max_nesting, strict=False)
    if content_type == PROTOBUF:
        return _decode_protobuf(body, kind)
    raise RefusedPushError(
        f"Content-Type must be {PROTOBUF} or {JSON}.", HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    )


def encode_response(content_type: str, kind: Kind, rejected: int, reason: str) -> bytes:
    """Return the response to a request of metrics of which so many data points are rejected; to
    other requests the empty one."""
    if content_type == JSON:
        problem = {"rejectedDataPoints": str(rejected), "errorMessage": reason}
        return msgspec.json.encode({"partialSuccess": problem} if rejected else {})
    if not rejected:
        return b""
    message = _import_service(kind).ExportMetricsServiceResponse()
    message.partial_success.rejected_data_points = rejected
    message.partial_success.error_message = reason
    return bytes(message.SerializeToString())


def _import_service(kind: Kind) -> Any:
    """Import the messages here, because the library is installed with an extra."""
    module, _ = PROTOBUF_REQUESTS[kind]
    return importlib.import_module(
        f"opentelemetry.proto.collector.{module}.v1.{module}_service_pb2"
    )


def _decode_protobuf(body: bytes, kind: Kind) -> Any:
    _, name = PROTOBUF_REQUESTS[kind]
    try:
        service = _import_service(kind)
    except ImportError:
        raise RefusedPushError(
            f"Content-Type: {PROTOBUF} needs `pip install 'almenara[{EXTRA}]'` on the server;"
            f" send {JSON}.",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ) from None
    request = getattr(service, name)()
    try:
        # Its decoder refuses more than a hundred levels.
        request.ParseFromString(body)
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise RefusedPushError(f"The body is not a {name}: {error}.") from None
    return request
