"""The panels of agents: trouble first, and text of the fleet only as text."""

from functools import partial
from typing import Any

import pytest

from almenara.signals import Event, Resource, Severity, Signal, now
from almenara.testing import ProcessorRun, render_panel
from almenara.units import SECOND
from almenara_agents.processor import AgentsProcessor
from almenara_agents.settings import AgentsSettings

pytestmark = pytest.mark.anyio
render = partial(render_panel, "agents", settings={"enabled": True})

HOSTILE = "<script>alert(1)</script>"


def derive(*events: tuple[str, dict[str, Any]], advance: float = 0) -> list[Signal]:
    run = ProcessorRun(lambda: AgentsProcessor(AgentsSettings(default_silence=10)))
    run.clock.shift((now() - run.clock.now()) / SECOND)
    for number, (kind, data) in enumerate(events):
        time = run.clock.now() - (60 - number) * SECOND
        run.feed(Event(id=str(number), source="fleet", type=kind, time=time, data=data))
    if advance:
        run.advance(advance)
    return list(run.bus.signals)


def deliberation(role: str, task: str) -> tuple[str, dict[str, Any]]:
    agents = [f"{role}-1", f"{role}-2"]
    return "DELIBERATION_STARTED", {"task_id": task, "role": role, "agents": agents}


def completion(task: str, winner: str) -> tuple[str, dict[str, Any]]:
    return "DELIBERATION_COMPLETED", {"task_id": task, "winner_agent_id": winner}


def proposal(task: str, agent: str, text: str) -> tuple[str, dict[str, Any]]:
    return "PROPOSAL_ADDED", {"task_id": task, "agent_id": agent, "proposal": text}


async def test_councils_have_trouble_first_with_proposals_and_dissent() -> None:
    signals = derive(
        deliberation("A", "t1"), proposal("t1", "A-1", HOSTILE),
        ("VOTE_CAST", {"task_id": "t1", "agent_id": "A-2", "choice": "A-2"}),
        completion("t1", "A-1"), deliberation("Z", "t2"), advance=1,
    )  # fmt: skip
    html = await render("councils", signals)
    assert html.index('council=Z"') < html.index('council=A"')
    assert 'data-status="stuck" href="/events?subject=Z-1"' in html
    assert "no answer from Z-1, Z-2" in html
    assert "dissents" in html
    assert "winner" in html
    assert HOSTILE not in html
    assert "&lt;script&gt;" in html


async def test_of_many_councils_those_with_trouble_are_shown() -> None:
    councils = [
        Resource(kind="agents.council", name=f"C{number:03}", status="idle")
        for number in range(205)
    ]
    stuck = Resource(
        kind="agents.council", name="Z", status="stuck", severity=Severity.WARN,
        state={"members": ["Z-1"]},
    )  # fmt: skip
    agent = Resource(kind="agents.agent", name="Z-1", status="stuck", severity=Severity.WARN)
    html = await render("councils", [*councils, stuck, agent])
    assert html.index('council=Z"') < html.index('council=C000"')
    assert "6 more councils are not shown" in html
    assert 'council=C199"' not in html


async def test_agents_are_filtered_by_role_and_status() -> None:
    signals = derive(
        deliberation("A", "t1"), completion("t1", "A-1"), deliberation("Z", "t2"), advance=1
    )
    html = await render("agents", signals)
    assert html.index(">Z-1<") < html.index(">A-1<")
    assert "silent for " in html
    html = await render("agents", signals, query={"status": "idle"})
    assert ">A-1<" in html
    assert ">Z-1<" not in html
    html = await render("agents", signals, query={"role": "z"})
    assert ">A-1<" not in html


async def test_overview_counts_stuck_agents() -> None:
    html = await render("overview", derive(deliberation("Z", "t2"), advance=1))
    assert 'class="warn"' in html
    assert "active agents (of 2)" in html


async def test_deliberations_mark_a_winner_that_is_not_certain() -> None:
    signals = derive(deliberation("A", "t1"), completion("t1", "stranger"))
    html = await render("deliberations", signals)
    assert "uncertain" in html
    assert "the reported winner stranger is not a member" in html


async def test_stories_are_a_board_by_phase() -> None:
    signals = derive(
        *(("STORY_CREATED", {"story_id": f"US-{n}", "title": HOSTILE}) for n in range(10)),
        ("STORY_TRANSITIONED", {"story_id": "US-1", "to_state": "BUILD"}),
    )
    html = await render("stories", signals)
    assert html.index("created") < html.index("BUILD")
    assert "and 1 more" in html
    assert HOSTILE not in html


@pytest.mark.parametrize("panel", ["councils", "agents", "deliberations", "stories", "overview"])
async def test_panels_without_a_fleet_have_a_text(panel: str) -> None:
    assert "reported yet" in await render(panel, [])
