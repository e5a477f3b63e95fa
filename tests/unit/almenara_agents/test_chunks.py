"""Chunks of texts in log records: displayed while they arrive, and one summary at the end."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from almenara.config import IntakeSettings
from almenara.hookspecs import TextStream
from almenara.intake.otlp import OtlpReader
from almenara.signals import Event, Resource
from almenara.testing import render_panel
from almenara.units import SECOND
from almenara_agents.chunks import CHUNK_NAME, read_chunk
from almenara_agents.kinds import COUNCIL, GENERATION_ENDED, GENERATION_PROGRESS, TURN
from almenara_agents.settings import AgentsSettings
from almenara_agents.token_stream import TokenStream, TurnTexts, decode_data

START = 1_767_225_600 * SECOND
TRACE, CHAT, TURN_SPAN = "a" * 32, "b" * 16, "c" * 16
COUNCILS = {
    "DEV": Resource(kind=COUNCIL, name="DEV", state={"members": ["ada"]}),
    "OPS": Resource(kind=COUNCIL, name="OPS", state={"members": ["bob"]}),
}


class Data:
    """A data view of a viewer with a role, from whom origins and councils are hidden."""

    def __init__(self, role: str = "operator", *hidden: str) -> None:
        self.role, self.hidden = role, hidden

    def resource(self, kind: str, namespace: str, name: str) -> Resource | None:
        return COUNCILS.get(name) if kind == COUNCIL and name not in self.hidden else None

    def resources(self, query: Any) -> list[Resource]:
        if query.kind == COUNCIL:
            return [each for name, each in COUNCILS.items() if name not in self.hidden]
        state = {"trace": TRACE, "agent": "ada"}
        return [Resource(kind=TURN, name="turn", status="running", state=state)]

    def permits(self, event: Event) -> bool:
        return event.origin not in self.hidden

    def has_role(self, role: str) -> bool:
        return role in ("viewer", self.role)


def push(kind: Any, request: dict[str, Any]) -> list[Event]:
    """The events of a request, as the intake reads it."""
    reader = OtlpReader(kind, "application/json", IntakeSettings(kind="otlp"))
    events = reader.read(msgspec.json.encode(request))
    return [msgspec.structs.replace(event, origin="intake/sdk") for event in events]


def attributes(fields: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"intValue" if isinstance(value, int) else "stringValue": value}}
            for key, value in fields.items()]  # fmt: skip


def resource(**fields: Any) -> dict[str, Any]:
    return {"attributes": attributes({"service.name": "planner", **fields})}


def chunk(index: int | None, text: str, at: float, span: str = CHAT, **fields: Any) -> Event:
    known = {} if index is None else {"gen_ai.chunk.index": index}
    record = {
        "timeUnixNano": str(int((START + at * SECOND) * 1_000)), "traceId": TRACE, "spanId": span,
        "eventName": "gen_ai.output.chunk", "body": {"stringValue": text},
        "attributes": attributes({**known, **fields}),
    }  # fmt: skip
    (event,) = push("logs", {"resourceLogs": [
        {"resource": resource(), "scopeLogs": [{"logRecords": [record]}]}
    ]})  # fmt: skip
    return event


def span(identity: str, parent: str = "", end: float = 0, **fields: Any) -> Event:
    record = {
        "traceId": TRACE, "spanId": identity, "parentSpanId": parent, "name": "n",
        "startTimeUnixNano": str(START * 1_000),
        "endTimeUnixNano": str(int((START + end * SECOND) * 1_000)) if end else "0",
        "attributes": attributes(fields),
    }  # fmt: skip
    (event,) = push("traces", {"resourceSpans": [
        {"resource": resource(), "scopeSpans": [{"spans": [record]}]}
    ]})  # fmt: skip
    return event


def start_turn(stream: TokenStream) -> None:
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "ada"}
    stream.accept(span(TURN_SPAN, **agent))
    stream.accept(span(CHAT, TURN_SPAN, **{"gen_ai.operation.name": "chat"}))


def end_chat() -> Event:
    return span(CHAT, TURN_SPAN, 9, **{"gen_ai.operation.name": "chat"})


def create(**settings: Any) -> TokenStream:
    return TokenStream(AgentsSettings(texts="operator", **settings))


def read(stream: TokenStream, data: Any = None, council: str = "DEV") -> dict[str, str]:
    filters = {"council": council}
    return {text.key: text.text for text in stream.read(data or Data(), filters)}


def test_chunks_are_displayed_and_only_a_summary_is_stored() -> None:
    stream = create()
    start_turn(stream)
    for index, word in enumerate(("Let ", "us ", "test")):
        assert stream.accept(chunk(index, word, 1 + index)) == []
    assert read(stream) == {"ada": "Let us test"}
    turns = TurnTexts(stream)
    assert isinstance(turns, TextStream)
    (text,) = turns.read(Data(), {})  # type: ignore[arg-type]
    assert (text.key, text.text) == ("turn", "Let us test")
    stored, summary = stream.accept(end_chat())
    assert stored.type == "otel.span"
    assert (summary.type, summary.subject) == (GENERATION_ENDED, "ada")
    assert (summary.correlation, summary.origin) == (TRACE, "intake/sdk")
    assert summary.data["generation"] == {
        "tokens": 3, "time_to_first_token": 1.0, "tokens_per_second": 1.0, "duration": 9.0,
        "complete": True,
    }  # fmt: skip
    assert "test" not in str(summary)
    assert stream.accept(end_chat())[1] == summary


def test_finish_reason_ends_a_text_once() -> None:
    stream = create()
    start_turn(stream)
    stream.accept(chunk(0, "a", 1))
    last = chunk(1, "b", 2, **{"gen_ai.response.finish_reasons": "stop"})
    (summary,) = stream.accept(last)
    assert summary.data["generation"]["finish_reason"] == "stop"
    # What was not stored is published again.
    assert stream.accept(last) == [summary]
    assert [event.type for event in stream.accept(end_chat())] == ["otel.span"]


def test_text_that_is_joined_in_the_middle_is_marked() -> None:
    stream = create()
    stream.accept(chunk(7, "rest", 1, **{"gen_ai.agent.name": "ada"}))
    assert read(stream) == {"ada": "\N{HORIZONTAL ELLIPSIS} rest"}
    _, summary = stream.accept(end_chat())
    assert not summary.data["generation"]["complete"]


def test_long_text_leaves_signs_of_life_only() -> None:
    stream = create()
    start_turn(stream)
    stored = [each for n in range(4_000) for each in stream.accept(chunk(n, "word ", 1 + n / 50))]
    assert {event.type for event in stored} == {GENERATION_PROGRESS}
    assert 4 <= len(stored) <= 6


@pytest.mark.parametrize("store_tokens", [False, True])
def test_chunk_is_stored_without_its_text_unless_content_is(store_tokens: bool) -> None:
    stream = create(store_tokens=store_tokens)
    stored = stream.accept(chunk(0, "a plan", 1, **{"gen_ai.agent.name": "ada"}))
    assert len(stored) == store_tokens
    assert "a plan" not in str(stored)


def test_texts_of_hidden_councils_roles_and_sources_are_not_shown() -> None:
    stream = create()
    start_turn(stream)
    stream.accept(chunk(0, "secret plan", 1))
    other = chunk(0, "other plan", 2, "d" * 16, **{"gen_ai.agent.name": "bob"})
    stream.accept(other)
    assert read(stream, Data("viewer")) == {"ada": "1 tokens"}
    assert read(stream, Data("operator", "intake/sdk")) == {}
    assert read(stream, Data("operator", "DEV")) == {}
    # Without a name, the room shows a council that the viewer may see.
    assert read(stream, Data("operator", "DEV"), "") == {"bob": "other plan"}
    (text,) = stream.read_turns(Data("viewer"))  # type: ignore[arg-type]
    assert "plan" not in text.text
    assert stream.read_turns(Data("operator", "intake/sdk")) == []  # type: ignore[arg-type]


def test_two_spans_of_an_agent_do_not_mix() -> None:
    stream = create()
    for identity, word in ((CHAT, "one"), ("d" * 16, "two")):
        stream.accept(chunk(0, word, 1, identity, **{"gen_ai.agent.name": "ada"}))
    stream.accept(chunk(1, " more", 2, CHAT, **{"gen_ai.agent.name": "ada"}))
    assert read(stream) == {"ada": "one more"}


@pytest.mark.anyio
async def test_running_turn_displays_what_is_written() -> None:
    turn = Resource(
        kind=TURN, name="turn", status="running", origin="agents",
        state={"trace": TRACE, "agent": "ada", "started": START},
    )  # fmt: skip
    hostile = "<script>alert(1)</script>"
    texts = [chunk(0, hostile, 1, **{"gen_ai.agent.name": "ada"})]
    settings = {"enabled": True, "texts": "viewer"}
    html = await render_panel("agents", "turns", [turn, *texts], settings=settings)
    assert "&lt;script&gt;alert(1)" in html
    assert hostile not in html


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(
        st.sampled_from(["content", "delta", "index", "gen_ai.chunk.index", "finish_reason",
                         "gen_ai.agent.name", "gen_ai.response.finish_reasons"]),
        inner, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip


@given(JSON, JSON, JSON, st.sampled_from(["gen_ai.choice.chunk", "llm.token", "gen_ai.x"]))
def test_any_record_is_read_or_left_alone(body: Any, fields: Any, owner: Any, name: Any) -> None:
    event = Event(
        id="1", source="s", type="otel.log", subject=name, time=START, origin="intake/sdk",
        attributes={"traceparent": f"00-{TRACE}-{CHAT}-01"},
        data={"body": body, "attributes": fields, "resource": owner, "event_name": name},
    )  # fmt: skip
    stream = create()
    stored = stream.accept(event)
    is_chunk = read_chunk(decode_data(event)) is not None
    assert is_chunk == (name != "gen_ai.x")
    assert all(each.type != "otel.log" for each in stored) or not is_chunk


@pytest.mark.parametrize(
    ("name", "is_chunk"),
    [
        ("gen_ai.chunk", True),
        ("gen_ai.output.chunk", True),
        ("llm.content.completion_delta", True),
        ("gen_ai.xchunk", False),
        ("gen_ai." + "a_" * 26 + "!", False),
        ("gen_ai." + "a_" * 50_000 + "!", False),
    ],
)
def test_name_of_a_chunk_is_recognized_whatever_its_length(name: str, is_chunk: bool) -> None:
    started = time.process_time()
    assert (CHUNK_NAME.fullmatch(name) is not None) == is_chunk
    assert time.process_time() - started < 1.0
