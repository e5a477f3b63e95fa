"""What was derived from events that cannot be read any more is unknown, and no one gets stuck."""

from functools import partial
from typing import Any

import msgspec
import pytest

from almenara.signals import Event, Resource, Signal, now
from almenara.testing import ProcessorRun, check_processor, render_panel
from almenara.units import SECOND
from almenara_agents.processor import AgentsProcessor
from almenara_agents.settings import AgentsSettings

pytestmark = pytest.mark.anyio
SETTINGS = AgentsSettings(default_silence=20, min_silence=5, agent_retention=600)
ORIGIN = "nats/WORK"
PANELS = ("agents", "councils", "deliberations", "stories", "cost", "room")
render = partial(render_panel, "agents", settings={"enabled": True})


def publish(run: ProcessorRun, kind: str, origin: str = ORIGIN, **fields: Any) -> None:
    identity = str(len(run.bus.signals))
    run.feed(
        Event(id=f"{kind}/{identity}", source="s", type=kind, time=run.clock.now(), data=fields,
              origin=origin)
    )  # fmt: skip


def observe(run: ProcessorRun, status: str, origin: str = "nats", **state: Any) -> None:
    run.feed(
        Resource(kind="nats.stream", name="WORK", status=status, origin=origin, state=state,
                 time=run.clock.now())
    )  # fmt: skip


def start() -> ProcessorRun:
    """A council at work, an agent of another origin, and a deliberation that has ended."""
    run = ProcessorRun(lambda: AgentsProcessor(SETTINGS))
    run.clock.shift((now() - run.clock.now()) / SECOND)
    publish(run, "STORY_CREATED", story_id="S", title="A story")
    publish(run, "DELIBERATION_STARTED", task_id="old", role="QA", agents=["eve"])
    publish(run, "DELIBERATION_COMPLETED", task_id="old", winner_agent_id="eve")
    publish(run, "DELIBERATION_STARTED", task_id="t", role="DEV", story_id="S", agents=["ada"])
    publish(run, "agent.response.completed", task_id="t", agent_id="ada", status="completed",
            proposal="a queue", model="m", metrics={"tokens_in": 3, "tokens_out": 1})  # fmt: skip
    publish(run, "DELIBERATION_STARTED", "intake/x", task_id="u", role="OPS", agents=["bob"])
    return run


def last(run: ProcessorRun) -> dict[str, Resource]:
    return {
        f"{each.kind.removeprefix('agents.')} {each.name}": each
        for each in run.bus.signals
        if isinstance(each, Resource) and each.kind.startswith("agents.")
    }


def statuses(run: ProcessorRun) -> dict[str, str]:
    return {name: each.status for name, each in last(run).items()}


def blind(run: ProcessorRun, seconds: float = 6) -> None:
    observe(run, "unknown", stale_since=run.clock.now() - SECOND)
    run.advance(seconds)


def test_everything_derived_from_an_unread_stream_is_unknown_until_it_is_read() -> None:
    run = start()
    before = statuses(run)
    since = run.clock.now() - SECOND
    blind(run)
    after = last(run)
    assert {name for name, each in after.items() if each.status == "unknown"} == {
        "agent ada", "agent eve", "council DEV", "council QA", "deliberation t", "story S",
        "usage DEV/m",
    }  # fmt: skip
    assert after["agent ada"].state["stale_since"] == since
    assert after["agent ada"].state["reason"] == f"{ORIGIN} is not read"
    assert after["deliberation old"].status == before["deliberation old"] == "completed"
    assert after["agent bob"].status == "working"
    observe(run, "ok")
    assert statuses(run) == before
    assert "stale_since" not in last(run)["agent ada"].state


def test_reconnection_within_seconds_changes_nothing() -> None:
    run = start()
    published = len([each for each in run.bus.signals if isinstance(each, Resource)])
    blind(run, 3)
    observe(run, "ok")
    run.advance(10)
    derived = [each for each in run.bus.signals if isinstance(each, Resource)]
    assert len([each for each in derived if each.kind.startswith("agents.")]) == published


def test_unobserved_agent_is_neither_stuck_nor_deleted() -> None:
    run = start()
    blind(run, 300)
    assert statuses(run)["agent ada"] == "unknown"
    assert statuses(run)["agent bob"] == "stuck"
    run.advance(700)
    assert last(run)["agent bob"].deleted
    assert not last(run)["agent ada"].deleted
    observe(run, "ok")
    run.advance(10)
    assert statuses(run)["deliberation t"] == "running"
    run.advance(15)
    assert statuses(run)["deliberation t"] == "stuck"


def test_stuck_agent_stays_stuck_and_does_not_recover_while_unobserved() -> None:
    run = start()
    run.advance(30)
    assert statuses(run)["deliberation t"] == "stuck"
    blind(run)
    deliberation = last(run)["deliberation t"]
    assert deliberation.status == "stuck"
    assert "is not read" in deliberation.state["reason"]
    observe(run, "ok")
    assert statuses(run)["deliberation t"] == "stuck"
    assert not [
        each
        for each in run.bus.signals
        if isinstance(each, Event) and each.type == "agents.agent.recovered"
    ]


def test_only_the_source_of_nats_can_make_agents_unknown() -> None:
    run = start()
    before = statuses(run)
    observe(run, "unknown", origin="intake/x")
    run.advance(10)
    assert statuses(run) == before


def test_derivation_over_an_unread_stream_is_a_function_of_the_log() -> None:
    run = start()
    log: list[Signal | float] = [
        each for each in run.bus.signals if isinstance(each, Event) and each.source == "s"
    ]
    stream = Resource(kind="nats.stream", name="WORK", origin="nats", time=run.clock.now())
    for status in ("unknown", "offline", "ok", "unknown"):
        log += [msgspec.structs.replace(stream, status=status), 6.0]
    check_processor(lambda: AgentsProcessor(SETTINGS), log)


@pytest.mark.parametrize("panel", PANELS)
async def test_panels_name_what_is_not_observed(panel: str) -> None:
    run = start()
    query = {"council": "DEV"} if panel == "room" else {}
    signals: list[Signal] = list(run.bus.signals)
    assert "Not observed since" not in await render(panel, signals, query=query)
    blind(run)
    html = await render(panel, list(run.bus.signals), query=query)
    assert "Not observed since" in html
    assert ORIGIN in html
