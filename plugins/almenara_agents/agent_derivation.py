"""Derives agents: what they do, since when, and whether they are stuck or loop."""

from typing import Any, Final

from almenara.signals import Severity
from almenara.units import SECOND
from almenara_agents.agents import GENERATION, AgentRecord
from almenara_agents.kinds import (
    AGENT,
    AGENT_LOOPING,
    AGENT_RECOVERED,
    AGENT_STUCK,
    FAILED,
    STUCK,
    WORKING,
)
from almenara_agents.mapping import UNKNOWN_ROLE, Fact
from almenara_agents.publication import Publication
from almenara_agents.tasks import Assignment

TOKEN_INTERVAL: Final = SECOND
"""Microseconds between two tokens of an agent that count as signs of life."""


def load_agent(publication: Publication, name: str) -> AgentRecord:
    """What is stored about an agent."""
    return publication.state.get(f"agent/{name}", AgentRecord) or AgentRecord()


def derive_activity(publication: Publication, fact: Fact) -> None:
    """Derive from what an agent does besides its tasks: streams of tokens and tool calls."""
    agent = load_agent(publication, fact.agent)
    if fact.step == "token" and fact.time < agent.heard + TOKEN_INTERVAL:
        return
    agent.hear(fact)
    if fact.step == "generation_started" and fact.time > agent.generation_ended:
        agent.assign(GENERATION, Assignment(GENERATION, WORKING, fact.time, fact.story))
    elif fact.step == "generation_completed":
        running = agent.assignments.get(GENERATION)
        if fact.time > agent.generation_ended:
            agent.streamed += fact.tokens_out
            agent.generation_ended = fact.time
        if running is not None and running.since <= fact.time:
            agent.assign(GENERATION, None)
            seconds = (fact.time - running.since) / SECOND
            publication.learn(agent.role or UNKNOWN_ROLE, GENERATION, seconds)
    elif fact.step == "tool_called":
        calls, limit = agent.count_call(fact.call), publication.settings.loop_length
        if calls >= limit and calls % limit == 0:
            tool = fact.call.rpartition("#")[0]
            publication.event(
                AGENT_LOOPING, fact.agent, Severity.WARN, agent.story,
                {"tool": tool, "calls": calls, "reason": f"{calls} equal calls of {tool} in a row"},
            )  # fmt: skip
    store_agent(publication, fact.agent, agent)


def find_silent(publication: Publication, agent: AgentRecord) -> dict[str, int]:
    """When each assignment of an agent has been silent for too long, by its key."""
    due = {}
    for key, assignment in agent.assignments.items():
        if assignment.state == WORKING:
            limit = publication.silence_limit(agent.role or UNKNOWN_ROLE, assignment.step)
            sign = assignment.silent_since
            if not assignment.stuck:
                sign = publication.last_sign(agent.origin, sign)
            due[key] = sign + int(limit * SECOND)
    return due


def store_agent(publication: Publication, name: str, agent: AgentRecord) -> None:
    """Store and publish an agent, with the timer of its silence."""
    step = publication.step
    if publication.state.get(f"agent/{name}", AgentRecord) is None and not publication.admit(
        "agents"
    ):
        return
    agent.origin = publication.origin or agent.origin
    due = find_silent(publication, agent)
    for key, assignment in agent.assignments.items():
        if assignment.stuck and due.get(key, step.time + 1) > step.time:
            assignment.stuck = False
    was_stuck = agent.status == STUCK
    agent.update_status(step.time)
    if was_stuck and agent.status != STUCK:
        publication.event(
            AGENT_RECOVERED, name, Severity.INFO, agent.story, {"status": agent.status}
        )
    forgotten = find_forgotten(publication, agent)
    pending = [at for key, at in due.items() if not agent.assignments[key].stuck]
    step.set_timer(f"agent/{name}", max(min([*pending, forgotten]), step.time))
    publication.state.set(f"agent/{name}", agent)
    publish_agent(publication, name, agent)


def find_forgotten(publication: Publication, agent: AgentRecord) -> int:
    """When an agent that nothing is heard of is deleted."""
    sign = publication.last_sign(agent.origin, agent.heard)
    return sign + int(publication.settings.agent_retention * SECOND)


def check_silence(publication: Publication, name: str) -> bool:
    """Mark an agent that has been silent for too long; whether it still exists."""
    agent = load_agent(publication, name)
    moment = publication.step.time
    for key, at in find_silent(publication, agent).items():
        assignment = agent.assignments[key]
        if at > moment or assignment.stuck:
            continue
        assignment.stuck = True
        report_stuck(publication, name, agent, key, assignment)
    if moment >= find_forgotten(publication, agent):
        publication.state.delete(f"agent/{name}")
        publication.release("agents")
        publication.delete(AGENT, name)
        return False
    store_agent(publication, name, agent)
    return True


def report_stuck(
    publication: Publication, name: str, agent: AgentRecord, key: str, assignment: Assignment
) -> None:
    """Publish the event of an agent that is stuck."""
    silent = (publication.step.time - assignment.silent_since) / SECOND
    usual = publication.usual(agent.role or UNKNOWN_ROLE, assignment.step)
    known = f"usually {usual:g} s" if usual is not None else "no usual duration known yet"
    publication.event(
        AGENT_STUCK, name, Severity.WARN, assignment.story or agent.story,
        {
            "role": agent.role or UNKNOWN_ROLE, "step": assignment.step, "usual": usual,
            "task": "" if is_activity(key) else key, "silent": silent,
            "reason": f"silent for {silent:.0f} s in step {assignment.step}, {known}",
        },
    )  # fmt: skip


def is_activity(key: str) -> bool:
    """Whether an assignment is a text or a turn, and so no task."""
    return key == GENERATION or key.startswith("turn/")


def publish_agent(publication: Publication, name: str, agent: AgentRecord) -> None:
    """Publish the resource of an agent."""
    role = agent.role or UNKNOWN_ROLE
    state: dict[str, Any] = {
        "role": role, "council": role, "model": agent.model, "since": agent.since,
        "completed": agent.completed, "failed": agent.failed,
        "tokens": agent.tokens_in + agent.tokens_out, "tokens_in": agent.tokens_in,
        "tokens_out": agent.tokens_out, "streamed": agent.streamed,
        "cost": round(agent.cost, 6) or None,
    }  # fmt: skip
    if agent.status == FAILED:
        state["reason"] = agent.failure
    if (current := agent.current()) is not None:
        key, assignment = current
        state |= {
            "task": "" if is_activity(key) else key, "step": assignment.step,
            "story": assignment.story, "step_since": assignment.since,
            "tasks": len(agent.assignments),
        }  # fmt: skip
        if assignment.state == WORKING:
            state["usual"] = publication.usual(role, assignment.step)
        if assignment.stuck:
            state["silent_since"] = assignment.silent_since
            state["reason"] = f"silent in step {assignment.step} for too long"
    publication.resource(AGENT, name, agent.status, state, origin=agent.origin)
