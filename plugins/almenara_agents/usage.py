"""Tokens and their cost, by role and model, of agents and of stories."""

import re
from typing import Any, Final

import msgspec

from almenara.sdk import compile_pattern
from almenara.signals import Severity
from almenara_agents.agents import AgentRecord
from almenara_agents.kinds import BUDGET_EXCEEDED, USAGE
from almenara_agents.publication import Publication
from almenara_agents.settings import AgentsSettings
from almenara_agents.story_derivation import load_story, store_story

MILLION: Final = 1_000_000


class UsageRecord(msgspec.Struct, omit_defaults=True):
    """What a role used of a model."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    priced: int = 0
    """Tokens whose price is known."""
    role: str = ""
    model: str = ""
    origin: str = ""
    """Where the newest event about it is from."""


def compute_cost(settings: AgentsSettings, model: str, tokens_in: int, tokens_out: int) -> float:
    """The cost of tokens of a model; 0 where it has no price."""
    for name, price in settings.prices.items():
        pattern = compile_pattern(name) or re.compile(re.escape(name))
        if pattern.fullmatch(model):
            return (tokens_in * price.input + tokens_out * price.output) / MILLION
    return 0.0


def add_usage(
    publication: Publication, agent: AgentRecord, name: str, role: str, story: str, model: str,
    tokens_in: int, tokens_out: int,
) -> None:  # fmt: skip
    """Add the tokens of a call to its role and model, its agent and its story.

    The caller stores the agent.
    """
    if not tokens_in + tokens_out:
        return
    role, model = role or "unknown", model or "unknown"
    cost = compute_cost(publication.settings, model, tokens_in, tokens_out)
    key = f"usage/{role}/{model}"
    usage = publication.state.get(key, UsageRecord)
    if usage is None and not publication.admit("usages"):
        return
    usage = usage or UsageRecord()
    usage.role, usage.model, usage.origin = role, model, publication.origin or usage.origin
    usage.calls += 1
    usage.tokens_in += tokens_in
    usage.tokens_out += tokens_out
    usage.cost = round(usage.cost + cost, 9)
    usage.priced += tokens_in + tokens_out if cost else 0
    publication.state.set(key, usage)
    publish_usage(publication, f"{role}/{model}", usage)
    if not cost:
        return
    before, agent.cost = agent.cost, round(agent.cost + cost, 9)
    check_budget(publication, "agent", name, story, before, agent.cost)
    if story:
        record = load_story(publication, story)
        before, record.cost = record.cost, round(record.cost + cost, 9)
        store_story(publication, story, record)
        check_budget(publication, "story", story, story, before, record.cost)


def publish_usage(publication: Publication, name: str, usage: UsageRecord) -> None:
    """Publish the resource of what a role used of a model."""
    tokens = usage.tokens_in + usage.tokens_out
    state: dict[str, Any] = {
        "role": usage.role, "model": usage.model, "calls": usage.calls,
        "tokens_in": usage.tokens_in, "tokens_out": usage.tokens_out, "tokens": tokens,
        "cost": round(usage.cost, 6) or None,
        "problem": "" if usage.priced == tokens else "some tokens have no price",
    }  # fmt: skip
    publication.resource(USAGE, name, "used", state, origin=usage.origin)


def check_budget(
    publication: Publication, what: str, name: str, story: str, before: float, after: float
) -> None:
    """Report the cost of an agent or story that has passed its budget."""
    settings = publication.settings
    budget = settings.agent_budget if what == "agent" else settings.story_budget
    if budget is not None and before <= budget < after:
        reason = f"the {what} has cost {after:.2f} {settings.currency}, budget {budget:.2f}"
        publication.event(
            BUDGET_EXCEEDED, name, Severity.WARN, story,
            {"of": what, "cost": after, "budget": budget, "reason": reason},
        )  # fmt: skip
