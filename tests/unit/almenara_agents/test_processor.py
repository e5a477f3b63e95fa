"""What the fleet's events become: right or marked, in whatever order they arrive."""

import itertools
from typing import Any

import msgspec
import pytest

from almenara.signals import Event, Resource
from almenara.testing import ProcessorRun, check_processor, conformance
from almenara.units import SECOND
from almenara_agents.processor import AgentsProcessor
from almenara_agents.settings import AgentsSettings
from almenara_demo.fleet import Fleet
from almenara_nats.mapping import read_messages

START = 1_767_225_600 * SECOND
MEMBERS = ["agent-dev-001", "agent-dev-002", "agent-dev-003"]
TASK = "task-001"

test_conformance = conformance("agents", {"enabled": True})


def create(**settings: Any) -> AgentsProcessor:
    return AgentsProcessor(AgentsSettings(**settings))


def event(kind: str, at: float, *, subject: str = "", number: int = 0, **fields: Any) -> Event:
    return Event(
        id=f"{kind}-{at}-{fields.get('agent_id', '')}-{number}", source="fleet", type=kind,
        subject=subject, time=START + int(at * SECOND), data=fields,
    )  # fmt: skip


def started(at: float = 0, task: str = TASK, role: str = "DEV", **more: Any) -> Event:
    fields = {"story_id": "US-1", "num_agents": 3, "agents": MEMBERS, **more}
    return event("DELIBERATION_STARTED", at, task_id=task, role=role, **fields)


def completed(at: float = 4, winner: str = MEMBERS[1], task: str = TASK, **more: Any) -> Event:
    return event(
        "DELIBERATION_COMPLETED", at, task_id=task, role="DEV", winner_agent_id=winner,
        story_id="US-1", **more,
    )  # fmt: skip


def proposal(at: float, agent: str, text: str = "a queue") -> Event:
    return event(
        "agent.response.completed", at, task_id=TASK, agent_id=agent, status="completed",
        proposal=text, metrics={"tokens_in": 30, "tokens_out": 10},
    )  # fmt: skip


def vote(at: float, agent: str, choice: str) -> Event:
    return event("VOTE_CAST", at, task_id=TASK, agent_id=agent, choice=choice)


def dispatched(at: float = 5, agent: str = MEMBERS[1]) -> Event:
    return event(
        "org.example.orchestration.task.dispatched", at, task_id=TASK, agent_id=agent, role="DEV"
    )


def last(run: ProcessorRun) -> dict[tuple[str, str], Resource]:
    """The resources that exist, by kind and name."""
    resources = {
        (each.kind, each.name): each for each in run.bus.signals if isinstance(each, Resource)
    }
    return {key: each for key, each in resources.items() if not each.deleted}


def find(run: ProcessorRun, kind: str, name: str = TASK) -> Resource:
    return last(run)[f"agents.{kind}", name]


STORY = (
    started(),
    proposal(1, MEMBERS[0]),
    proposal(2, MEMBERS[1]),
    vote(3, MEMBERS[0], MEMBERS[1]),
    vote(3.5, MEMBERS[2], MEMBERS[0]),
    completed(),
    dispatched(),
    event("agent.results.task-001", 9, task_id=TASK, agent_id=MEMBERS[1], status="completed"),
)


def test_deliberation_has_proposals_votes_dissent_and_winner() -> None:
    run = ProcessorRun(create)
    run.feed(*STORY[:3])
    assert [find(run, "agent", name).status for name in MEMBERS] == [
        "waiting", "waiting", "working"
    ]  # fmt: skip
    assert find(run, "council", "DEV").status == "deliberating"
    run.feed(*STORY[3:7])
    deliberation = find(run, "deliberation")
    assert deliberation.status == "completed"
    assert deliberation.state["winner"] == MEMBERS[1]
    assert deliberation.state["dissent"] == [MEMBERS[2]]
    assert deliberation.state["quorum"] == "2/3"
    assert deliberation.state["duration"] == 4.0
    assert find(run, "agent", MEMBERS[1]).state["step"] == "task"
    run.feed(STORY[7])
    assert find(run, "task").status == "completed"
    assert {find(run, "agent", name).status for name in MEMBERS} == {"idle"}


