"""Derives turns from spans, and through them what agents do."""

from typing import Final

from almenara.signals import Severity
from almenara.units import SECOND
from almenara_agents.agent_derivation import load_agent, store_agent
from almenara_agents.genai import SpanFact
from almenara_agents.kinds import (
    AGENT_CONTEXT_GROWING,
    AGENT_LOOPING,
    AGENT_REFUSED,
    AGENT_RETRYING,
    COMPLETED,
    FAILED,
    RUNNING,
    TURN,
    WORKING,
)
from almenara_agents.mapping import UNKNOWN_ROLE
from almenara_agents.publication import Publication
from almenara_agents.story_derivation import add_tokens
from almenara_agents.tasks import Assignment
from almenara_agents.turns import TraceRecord, Turn, examine
from almenara_agents.usage import add_usage

SHOWN_TRACE: Final = 16
"""Characters of a trace id in the name of a turn."""


def derive_turn(publication: Publication, trace: str, fact: SpanFact) -> None:
    """Derive from an event about a span."""
    record = publication.state.get(f"trace/{trace}", TraceRecord)
    if record is None and (fact.operation == "other" or not publication.admit("traces")):
        return
    record = record or TraceRecord()
    if not record.add(fact):
        publication.state.set(f"trace/{trace}", record)
        return
    turns = examine(record)
    count_call(publication, trace, record, turns, fact)
    update(publication, trace, record, turns)


def update(publication: Publication, trace: str, record: TraceRecord, turns: list[Turn]) -> None:
    """Store a trace, and publish its turns and agents."""
    before, record.agents = record.agents, {turn.id: turn.agent for turn in turns}
    for key, agent in before.items():
        if record.agents.get(key) != agent:
            end_turn(publication, trace, key, agent)
    for key in before.keys() - record.agents.keys():
        publication.delete(TURN, name_turn(trace, key))
    for turn in turns:
        role = update_agent(publication, trace, record, turn)
        publish_turn(publication, trace, turn, role)
    if turns and all(turn.status != RUNNING for turn in turns):
        publication.step.cancel_timer(f"trace/{trace}")
        if not record.closed:
            record.closed = True
            publication.state.set(f"trace/{trace}", record)
            publication.close_trace(trace, [name_turn(trace, turn.id) for turn in turns])
            return
    else:
        at = record.heard + int(publication.settings.abandon_after * SECOND)
        publication.step.set_timer(f"trace/{trace}", max(at, publication.step.time))
    publication.state.set(f"trace/{trace}", record)


def check_trace(publication: Publication, trace: str) -> None:
    """Mark the turns of a trace that was silent for too long as lost."""
    record = publication.state.get(f"trace/{trace}", TraceRecord)
    if record is not None:
        record.abandoned = True
        update(publication, trace, record, examine(record))


def name_turn(trace: str, span: str) -> str:
    """The name of a turn."""
    return f"{trace[:SHOWN_TRACE]}/{span}"


def update_agent(publication: Publication, trace: str, record: TraceRecord, turn: Turn) -> str:
    """Set what the agent of a turn does; return its role."""
    agent, key = load_agent(publication, turn.agent), f"turn/{name_turn(trace, turn.id)}"
    agent.role = agent.role or turn.service
    agent.model, agent.story = turn.model or agent.model, turn.story or agent.story
    agent.heard = max(agent.heard, record.heard)
    if turn.status == RUNNING:
        agent.assign(key, Assignment(turn.step, WORKING, turn.step_since, turn.story))
    else:
        agent.assign(key, None)
        if turn.id not in record.ended:
            record.ended.append(turn.id)
            if turn.status == COMPLETED:
                agent.completed += 1
                agent.succeeded_at = max(agent.succeeded_at, turn.ended)
                if turn.duration is not None:
                    publication.learn(agent.role or UNKNOWN_ROLE, "turn", turn.duration)
            elif turn.status == FAILED:
                agent.failed += 1
                if turn.ended >= agent.failed_at:
                    agent.failed_at, agent.failure = turn.ended, turn.reason
    store_agent(publication, turn.agent, agent)
    return agent.role or UNKNOWN_ROLE


