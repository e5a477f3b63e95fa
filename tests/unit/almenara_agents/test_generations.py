"""The four events that a real fleet publishes for a story, in each generation of its payloads."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from almenara.signals import Event, Resource, parse_time
from almenara.testing import ProcessorRun
from almenara_agents.processor import AgentsProcessor
from almenara_agents.settings import AgentsSettings
from almenara_nats.mapping import read_messages

MEMBERS = ["agent-dev-001", "agent-dev-002", "agent-dev-003"]
FLEET: tuple[tuple[str, dict[str, Any]], ...] = (
    ("planning.story.created", {
        "event_type": "STORY_CREATED", "story_id": "US-101", "title": "Add login button",
        "description": "…", "created_by": "po@example.org", "priority": "HIGH",
        "timestamp": "2025-10-17T10:00:00Z"}),
    ("orchestration.deliberation.started", {
        "event_type": "DELIBERATION_STARTED", "story_id": "US-101", "task_id": "task-001",
        "role": "DEV", "num_agents": 3, "agents": MEMBERS, "timestamp": "2025-10-17T10:00:05Z"}),
    ("context.updated", {
        "event_type": "CONTEXT_UPDATED", "story_id": "US-101", "version": 2,
        "changes": ["decisions", "subtasks"], "affected_roles": ["DEV", "QA"],
        "timestamp": "2025-10-17T10:00:07Z"}),
    ("orchestration.deliberation.completed", {
        "event_type": "DELIBERATION_COMPLETED", "story_id": "US-101", "task_id": "task-001",
        "role": "DEV", "winner_agent_id": "agent-dev-002", "duration_ms": 3500,
        "decisions": [{"id": "dec-001", "type": "TECHNICAL_CHOICE", "rationale": "…",
                       "decided_by": "agent-dev-002"}],
        "timestamp": "2025-10-17T10:00:09Z"}),
)  # fmt: skip
GENERATIONS = ("bare", "enveloped", "structured", "binary")


def publish(generation: str, subject: str, fields: dict[str, Any]) -> tuple[dict[str, str], Any]:
    """The headers and the body of a message."""
    data = {
        name: value for name, value in fields.items() if name not in ("event_type", "timestamp")
    }
    attributes = {"specversion": "1.0", "id": subject, "source": "/orchestrator",
                  "type": f"org.example.{subject}", "time": fields["timestamp"]}  # fmt: skip
    match generation:
        case "bare":
            return {}, fields
        case "enveloped":
            return {}, {
                "event_type": fields["event_type"], "payload": data, "idempotency_key": subject,
                "correlation_id": "US-101", "timestamp": fields["timestamp"],
                "producer": "orchestrator", "metadata": {},
            }  # fmt: skip
        case "structured":
            return {"content-type": "application/cloudevents+json"}, {**attributes, "data": data}
    headers = {f"ce-{name}": text for name, text in attributes.items()}
    return {**headers, "content-type": "application/json"}, data


def read_events(generation: str) -> list[Event]:
    events = []
    for sequence, (subject, fields) in enumerate(FLEET, 1):
        headers, body = publish(generation, subject, fields)
        received = parse_time(fields["timestamp"])
        events += read_messages(
            subject, headers, msgspec.json.encode(body), stream="S", sequence=sequence,
            received=received,
        )  # fmt: skip
    return events


def derive(events: Sequence[Event]) -> dict[tuple[str, str], tuple[str, dict[str, Any]]]:
    """The status and the state of each resource."""
    run = ProcessorRun(lambda: AgentsProcessor(AgentsSettings()))
    run.feed(*events)
    assert not run.failures
    return {
        (each.kind, each.name): (each.status, dict(each.state))
        for each in run.bus.signals
        if isinstance(each, Resource)
    }


@pytest.mark.parametrize("generation", GENERATIONS)
def test_events_of_each_generation_have_the_same_result(generation: str) -> None:
    resources = derive(read_events(generation))
    status, state = resources["agents.deliberation", "task-001"]
    assert (status, state["winner"], state["duration"]) == ("completed", "agent-dev-002", 4.0)
    assert state["decisions"] == [["TECHNICAL_CHOICE", "…"]]
    assert "problem" not in state
    status, story = resources["agents.story", "US-101"]
    assert (status, story["title"]) == ("created", "Add login button")
    assert resources["agents.council", "DEV"][1]["members"] == MEMBERS
    assert {resources["agents.agent", name][0] for name in MEMBERS} == {"idle"}
    assert resources == derive(read_events("bare"))


def test_events_missing_late_or_repeated_never_have_a_wrong_winner() -> None:
    events = [read_events(generation)[place] for place, generation in enumerate(GENERATIONS)]
    for count in range(1, 5):
        for order in itertools.permutations(events, count):
            resources = derive([*order, *order[:2]])
            status, state = resources.get(("agents.deliberation", "task-001"), ("", {}))
            if events[3] in order:
                assert (status, state["winner"]) == ("completed", "agent-dev-002")
                assert (state.get("problem") == "no start was reported") is (events[1] not in order)
            elif events[1] in order:
                assert (status, state.get("winner")) == ("running", None)
            else:
                assert not status


def test_unknown_role_is_a_council_of_its_own() -> None:
    events = [read_events("bare")[place] for place in (1, 3)]
    changed = [
        msgspec.structs.replace(each, data={**msgspec.json.decode(each.data), "role": "POET"})
        for each in events
    ]
    resources = derive(changed)
    assert resources["agents.deliberation", "task-001"][1]["winner"] == "agent-dev-002"
    assert resources["agents.council", "POET"][1]["members"] == MEMBERS
