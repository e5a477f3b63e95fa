"""Turns of agents from spans: while they run, in any order, and what is unusual about them."""

import itertools
from typing import Any

import msgspec
import pytest

from almenara.signals import Event, Resource, Severity
from almenara.testing import ProcessorRun, check_processor, render_panel
from almenara.units import SECOND
from almenara_agents.genai import hide_content
from almenara_agents.processor import AgentsProcessor
from almenara_agents.settings import AgentsSettings, Price

START = 1_767_225_600 * SECOND
TRACE = "a" * 32


def create(**settings: Any) -> AgentsProcessor:
    return AgentsProcessor(AgentsSettings(**settings))


def span(
    name: str, begin: float, end: float | None, parent: str = "", *, error: str = "",
    service: str = "planner", **attributes: Any,
) -> Event:  # fmt: skip
    fields = {"gen_ai." + key.replace("__", "."): value for key, value in attributes.items()}
    data = {"span_id": name, "parent_span_id": parent, "status_message": error,
            "attributes": fields, "resource": {"service.name": service}}  # fmt: skip
    if end is not None:
        data["started"] = START + int(begin * SECOND)
    return Event(
        id=f"{name}/{'start' if end is None else 'end'}", source="otel/planner",
        type="otel.span.started" if end is None else "otel.span", correlation=TRACE,
        time=START + int((begin if end is None else end) * SECOND), data=data,
        severity=Severity.ERROR if error else Severity.INFO,
    )  # fmt: skip


def chat(name: str, begin: float, end: float | None, tokens: int = 100, **more: Any) -> Event:
    return span(
        name, begin, end, "turn", operation__name="chat", request__model="m",
        usage__input_tokens=tokens, usage__output_tokens=10, **more,
    )  # fmt: skip


def tool(name: str, begin: float, end: float | None, **more: Any) -> Event:
    return span(name, begin, end, "turn", operation__name="execute_tool", tool__name="grep", **more)


def agent(begin: float, end: float | None, **more: Any) -> Event:
    return span("turn", begin, end, operation__name="invoke_agent", agent__name="ada", **more)


LOOP = (
    agent(0, None), chat("c1", 1, 2), tool("t1", 2, None), tool("t1", 2, 4), chat("c2", 4, 5),
    agent(0, 6),
)  # fmt: skip


def find(run: ProcessorRun, kind: str) -> list[Resource]:
    resources = {
        (each.kind, each.name): each for each in run.bus.signals if isinstance(each, Resource)
    }
    return [each for (key, _), each in resources.items() if key == kind and not each.deleted]


def test_turn_is_displayed_while_it_runs() -> None:
    run = ProcessorRun(create)
    run.feed(*LOOP[:3])
    (turn,) = find(run, "agents.turn")
    assert (turn.status, turn.state["agent"], turn.state["doing"]) == (
        "running",
        "ada",
        "tool grep",
    )
    assert (turn.state["model_calls"], turn.state["tokens"]) == (1, 110)
    (ada,) = find(run, "agents.agent")
    assert (ada.status, ada.state["step"], ada.state["role"]) == ("working", "tool", "planner")
    run.feed(*LOOP[3:])
    (turn,) = find(run, "agents.turn")
    assert (turn.status, turn.state["duration"], turn.state["tools"]) == (
        "completed",
        6.0,
        ["grep"],
    )
    (ada,) = find(run, "agents.agent")
    assert (ada.status, ada.state["completed"], ada.state["tokens"]) == ("idle", 1, 220)


def test_children_that_ended_show_a_turn_whose_span_was_not_sent_yet() -> None:
    run = ProcessorRun(create)
    run.feed(LOOP[1], LOOP[3])
    (turn,) = find(run, "agents.turn")
    assert (turn.status, turn.state["agent"]) == ("running", "planner")
    run.feed(LOOP[5])
    (turn,) = find(run, "agents.turn")
    assert (turn.status, turn.state["agent"]) == ("completed", "ada")
    assert {each.name: each.status for each in find(run, "agents.agent")} == {
        "ada": "idle", "planner": "idle"
    }  # fmt: skip