def end_turn(publication: Publication, trace: str, key: str, name: str) -> None:
    """Take a turn from an agent, as a later span has reported another one."""
    agent = load_agent(publication, name)
    agent.assign(f"turn/{name_turn(trace, key)}", None)
    store_agent(publication, name, agent)


def count_call(
    publication: Publication, trace: str, record: TraceRecord, turns: list[Turn], fact: SpanFact
) -> None:
    """Count a call that has ended, and report what is unusual about it."""
    turn = next((t for t in turns if any(call.id == fact.span for call in t.calls)), None)
    if not fact.ended or turn is None:
        return
    agent = load_agent(publication, turn.agent)
    agent.tokens_in += fact.tokens_in
    agent.tokens_out += fact.tokens_out
    role = agent.role or turn.service
    publication.learn(role or "unknown", fact.operation, (fact.time - fact.started) / SECOND)
    add_usage(
        publication, agent, turn.agent, role, turn.story, fact.model, fact.tokens_in,
        fact.tokens_out,
    )  # fmt: skip
    add_tokens(publication, turn.story, fact.tokens_in + fact.tokens_out, fact.time)
    if fact.call:
        calls, limit = agent.count_call(fact.call), publication.settings.loop_length
        if calls >= limit and calls % limit == 0:
            report(
                publication, AGENT_LOOPING, turn, f"{calls} equal calls of {fact.tool} in a row",
                tool=fact.tool, calls=calls,
            )  # fmt: skip
    publication.state.set(f"agent/{turn.agent}", agent)
    if fact.is_refused:
        report(publication, AGENT_REFUSED, turn, f"{fact.model or 'the model'} refused to answer")
    report_once(publication, record, turn)


def report_once(publication: Publication, record: TraceRecord, turn: Turn) -> None:
    """Report repeated failures and a growing context, once for each turn."""
    settings = publication.settings
    failures = 0
    for call in turn.calls:
        failures = failures + 1 if call.fact.error else 0
    if failures >= settings.retry_limit and f"{turn.id}/retry" not in record.warned:
        record.warned.append(f"{turn.id}/retry")
        last = turn.calls[-1].fact
        name = last.tool or last.model or last.operation
        report(
            publication, AGENT_RETRYING, turn,
            f"{failures} calls failed in a row, the last one of {name}: {last.error}",
        )  # fmt: skip
    sizes = [call.fact.tokens_in for call in turn.calls if call.fact.tokens_in]
    if (
        sizes
        and sizes[-1] >= max(sizes[0] * settings.context_growth, settings.context_minimum)
        and f"{turn.id}/context" not in record.warned
    ):
        record.warned.append(f"{turn.id}/context")
        report(
            publication, AGENT_CONTEXT_GROWING, turn,
            f"the context grew from {sizes[0]:,} to {sizes[-1]:,} tokens within a turn",
            tokens=sizes[-1],
        )  # fmt: skip


def report(publication: Publication, kind: str, turn: Turn, reason: str, **fields: object) -> None:
    """Publish an event about the agent of a turn."""
    data = {"reason": reason, "turn": turn.id, **fields}
    publication.event(kind, turn.agent, Severity.WARN, turn.story, data)


def publish_turn(publication: Publication, trace: str, turn: Turn, role: str) -> None:
    """Publish the resource of a turn of an agent with a role."""
    publication.resource(
        TURN, name_turn(trace, turn.id), turn.status,
        {
            "agent": turn.agent, "role": turn.service, "trace": trace,
            "conversation": turn.conversation, "story": turn.story, "model": turn.model,
            "doing": turn.doing, "started": turn.started, "step_since": turn.step_since,
            "ended": turn.ended or None, "duration": turn.duration,
            "usual": publication.usual(role, "turn"),
            "model_calls": turn.count("model") or None, "tool_calls": turn.count("tool") or None,
            "tools": turn.tools, "tokens": turn.tokens_in + turn.tokens_out or None,
            "reason": turn.reason, "problem": "; ".join(turn.problems),
        },
    )  # fmt: skip