def test_council_names_its_deliberations_the_stuck_ones_last() -> None:
    run = ProcessorRun(lambda: create(default_silence=10))
    run.feed(started(0, "t1"), started(1, "t2"))
    assert find(run, "council", "DEV").state["active"] == ["t2", "t1"]
    run.advance(30)
    run.clock.shift(-25)
    run.feed(started(28, "t3"))
    council = find(run, "council", "DEV")
    assert (council.status, council.state["active"][0]) == ("stuck", "t3")


def test_order_of_arrival_does_not_change_the_result() -> None:
    expected = None
    for order in itertools.islice(itertools.permutations(STORY), 0, None, 2_999):
        run = ProcessorRun(create)
        run.feed(*order, *order[:3])
        result = [find(run, kind).state | {"usual": None} for kind in ("deliberation", "task")]
        expected = expected or result
        assert result == expected
        assert find(run, "deliberation").state["winner"] == MEMBERS[1]
        assert {find(run, "agent", name).status for name in MEMBERS} == {"idle"}


def test_result_with_a_slow_clock_from_another_stream_is_not_a_proposal() -> None:
    run = ProcessorRun(create)
    run.feed(*STORY[:3], proposal(3.99, MEMBERS[1], "done"), *STORY[5:7])
    assert find(run, "task").status == "completed"
    assert find(run, "deliberation").state["proposals"][MEMBERS[1]] == "a queue"


def test_deliberation_that_is_started_again_is_running() -> None:
    run = ProcessorRun(create)
    run.feed(started(), completed(), completed(6), started(20))
    assert find(run, "deliberation").status == "running"
    assert find(run, "agent", MEMBERS[0]).status == "working"
    run.feed(completed(22, MEMBERS[2]))
    assert find(run, "deliberation").state["winner"] == MEMBERS[2]
    assert find(run, "deliberation").state["duration"] == 2.0


def test_a_winner_that_is_not_certain_is_marked() -> None:
    cases = (
        ([started(), completed(winner="agent-x")], "not a member"),
        ([started(), completed(), completed(4.5, MEMBERS[0])], "several winners"),
        ([started(), completed(winner="")], "no winner"),
    )
    for events, problem in cases:
        run = ProcessorRun(create)
        run.feed(*events)
        deliberation = find(run, "deliberation")
        assert deliberation.status == "uncertain"
        assert "winner" not in deliberation.state
        assert problem in deliberation.state["problem"]


def test_missing_start_and_unknown_role_are_marked() -> None:
    run = ProcessorRun(create)
    run.feed(event("DELIBERATION_COMPLETED", 4, task_id="t", winner_agent_id="a", duration_ms=3500))
    deliberation = find(run, "deliberation", "t")
    assert deliberation.state["role"] == "unknown"
    assert deliberation.state["problem"] == "no start was reported"
    assert deliberation.state["duration"] == 3.5
    run.feed(started(task="t", role="POET", agents=["a"]))
    assert find(run, "deliberation", "t").state["role"] == "POET"
    assert ("agents.council", "unknown") not in last(run)


def test_silent_agent_is_stuck_after_twice_the_usual_and_recovers() -> None:
    run = ProcessorRun(lambda: create(min_silence=1))
    now = 0.0
    for number in range(5):
        task = f"task-{number}"
        run.feed(started(now, task), completed(now + 20, task=task))
        now += 30
    run.clock.shift(now)
    run.feed(started(now))
    run.advance(39)
    assert find(run, "agent", MEMBERS[0]).status == "working"
    assert find(run, "agent", MEMBERS[0]).state["usual"] == 20
    run.advance(2)
    assert find(run, "agent", MEMBERS[0]).status == "stuck"
    assert find(run, "deliberation").status == "stuck"
    assert find(run, "council", "DEV").status == "stuck"
    stuck = [each for each in run.events if each.type == "agents.agent.stuck"]
    assert sorted(each.subject for each in stuck) == MEMBERS
    assert b"usually 20 s" in bytes(stuck[0].data)
    run.feed(completed(now + 42))
    assert find(run, "agent", MEMBERS[0]).status == "idle"
    assert [each.type for each in run.events][-1] == "agents.agent.recovered"


def test_deliberation_without_an_end_fails_once() -> None:
    run = ProcessorRun(lambda: create(default_silence=10, abandon_after=60))
    run.feed(started())
    run.advance(120)
    run.advance(120)
    assert find(run, "deliberation").state["reason"] == "no end was reported"
    assert [each.type for each in run.events].count("agents.deliberation.failed") == 1
    assert find(run, "agent", MEMBERS[0]).status == "idle"


