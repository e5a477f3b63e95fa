"""An agent written with the OpenTelemetry SDK: its turns are displayed while they run."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import StatusCode, Tracer

from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from support.application import Almenara
from support.servers import wait_until

PROMPT = "the-words-of-the-prompt"


class StartedSpans(SpanProcessor):
    """Exports spans when they start, as the document of the plugin shows it."""

    def __init__(self, processor: SpanProcessor) -> None:
        self.processor = processor

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if "gen_ai.operation.name" in (span.attributes or {}):
            self.processor.on_end(span)


def run_loop(tracer: Tracer, pause: threading.Event, reached: threading.Event) -> None:
    """A turn of an agent: the model asks for a tool, the tool waits, and the model answers."""
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "ada"}
    model = {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "fake",
        "gen_ai.input.messages": PROMPT,
    }  # fmt: skip
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}
    with tracer.start_as_current_span("invoke_agent ada", attributes=agent) as turn:
        for number in range(2):
            with tracer.start_as_current_span("chat fake", attributes=model) as chat:
                chat.set_attribute("gen_ai.usage.input_tokens", 100 * (number + 1))
                chat.set_attribute("gen_ai.usage.output_tokens", 10)
            with tracer.start_as_current_span("execute_tool search", attributes=tool) as call:
                if number == 1:
                    reached.set()
                    assert pause.wait(60)
                    call.set_status(StatusCode.ERROR, "not found")
        turn.set_status(StatusCode.OK)


@pytest.fixture(scope="module")
def almenara(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    config = {
        "plugins": {"disabled": ["nats"], "agents": {"enabled": True, "texts": "viewer"}},
        "intake": {"sdk": {"kind": "otlp"}},
    }
    with Almenara(tmp_path_factory.mktemp("agents"), config=config) as running:
        yield running


@pytest.fixture(scope="module")
def headers(almenara: Almenara) -> dict[str, str]:
    token, value = create_token("sdk", Role.INTAKE, [], 3600, created_by="test", intake="sdk")
    AccessStore(almenara.folder / "var").add_token(token)
    return {"authorization": f"Bearer {value}"}


@pytest.fixture(scope="module")
def provider(almenara: Almenara, headers: dict[str, str]) -> Iterator[TracerProvider]:
    exporter = OTLPSpanExporter(f"{almenara.url}/intake/otlp/v1/traces", headers=headers)
    provider = TracerProvider(resource=Resource.create({"service.name": "planner"}))
    provider.add_span_processor(StartedSpans(SimpleSpanProcessor(exporter)))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


def find(almenara: Almenara, kind: str) -> list[dict[str, Any]]:
    return list(almenara.get(f"/api/resources?kind=agents.{kind}"))


def test_turn_is_displayed_while_it_runs_and_ends(
    almenara: Almenara, provider: TracerProvider
) -> None:
    pause, reached = threading.Event(), threading.Event()
    loop = threading.Thread(target=run_loop, args=(provider.get_tracer("loop"), pause, reached))
    loop.start()
    try:
        assert reached.wait(60)
        wait_until(
            lambda: (
                [(turn["status"], turn["state"].get("doing")) for turn in find(almenara, "turn")]
                == [("running", "tool search")]
            ),
            "the running turn",
        )
        (turn,) = find(almenara, "turn")
        assert (turn["state"]["agent"], turn["state"]["model_calls"]) == ("ada", 2)
        (agent,) = find(almenara, "agent")
        assert (agent["status"], agent["state"]["step"]) == ("working", "tool")
        page = almenara.text("/dashboards/agents")
        assert "tool search" in page
    finally:
        pause.set()
        loop.join()
    wait_until(lambda: find(almenara, "turn")[0]["status"] == "completed", "the end of the turn")
    (turn,) = find(almenara, "turn")
    assert turn["state"]["tools"] == ["search", "search"]
    assert turn["state"]["tokens"] == 320
    assert find(almenara, "agent")[0]["status"] == "idle"


def test_chunks_are_displayed_while_written_and_leave_one_event(
    almenara: Almenara, provider: TracerProvider, headers: dict[str, str]
) -> None:
    exporter = OTLPLogExporter(f"{almenara.url}/intake/otlp/v1/logs", headers=headers)
    logs = LoggerProvider(resource=Resource.create({"service.name": "planner"}))
    logs.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger, tracer = logs.get_logger("loop"), provider.get_tracer("loop")
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "grace"}
    with (
        tracer.start_as_current_span("invoke_agent grace", attributes=agent),
        tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}),
    ):
        for index, word in enumerate(("written ", "word ", "by ", "word")):
            logger.emit(
                LogRecord(
                    timestamp=time.time_ns(), event_name="gen_ai.output.chunk", body=word,
                    attributes={"gen_ai.chunk.index": index},
                )
            )  # fmt: skip
        wait_until(
            lambda: "written word by word" in almenara.text("/dashboards/agents"), "the text"
        )
    logs.shutdown()
    ended = "?type=agents.generation.ended"
    wait_until(lambda: almenara.events(ended), "the summary")
    (summary,) = almenara.events(ended)
    assert (summary["subject"], summary["data"]["generation"]["tokens"]) == ("grace", 4)
    events = almenara.text("/api/events.ndjson?origin=intake/sdk")
    assert "gen_ai.output.chunk" not in events
    assert "written" not in events


def test_prompts_are_not_stored(almenara: Almenara, provider: TracerProvider) -> None:
    events = almenara.text("/api/events.ndjson?origin=intake/sdk")
    assert "gen_ai.input.messages" in events
    assert PROMPT not in events
