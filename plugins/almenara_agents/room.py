"""The council room: one deliberation while it happens, with a lane for each agent."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.hookspecs import DataView, ResourceQuery
from almenara.signals import Resource
from almenara_agents.companions import describe_companions, find_related
from almenara_agents.describe import (
    MAX_COUNCILS,
    compare,
    describe_agent,
    describe_deliberation,
    find_blind,
    find_council,
    has_role,
    name_deliberation,
    seconds_since,
)
from almenara_agents.kinds import (
    AGENT,
    COUNCIL,
    DELIBERATION,
    RUNNING,
    TASK,
    TURN,
)

MAX_LANES: Final = 40
MAX_TURNS: Final = 3
"""Turns of an agent that its lane shows: the last ones."""
MAX_RECENT: Final = 8


async def prepare_room(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """The deliberation of a council, its members in lanes, and what else happens to its story."""
    council = find_council(data, filters.get("council", ""))
    if council is None:
        councils = data.resources(ResourceQuery(kind=COUNCIL, limit=MAX_COUNCILS))
        return {"council": None, "councils": [each.name for each in councils]}
    state = council.state
    name = name_deliberation(council, filters.get("deliberation", ""))
    deliberation = data.resource(DELIBERATION, "", name) if name else None
    talk = None if deliberation is None else describe_deliberation(deliberation)
    story = talk["story"] if talk else ""
    related = await find_related(data, story) if story else []
    companions, others = await describe_companions(data, story, name, related)
    return {
        "blind": find_blind([council, *([deliberation] if deliberation else [])]),
        "council": council.name,
        "status": council.status,
        "severity": council.severity.name,
        "others": [other for other in state.get("active", ()) if other != name],
        "talk": talk,
        "work": describe_work(data.resource(TASK, "", name)) if name else None,
        "lanes": describe_lanes(data, council, talk),
        "companions": companions,
        "related": others,
        "recent": list_recent(data, council.name, name),
    }


def describe_lanes(
    data: DataView, council: Resource, talk: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The lane of each member of a deliberation; of each of the council without one."""
    answers = {each["name"]: each for each in talk["members"]} if talk else {}
    names = list(answers) or list(council.state.get("members", ()))
    turns: dict[str, list[Resource]] = {}
    for turn in data.resources(ResourceQuery(kind=TURN, limit=10_000)):
        turns.setdefault(str(turn.state.get("agent")), []).append(turn)
    lanes = []
    for name in names[:MAX_LANES]:
        agent = data.resource(AGENT, "", name)
        lanes.append(
            {
                "name": name,
                "agent": describe_agent(agent) if agent is not None else None,
                "answer": answers.get(name),
                "turns": describe_turns(turns.get(name, [])),
            }
        )
    return lanes


def describe_turns(turns: list[Resource]) -> list[dict[str, Any]]:
    """The last turns of an agent, the newest first."""
    turns.sort(key=lambda each: each.state.get("started") or 0, reverse=True)
    return [describe_turn(turn) for turn in turns[:MAX_TURNS]]


def describe_turn(turn: Resource) -> dict[str, Any]:
    """The card of a turn."""
    state = turn.state
    return {
        "name": turn.name,
        "status": turn.status,
        "severity": turn.severity.name,
        "started": state.get("started"),
        "time": compare(
            seconds_since(state.get("started"), turn)
            if turn.status == RUNNING
            else state.get("duration"),
            state.get("usual"),
        ),
        "trace": state.get("trace", ""),
        "doing": state.get("doing", ""),
        "model_calls": state.get("model_calls", 0),
        "tool_calls": state.get("tool_calls", 0),
        "tools": state.get("tools", ()),
        "tokens": state.get("tokens", 0),
        "reason": state.get("reason", ""),
        "problem": state.get("problem", ""),
    }


def describe_work(task: Resource | None) -> dict[str, Any] | None:
    """The work that follows a deliberation."""
    if task is None:
        return None
    seconds = task.state.get("duration") or seconds_since(task.state.get("started"), task)
    return {
        "agent": task.state.get("agent", ""),
        "status": task.status,
        "severity": task.severity.name,
        "reason": task.state.get("reason", ""),
        "time": compare(seconds, task.state.get("usual")),
    }


def list_recent(data: DataView, council: str, shown: str) -> list[dict[str, Any]]:
    """The last deliberations of a council besides the one that is displayed."""
    talks = [
        each
        for each in data.resources(ResourceQuery(kind=DELIBERATION, limit=10_000))
        if has_role(each, {"role": council}) and each.name != shown
    ]
    talks.sort(key=lambda each: each.state.get("started") or 0, reverse=True)
    return [describe_deliberation(each) for each in talks[:MAX_RECENT]]
