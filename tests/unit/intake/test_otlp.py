"""Requests of OpenTelemetry, as JSON and as Protocol Buffers: valid, equal, and hostile."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from almenara.bus.codec import normalize
from almenara.config import IntakeSettings
from almenara.intake.errors import RefusedPushError
from almenara.intake.otlp import OtlpReader, read_severity_number
from almenara.intake.otlp_model import JSON, PROTOBUF, REQUESTS, Kind
from almenara.signals import Event, Resource, Sample, Severity, Signal

SETTINGS = IntakeSettings(kind="otlp")
TRACE, SPAN = "5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174"
START, END = 1_700_000_000_000_000_000, 1_700_000_001_500_000_000
RESOURCE = {"attributes": [{"key": "service.name", "value": {"stringValue": "agents"}}]}
KINDS: list[Kind] = list(REQUESTS)


def read(kind: Kind, body: dict[str, Any]) -> list[Signal]:
    return list(OtlpReader(kind, JSON, SETTINGS).read(json.dumps(body).encode()))


def spans(**more: Any) -> dict[str, Any]:
    span = {"traceId": TRACE, "spanId": SPAN, "name": "chat", "kind": 3,
            "startTimeUnixNano": str(START), **more}  # fmt: skip
    return {"resourceSpans": [{"resource": RESOURCE, "scopeSpans": [{"spans": [span]}]}]}


def test_spans_are_events_with_duration_or_have_started() -> None:
    (started,) = read("traces", spans())
    (ended,) = read("traces", spans(endTimeUnixNano=str(END), status={"code": 2}))
    assert isinstance(started, Event)
    assert isinstance(ended, Event)
    assert (started.type, ended.type) == ("otel.span.started", "otel.span")
    assert started.id != ended.id
    assert (ended.source, ended.subject) == ("otel/agents", "chat")
    assert ended.correlation == started.correlation == TRACE
    assert ended.attributes == {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert (ended.severity, ended.time) == (Severity.ERROR, END // 1_000)
    data = json.loads(bytes(ended.data))
    assert (data["duration"], data["kind"]) == (1.5, "client")
    with pytest.raises(RefusedPushError, match="traceId"):
        read("traces", spans(spanId="0000000000000000"))


def test_equal_log_records_are_numbered_the_same_at_each_delivery() -> None:
    attributes = [{"key": "n", "value": {"intValue": "3"}}]
    record = {"timeUnixNano": str(START), "severityNumber": 17, "body": {"stringValue": "no"},
              "attributes": attributes, "traceId": TRACE}  # fmt: skip
    body = {"resourceLogs": [{"resource": RESOURCE, "scopeLogs": [{"logRecords": [record] * 2}]}]}
    first, second = read("logs", body)
    assert isinstance(first, Event)
    assert isinstance(second, Event)
    assert second.id == f"{first.id}/2"
    assert [each.id for each in read("logs", body) if isinstance(each, Event)] == [
        first.id,
        second.id,
    ]
    assert (first.severity, first.correlation) == (Severity.ERROR, TRACE)
    assert json.loads(bytes(first.data))["attributes"] == {"n": 3}


def test_metrics_are_samples_and_the_rest_is_rejected() -> None:
    point = {"timeUnixNano": str(START), "asInt": "7",
             "attributes": [{"key": "model", "value": {"stringValue": "m"}}]}  # fmt: skip
    metrics = [
        {"name": "tokens", "unit": "{token}", "sum": {"dataPoints": [point]}},
        {"name": "load", "unit": "1", "gauge": {"dataPoints": [{"asDouble": 0.5},
                                                                {"asDouble": "NaN"}]}},
        {"gauge": {"dataPoints": [{"asDouble": 0.5}]}},
    ]  # fmt: skip
    body = {"resourceMetrics": [{"resource": RESOURCE, "scopeMetrics": [{"metrics": metrics}]}]}
    reader = OtlpReader("metrics", JSON, SETTINGS)
    service, tokens, load = reader.read(json.dumps(body).encode())
    assert isinstance(service, Resource)
    assert isinstance(tokens, Sample)
    assert isinstance(load, Sample)
    assert service.key == tokens.key == ("otel.service", "", "agents")
    assert (tokens.metric, tokens.value, tokens.time) == ("tokens{model=m}", 7, START // 1_000)
    assert (load.metric, load.value, load.unit) == ("load", 0.5, "")
    assert json.loads(reader.response())["partialSuccess"]["rejectedDataPoints"] == "2"
    reader.content_type = PROTOBUF
    answer = ExportMetricsServiceResponse.FromString(reader.response())
    assert answer.partial_success.rejected_data_points == 2


@pytest.mark.parametrize("delta", [1, "AGGREGATION_TEMPORALITY_DELTA"])
def test_points_with_delta_temporality_are_rejected(delta: int | str) -> None:
    point = {"asInt": "7", "count": "1"}
    metrics = [
        {"name": f"m{number}", kind: {"dataPoints": [point], "aggregationTemporality": temporality}}
        for number, (kind, temporality) in enumerate(
            itertools.product(("sum", "histogram", "exponentialHistogram"), (delta, 2))
        )
    ]
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]}
    reader = OtlpReader("metrics", JSON, SETTINGS)
    samples = [each for each in reader.read(json.dumps(body).encode()) if isinstance(each, Sample)]
    assert {each.metric for each in samples} == {"m1", "m3_count", "m5_count", "m5_bucket:+Inf"}
    partial = json.loads(reader.response())["partialSuccess"]
    assert partial["rejectedDataPoints"] == "3"
    assert "cumulative" in partial["errorMessage"]


def test_delta_points_of_protocol_buffers_are_rejected() -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    metric.sum.aggregation_temporality = 1
    metric.sum.data_points.add(as_int=7)
    reader = OtlpReader("metrics", PROTOBUF, SETTINGS)
    assert list(reader.read(request.SerializeToString())) == []
    assert reader.rejected == 1


def read_samples(*metrics: dict[str, Any]) -> dict[str, float]:
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [*metrics]}]}]}
    signals = read("metrics", body)
    return {signal.metric: signal.value for signal in signals if isinstance(signal, Sample)}


def test_histograms_are_cumulative_buckets_with_count_and_sum() -> None:
    point = {"timeUnixNano": str(START), "count": "6", "sum": 2.5, "max": 1.5,
             "bucketCounts": ["1", "2", "3"], "explicitBounds": [0.1, 1.0],
             "attributes": [{"key": "model", "value": {"stringValue": "m"}}]}  # fmt: skip
    assert read_samples({"name": "latency", "histogram": {"dataPoints": [point]}}) == {
        "latency_count{model=m}": 6, "latency_sum{model=m}": 2.5, "latency_max{model=m}": 1.5,
        "latency{model=m}_bucket:0.1": 1, "latency{model=m}_bucket:1": 3,
        "latency{model=m}_bucket:+Inf": 6,
    }  # fmt: skip


def test_exponential_histograms_and_summaries_are_samples() -> None:
    exponential = {"count": "4", "sum": 9.0, "scale": 0, "zeroCount": "1",
                   "positive": {"offset": 0, "bucketCounts": ["1", "2"]}}  # fmt: skip
    summary = {"count": "2", "sum": 3.0, "quantileValues": [{"quantile": 0.5, "value": 1.5}]}
    assert read_samples(
        {"name": "a", "exponentialHistogram": {"dataPoints": [exponential]}},
        {"name": "b", "summary": {"dataPoints": [summary]}},
    ) == {
        "a_count": 4, "a_sum": 9, "a_bucket:2": 2, "a_bucket:4": 4, "a_bucket:+Inf": 4,
        "b_count": 2, "b_sum": 3, "b{quantile=0.5}": 1.5,
    }  # fmt: skip


def test_both_encodings_have_the_same_signals() -> None:
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.add(key="service.name").value.string_value = "agents"
    span = of_resource.scope_spans.add().spans.add(
        trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(SPAN), name="chat", kind=3,
        start_time_unix_nano=START, end_time_unix_nano=END,
    )  # fmt: skip
    span.attributes.add(key="list").value.array_value.values.add().int_value = 1
    value = {"arrayValue": {"values": [{"intValue": 1}]}}
    body = spans(endTimeUnixNano=END, attributes=[{"key": "list", "value": value}])
    body["resourceSpans"][0]["scopeSpans"][0]["scope"] = {}
    signals = OtlpReader("traces", PROTOBUF, SETTINGS).read(request.SerializeToString())
    assert list(signals) == read("traces", body)


@pytest.mark.parametrize(
    ("number", "severity"),
    [(0, Severity.INFO), (1, Severity.DEBUG), (8, Severity.DEBUG), (9, Severity.INFO),
     (16, Severity.WARN), (24, Severity.FATAL), (-1, Severity.INFO), (99, Severity.FATAL)],
)  # fmt: skip
def test_severity_numbers_have_a_severity(number: int, severity: Severity) -> None:
    assert read_severity_number(number) is severity


fields = st.sampled_from(
    ["resourceLogs", "scopeLogs", "logRecords", "resourceSpans", "scopeSpans", "spans", "resource",
     "resourceMetrics", "scopeMetrics", "metrics", "attributes", "key", "value", "kvlistValue",
     "values", "gauge", "dataPoints", "asInt", "asDouble", "name", "traceId", "spanId", "body",
     "timeUnixNano", "severityNumber", "doubleValue", "startTimeUnixNano", "status", "histogram",
     "exponentialHistogram", "summary", "count", "sum", "bucketCounts", "explicitBounds", "scale",
     "positive", "quantileValues"]
)  # fmt: skip
hostile = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([TRACE, SPAN, "NaN", str(2**64), "-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


def wrap(kind: Kind, items: list[Any]) -> dict[str, Any]:
    """Return a request around items, so that most of them are reached."""
    resources, scopes, name = {
        "logs": ("resourceLogs", "scopeLogs", "logRecords"),
        "traces": ("resourceSpans", "scopeSpans", "spans"),
        "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
    }[kind]
    return {resources: [{scopes: [{name: items}]}]}


@given(st.sampled_from(KINDS), st.lists(hostile, max_size=3), st.binary(max_size=60))
def test_hostile_requests_are_stored_or_refused(kind: Kind, items: list[Any], noise: bytes) -> None:
    bodies = [(JSON, json.dumps(wrap(kind, items)).encode()), (JSON, noise), (PROTOBUF, noise)]
    for content_type, body in bodies:
        reader = OtlpReader(kind, content_type, SETTINGS)
        try:
            signals = reader.read(body)
        except RefusedPushError as error:
            assert error.status == 400
            continue
        for signal in signals:
            normalize(signal, "intake/it")
        reader.response()


def test_deep_values_are_refused() -> None:
    request = ExportLogsServiceRequest()
    value = request.resource_logs.add().scope_logs.add().log_records.add().body
    for _ in range(90):
        value = value.array_value.values.add()
    try:
        body = request.SerializeToString()
    except ValueError:
        pytest.skip("this version of the library does not write deep messages")
    with pytest.raises(RefusedPushError):
        OtlpReader("logs", PROTOBUF, SETTINGS).read(body)


def test_metric_points_without_a_number_are_rejected() -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    metric.gauge.data_points.add()
    metric.gauge.data_points.add(as_double=float("inf"))
    metric.gauge.data_points.add(flags=1)
    reader = OtlpReader("metrics", PROTOBUF, SETTINGS)
    assert list(reader.read(request.SerializeToString())) == []
    assert reader.rejected == 2


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        ("metrics", {"histogram": {"dataPoints": [{"count": 10**400}]}}),
        ("metrics", {"exponentialHistogram": {"dataPoints": [{"zeroCount": 10**400}]}}),
        ("traces", {"traceId": "ab", "spanId": "cd", "endTimeUnixNano": 10**400}),
    ],
)
def test_numbers_beyond_64_bits_are_refused(kind: Kind, item: dict[str, Any]) -> None:
    resources, scopes, items = {
        "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
        "traces": ("resourceSpans", "scopeSpans", "spans"),
    }[kind]
    body = json.dumps({resources: [{scopes: [{items: [{"name": "a", **item}]}]}]}).encode()
    with pytest.raises(RefusedPushError, match="more than 64 bits"):
        OtlpReader(kind, JSON, IntakeSettings(kind="otlp")).read(body)
