"""What the OpenTelemetry SDK of Python exports, pushed to a running server."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import StatusCode

from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from almenara.signals import parse_time
from almenara.units import MINUTE
from support.application import Almenara
from support.servers import wait_until

START = 1_790_000_000_000_000_000


class Exporters:
    """A running Almenara, and where and how the SDK exports to it."""

    def __init__(self, almenara: Almenara) -> None:
        self.almenara = almenara
        token, value = create_token("sdk", Role.INTAKE, [], 3600, created_by="test", intake="sdk")
        AccessStore(almenara.folder / "var").add_token(token)
        self.headers = {"authorization": f"Bearer {value}"}
        self.resource = Resource.create({"service.name": "agents"})

    def options(self, kind: str) -> dict[str, Any]:
        endpoint = f"{self.almenara.url}/intake/otlp/v1/{kind}"
        return {"endpoint": endpoint, "headers": self.headers, "compression": Compression.Gzip}

    def push(self, kind: str, body: Any) -> httpx.Response:
        url = f"{self.almenara.url}/intake/otlp/v1/{kind}"
        return httpx.post(url, json=body, headers=self.headers, timeout=30)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return self.almenara.events(f"?origin=intake/sdk&type={kind}")

    def sample_sum(self, metric: str) -> float:
        path = f"/api/samples?kind=otel.service&metric={metric}&function=sum"
        series = self.almenara.get(path)["series"]
        return sum(value or 0 for entry in series for _, value in entry["points"])


@pytest.fixture(scope="module")
def exporters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporters]:
    config = {"plugins": {"disabled": ["nats"]}, "intake": {"sdk": {"kind": "otlp"}}}
    with Almenara(tmp_path_factory.mktemp("otlp"), config=config) as almenara:
        yield Exporters(almenara)


def test_spans_of_the_sdk_are_events(exporters: Exporters) -> None:
    provider = TracerProvider(resource=exporters.resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**exporters.options("traces"))))
    tracer = provider.get_tracer("loop")
    with tracer.start_as_current_span("invoke_agent") as agent:
        agent.set_attribute("gen_ai.operation.name", "invoke_agent")
        with tracer.start_as_current_span("execute_tool") as tool:
            tool.add_event("called", {"arguments": ["a", "b"]})
            tool.set_status(StatusCode.ERROR, "it failed")
    provider.shutdown()
    spans = {event["subject"]: event for event in exporters.events("otel.span")}
    assert spans.keys() == {"invoke_agent", "execute_tool"}
    agent_event, tool_event = spans["invoke_agent"], spans["execute_tool"]
    assert agent_event["source"] == "otel/agents"
    assert agent_event["correlation"] == tool_event["correlation"]
    assert (agent_event["severity"], tool_event["severity"]) == ("INFO", "ERROR")
    data = tool_event["data"]
    assert data["parent_span_id"] == agent_event["data"]["span_id"]
    assert data["events"][0]["attributes"] == {"arguments": ["a", "b"]}
    assert data["duration"] >= 0
    assert agent_event["data"]["attributes"] == {"gen_ai.operation.name": "invoke_agent"}


def test_log_records_of_the_sdk_are_events(exporters: Exporters) -> None:
    provider = LoggerProvider(resource=exporters.resource)
    exporter = OTLPLogExporter(**exporters.options("logs"))
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger = provider.get_logger("loop")
    logger.emit(body={"answer": 42}, attributes={"model": "m"})
    provider.shutdown()
    (record,) = exporters.events("otel.log")
    assert (record["data"]["body"], record["data"]["attributes"]) == (
        {"answer": 42},
        {"model": "m"},
    )


def test_metrics_of_the_sdk_are_samples(exporters: Exporters) -> None:
    exporter = OTLPMetricExporter(**exporters.options("metrics"))
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    provider = MeterProvider([reader], resource=exporters.resource)
    meter = provider.get_meter("loop")
    meter.create_counter("tokens", unit="{token}").add(5, {"model": "m"})
    meter.create_histogram("latency").record(0.5)
    assert provider.force_flush()
    provider.shutdown()
    wait_until(lambda: exporters.sample_sum("tokens*") >= 5, "the sample")
    (series,) = exporters.almenara.get("/api/samples?kind=otel.service&metric=tokens*")["series"]
    assert (series["metric"], series["name"]) == ("tokens{model=m}", "agents")
    services = exporters.almenara.get("/api/resources?kind=otel.service")
    assert "agents" in [each["name"] for each in services]
    assert exporters.sample_sum("latency_count") >= 1
    assert exporters.sample_sum("latency_bucket:*") >= 1


def test_quantiles_of_labelled_histograms(exporters: Exporters) -> None:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]}
    started = parse_time(
        httpx.get(f"{exporters.almenara.url}/api/health").json()["started"]
    )  # fmt: skip
    first = started // MINUTE * MINUTE - 10 * MINUTE

    def make_point(number: int, route: str, counts: list[int]) -> dict[str, Any]:
        return {
            "timeUnixNano": str((first + number * MINUTE) * 1_000), "count": str(sum(counts)),
            "bucketCounts": [str(count) for count in counts], "explicitBounds": [0.1, 0.25, 1],
            "attributes": [{"key": "http.route", "value": {"stringValue": route}}],
        }  # fmt: skip

    points = [
        make_point(number, route, [count * number for count in counts])
        for number in range(6)
        for route, counts in (("/x", [50, 40, 10, 0]), ("/y", [0, 0, 100, 0]))
    ]
    metric = {"name": "lat", "unit": "s",
              "histogram": {"dataPoints": points, "aggregationTemporality": 2}}  # fmt: skip
    scope = {"metrics": [metric]}
    body = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [scope]}]}
    assert exporters.push("metrics", body).status_code == 200

    def read_quantiles(route: str) -> list[float]:
        query = {"metric": f"lat{{http.route={route}}}", "function": "p95", "step": "1m"}
        series = exporters.almenara.get(f"/api/samples?{urlencode(query)}")["series"]
        return [value for each in series for _, value in each["points"]]

    wait_until(lambda: len(read_quantiles("/x")) == 5, "the quantiles")
    # 95 of 100 are half of the way through the bucket from 0.25 to 1.
    assert read_quantiles("/x") == pytest.approx([0.625] * 5)
    assert read_quantiles("/y") == pytest.approx([0.25 + 0.75 * 0.95] * 5)
    query = {"metric": "lat{http.route=/x}", "function": "buckets"}
    chart = exporters.almenara.get(f"/api/charts/chart?{urlencode(query)}")
    assert [sum(line["values"]) for line in chart["lines"]] == [250, 200, 50, 0]
    quantile = 'histogram_quantile(0.95, rate({__name__="lat{http.route=/x}_bucket"}[5m]))'
    at = (first + 5 * MINUTE) / 1_000_000
    answer = exporters.almenara.get(
        f"/api/v1/query?{urlencode({'query': quantile, 'time': at})}"
    )  # fmt: skip
    ((_, value),) = [each["value"] for each in answer["data"]["result"]]
    assert float(value) == pytest.approx(0.625)
    page = exporters.almenara.text("/explore?text=lat")
    assert "lat{http.route=/x}_bucket:" in page


def test_repeated_requests_are_stored_once(exporters: Exporters) -> None:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "repeated"}}]}
    span = {"traceId": "1" * 32, "spanId": "2" * 16, "name": "again", "startTimeUnixNano": "1",
            "endTimeUnixNano": "2"}  # fmt: skip
    record = {"timeUnixNano": str(START), "body": {"stringValue": "again"}, "traceId": "3" * 32}
    now = httpx.get(f"{exporters.almenara.url}/api/health").json()["started"]
    point = {"timeUnixNano": str(parse_time(now) * 1_000), "asInt": "1"}
    requests = {
        "traces": {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]},
        "logs": {"resourceLogs": [{"resource": resource,
                                   "scopeLogs": [{"logRecords": [record, record]}]}]},
        "metrics": {"resourceMetrics": [{"resource": resource, "scopeMetrics": [
            {"metrics": [{"name": "again", "gauge": {"dataPoints": [point]}}]}]}]},
    }  # fmt: skip
    for _ in range(3):
        for kind, body in requests.items():
            answer = exporters.push(kind, body)
            assert (answer.status_code, answer.json()) == (200, {}), answer.text
    assert len([each for each in exporters.events("otel.span") if each["subject"] == "again"]) == 1
    assert (
        len([each for each in exporters.events("otel.log") if each["correlation"] == "3" * 32]) == 2
    )
    # Once a sample that was pushed later is visible, repeats of the earlier one would be as well.
    later = json.loads(json.dumps(requests["metrics"]).replace("again", "later"))
    assert exporters.push("metrics", later).status_code == 200
    wait_until(lambda: exporters.sample_sum("later") == 1, "the later sample")
    assert exporters.sample_sum("again") == 1


def test_wrong_requests_are_refused(exporters: Exporters) -> None:
    assert exporters.push("profiles", {}).status_code == 404
    wrong = exporters.push("traces", {"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]})
    assert wrong.status_code == 400
    assert "traceId" in wrong.json()["detail"]
    typed = exporters.push("logs", {"resourceLogs": [{"scopeLogs": 1}]})
    assert "resourceLogs[0].scopeLogs" in typed.json()["detail"]
    url = f"{exporters.almenara.url}/intake/otlp/v1/logs"
    for content_type, status in (("application/x-protobuf", 400), ("text/plain", 415)):
        headers = {**exporters.headers, "content-type": content_type}
        answer = httpx.post(url, content=json.dumps({}).encode(), headers=headers)
        assert answer.status_code == status, answer.text