def test_deliberation_fails_when_each_member_failed() -> None:
    run = ProcessorRun(create)
    run.feed(started())
    for number, name in enumerate(MEMBERS, 1):
        run.feed(
            event("agent.response.failed", number, task_id=TASK, agent_id=name, error="timeout")
        )
    assert find(run, "deliberation").status == "failed"
    assert find(run, "agent", MEMBERS[0]).status == "failed"
    assert find(run, "agent", MEMBERS[0]).state["reason"] == "timeout"


def test_equal_tool_calls_are_a_loop() -> None:
    run = ProcessorRun(create)
    calls = [
        event("TOOL_CALLED", at, agent_id="a", tool="grep", arguments={"q": "x"}) for at in range(5)
    ]
    run.feed(*calls[:4])
    assert not run.events
    run.feed(calls[4])
    assert [each.type for each in run.events] == ["agents.agent.looping"]


def test_finished_deliberations_and_stories_are_bounded() -> None:
    run = ProcessorRun(lambda: create(finished_limit=3, story_limit=2))
    for number in range(6):
        run.feed(
            event("STORY_CREATED", number, story_id=f"US-{number}", title="t"),
            started(number, f"t{number}"),
            completed(number + 0.5, task=f"t{number}"),
        )
    kinds = [kind for kind, _ in last(run)]
    assert kinds.count("agents.deliberation") == 3
    assert kinds.count("agents.story") == 2


def test_names_without_an_end_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"agents": 5, "councils": 3, "tasks": 10, "usual": 2}
    monkeypatch.setattr("almenara_agents.publication.LIMITS", limits)
    run = ProcessorRun(lambda: create(finished_limit=4))
    for number in range(12):
        names = [f"a-{number}"]
        run.feed(started(number, f"t{number}", f"R{number}", agents=names))
    kinds = [kind for kind, _ in last(run)]
    assert kinds.count("agents.agent") == 5
    assert kinds.count("agents.council") == 3
    assert kinds.count("agents.deliberation") == 10
    run.feed(*(completed(20, "a-1", f"t{number}") for number in range(10)), started(30, "new"))
    assert ("agents.deliberation", "new") in last(run)
    assert not run.failures


def test_configured_mapping_reads_other_field_paths() -> None:
    mapping = {
        "types": ["acme.run.*"], "step": "task_dispatched",
        "fields": {"task": "run.id", "agent": "worker.name", "role": "worker.team"},
    }  # fmt: skip
    run = ProcessorRun(lambda: create(mappings=[to_mapping(mapping)]))
    run.feed(event("acme.run.begin", 0, run={"id": 7}, worker={"name": "w1", "team": "OPS"}))
    assert find(run, "task", "7").state["agent"] == "w1"
    assert find(run, "agent", "w1").state["role"] == "OPS"


def to_mapping(fields: dict[str, Any]) -> Any:
    return msgspec.convert({"mappings": [fields]}, AgentsSettings).mappings[0]


def test_state_is_a_function_of_the_log() -> None:
    check_processor(
        lambda: create(min_silence=1, default_silence=10, abandon_after=60),
        [*STORY[:4], 30.0, *STORY[4:], started(40, "t2"), 120.0],
    )


def test_events_of_the_demo_fleet_leave_nothing_uncertain() -> None:
    run = ProcessorRun(create)
    for sequence, message in enumerate(itertools.islice(Fleet(1).messages(50), 2_500), 1):
        run.clock.shift(message.wait)
        run.feed(
            *read_messages(
                message.subject, {name.lower(): text for name, text in message.headers.items()},
                message.payload, stream="S", sequence=sequence, received=START,
            )
        )  # fmt: skip
    assert not run.failures
    resources = last(run)
    assert {kind for kind, _ in resources} == {
        f"agents.{kind}" for kind in ("agent", "council", "deliberation", "task", "story", "usage")
    }
    ended = [
        resource
        for (kind, _), resource in resources.items()
        if kind == "agents.deliberation" and resource.status != "running"
    ]
    assert {each.status for each in ended} == {"completed"}
    assert all(each.state["winner"] for each in ended)
