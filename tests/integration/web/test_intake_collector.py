"""A real OpenTelemetry collector between the SDK and the intake, also while Almenara is killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
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

from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from support.application import Almenara
from support.collector import Collector, program, why_not
from support.servers import wait_until

pytestmark = pytest.mark.skipif(program() is None, reason=why_not().strip() or "it is not built")

RESOURCE = Resource.create({"service.name": "behind-a-collector"})
SPANS = 1_500


@pytest.fixture
def almenara(tmp_path: Path) -> Iterator[Almenara]:
    config = {"plugins": {"disabled": ["nats"]}, "intake": {"sdk": {"kind": "otlp"}}}
    with Almenara(tmp_path / "almenara", config=config) as running:
        yield running


@pytest.fixture
def collector(almenara: Almenara, tmp_path: Path) -> Iterator[Collector]:
    token, value = create_token("sdk", Role.INTAKE, [], 3600, created_by="test", intake="sdk")
    AccessStore(almenara.folder / "var").add_token(token)
    with Collector(tmp_path / "collector", f"{almenara.url}/intake/otlp", value) as running:
        yield running


def export_spans(collector: Collector) -> None:
    provider = TracerProvider(resource=RESOURCE)
    exporter = OTLPSpanExporter(f"{collector.url}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=SPANS))
    tracer = provider.get_tracer("loop")
    for number in range(SPANS):
        tracer.start_span(f"span-{number}").end()
    provider.shutdown()


def test_every_signal_passes_the_collector(almenara: Almenara, collector: Collector) -> None:
    export_spans(collector)
    logs = LoggerProvider(resource=RESOURCE)
    log_exporter = OTLPLogExporter(f"{collector.url}/v1/logs")
    logs.add_log_record_processor(SimpleLogRecordProcessor(log_exporter))
    logs.get_logger("loop").emit(body="hello")
    logs.shutdown()
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(f"{collector.url}/v1/metrics"), export_interval_millis=3_600_000
    )
    metrics = MeterProvider([reader], resource=RESOURCE)
    metrics.get_meter("loop").create_histogram("latency").record(0.5)
    metrics.shutdown()

    def count(kind: str) -> int:
        return len(almenara.events(f"?origin=intake/sdk&type={kind}"))

    wait_until(lambda: count("otel.span") == SPANS and count("otel.log") == 1, "the signals", 60)
    services = almenara.get("/api/resources?kind=otel.service")
    assert [service["name"] for service in services] == ["behind-a-collector"]


def test_collector_delivers_what_was_pushed_while_almenara_was_killed(
    almenara: Almenara, collector: Collector
) -> None:
    almenara.kill()
    export_spans(collector)
    almenara.launch()
    wait_until(almenara.ready, "almenara", 120)
    wait_until(
        lambda: len(almenara.events("?origin=intake/sdk&type=otel.span")) == SPANS, "spans", 120
    )
    names = {event["subject"] for event in almenara.events("?origin=intake/sdk&type=otel.span")}
    assert len(names) == SPANS