def test_order_and_repeats_do_not_change_a_turn() -> None:
    expected = None
    for order in itertools.islice(itertools.permutations(LOOP), 0, None, 97):
        run = ProcessorRun(create)
        run.feed(*order, *order[:2])
        (turn,) = find(run, "agents.turn")
        (usage,) = find(run, "agents.usage")
        result = (turn.state, usage.state)
        expected = expected or result
        assert result == expected


def test_turn_without_an_end_is_lost() -> None:
    run = ProcessorRun(lambda: create(abandon_after=60, default_silence=10))
    run.feed(*LOOP[:3])
    run.advance(30)
    (ada,) = find(run, "agents.agent")
    assert ada.status == "stuck"
    run.advance(60)
    (turn,) = find(run, "agents.turn")
    assert (turn.status, turn.state["reason"]) == ("lost", "no end was reported")


def test_unusual_calls_are_events_of_their_own() -> None:
    run = ProcessorRun(lambda: create(loop_length=3, retry_limit=2, context_minimum=1_000))
    run.feed(agent(0, None))
    for number in range(3):
        run.feed(tool(f"t{number}", number, number + 0.5, tool__call__arguments='{"q": 1}'))
    run.feed(
        chat("c1", 4, 5, 500, response__finish_reasons=["content_filter"]),
        chat("c2", 5, 6, 4_000), chat("c3", 6, 7, error="timeout"),
        chat("c4", 7, 8, error="timeout"), chat("c5", 8, 9, error="timeout"),
    )  # fmt: skip
    assert [event.type for event in run.events] == [
        "agents.agent.looping", "agents.agent.refused", "agents.agent.context_growing",
        "agents.agent.retrying",
    ]  # fmt: skip
    assert all(event.subject == "ada" for event in run.events)


def test_cost_follows_from_the_prices_and_passes_a_budget_once() -> None:
    prices = {"m*": Price(input=2_000, output=5_000)}
    run = ProcessorRun(lambda: create(prices=prices, agent_budget=0.3, story_budget=10))
    run.feed(agent(0, None), *(chat(f"c{n}", n, n + 1) for n in range(3)))
    (usage,) = find(run, "agents.usage")
    assert usage.state["cost"] == 0.75
    assert [event.type for event in run.events] == ["agents.budget.exceeded"]
    assert "0.50 USD, budget 0.30" in msgspec.json.decode(run.events[0].data)["reason"]


def test_turns_are_a_function_of_the_log() -> None:
    check_processor(lambda: create(abandon_after=60, default_silence=10), [*LOOP[:3], 90.0, *LOOP])


def test_finished_traces_are_bounded() -> None:
    run = ProcessorRun(lambda: create(finished_limit=2))
    for number in range(5):
        event = agent(number, number + 0.5)
        run.feed(msgspec.structs.replace(event, id=str(number), correlation=f"trace-{number}"))
    assert [turn.name for turn in find(run, "agents.turn")] == ["trace-3/turn", "trace-4/turn"]


def test_prompts_and_completions_are_hidden() -> None:
    event = chat("c1", 1, 2, input__messages="secret words", tool__call__arguments='{"q": 1}')
    data = msgspec.json.encode(hide_content(event, b"key").data)
    assert b"secret words" not in data
    assert b"hidden: 12 bytes" in data
    assert hide_content(event, b"key") == hide_content(event, b"key")
    assert hide_content(event, b"key") != hide_content(event, b"other")


@pytest.mark.anyio
async def test_turns_have_their_duration_beside_the_usual_one() -> None:
    run = ProcessorRun(create)
    for number in range(6):
        for each in LOOP:
            run.feed(
                msgspec.structs.replace(
                    each, id=f"{number}/{each.id}", correlation=f"{number}" * 32
                )
            )
    html = await render_panel("agents", "turns", list(run.bus.signals), settings={"enabled": True})
    assert html.count("usually 6.0 s") >= 1
