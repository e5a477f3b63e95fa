"""Facts of events: the three generations of payloads, and whatever else is in them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from almenara.signals import Event
from almenara.testing import ProcessorRun
from almenara_agents.commands import describe_lines
from almenara_agents.genai import read_span
from almenara_agents.mapping import MAX_MEMBERS, VOCABULARY, Fact, Mapper, Unusable
from almenara_agents.processor import AgentsProcessor
from almenara_agents.settings import AgentsSettings

MAPPER = Mapper([])
TYPES = [name.replace("*", "org").replace(">", "t") for rule in VOCABULARY for name in rule.types]
FIELDS = [
    "task_id", "story_id", "agent_id", "role", "agents", "num_agents", "winner_agent_id", "choice",
    "error", "duration_ms", "metrics", "status", "to_state", "payload", "tool", "arguments",
    "constraints",
]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=8) | st.sampled_from(["t", "a", "DEV", "\x00\x1b", "x" * 1_000]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip


def make_event(kind: str, data: Any, subject: str = "") -> Event:
    return Event(id="1", source="s", type=kind, subject=subject, time=1, data=data)


def read(kind: str, data: Any, subject: str = "") -> Fact:
    fact = MAPPER.read(make_event(kind, data, subject), 1, 1)
    assert isinstance(fact, Fact)
    return fact


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("DELIBERATION_STARTED", {"task_id": "t", "role": "DEV"}),
        ("DELIBERATION_STARTED", {"payload": {"task_id": "t", "role": "DEV"}, "metadata": {}}),
        ("org.example.orchestration.deliberation.started", {"task_id": "t", "role": "DEV"}),
        ("orchestration.deliberation.started", {"task_id": "t", "role": "DEV"}),
    ],
)
def test_each_generation_reports_the_same(kind: str, data: dict[str, Any]) -> None:
    fact = read(kind, data)
    assert (fact.step, fact.task, fact.role) == ("deliberation_started", "t", "DEV")


def test_subject_has_what_the_payload_does_not() -> None:
    assert read("agent.results.task-7", {}, "agent.results.task-7").task == "task-7"
    assert read("agent.results.*", {}, "agent.results.task-7").task == "task-7"
    assert read("vllm_token", {"token": "x"}, "vllm.streaming.a-1").agent == "a-1"
    assert read(
        "agent.results.t", {"status": "failed", "agent_id": "a"}, "agent.results.t"
    ).step == ("response_failed")


def test_event_without_its_task_is_not_used() -> None:
    fact = MAPPER.read(make_event("TASK_DISPATCHED", {"agent_id": "a"}), 1, 1)
    assert fact == Unusable("task missing")
    assert isinstance(MAPPER.read(make_event("other", {}), 1, 1), Unusable)


def test_lists_and_texts_are_bounded() -> None:
    fact = read("DELIBERATION_STARTED", {"task_id": "t" * 900, "agents": [*range(5_000)]})
    assert len(fact.members) == MAX_MEMBERS
    assert len(fact.task) == 200


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(TYPES), VALUES, st.integers(0, 10**7)), max_size=8))
def test_any_payload_is_read(events: list[tuple[str, Any, int]]) -> None:
    run = ProcessorRun(lambda: AgentsProcessor(AgentsSettings()))
    for number, (kind, data, time) in enumerate(events):
        event = make_event(kind, data, "agent.results.t")
        run.feed(msgspec.structs.replace(event, id=str(number), time=time))
    run.advance(100_000)
    assert not run.failures


def test_command_prints_facts_and_resources() -> None:
    lines = [
        b'{"event_type":"STORY_CREATED","story_id":"US-1","timestamp":"2025-10-17T10:00:00Z"}',
        b"nonsense",
        b'{"event_type":"TASK_DISPATCHED"}',
        b'{"subject":"agent.results.task-7","agent_id":"a"}',
    ]
    output = [*describe_lines(lines, AgentsSettings())]
    assert output[0] == "1: STORY_CREATED: story_created story=US-1"
    assert output[1].startswith("2: not read: ")
    assert output[2] == "3: TASK_DISPATCHED: ignored, task missing"
    assert output[3].startswith("4: agent.results.*: response task=task-7")
    assert any(line.startswith("agents.story US-1: created") for line in output)


@pytest.mark.parametrize("number", [10**400, -(10**400), float("inf"), float("nan"), 2**53])
def test_number_of_any_size_is_read(number: float) -> None:
    data = {"agent_id": "a", "total_tokens": number, "duration_ms": number, "task_id": "t"}
    fact = read("AGENT_RESPONSE_COMPLETED", {**data, "metrics": {"tokens": number}})
    assert (fact.agent, fact.duration) == ("a", None)
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": number}
    span = read_span(make_event("otel.span", {"span_id": "1", "attributes": attributes}), 1)
    assert span is not None
    assert span.tokens_in == 0
