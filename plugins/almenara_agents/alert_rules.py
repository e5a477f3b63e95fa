"""The alert rules about agents."""

from typing import Final

from almenara.hookspecs import AlertRule, Condition, EventCondition, ResourceCondition
from almenara_agents.kinds import (
    AGENT,
    AGENT_LOOPING,
    AGENT_RECOVERED,
    BUDGET_EXCEEDED,
    DELIBERATION,
    DELIBERATION_FAILED,
    STUCK,
    UNCERTAIN,
)

RULES: Final = (
    AlertRule(
        name="agents-agent-stuck",
        when=Condition(resource=ResourceCondition(kind=AGENT, status=[STUCK])),
        annotations={
            "summary": "{{ name }} ({{ state.role|default('unknown') }}) is stuck:"
            " {{ state.reason|default('silent for too long') }}"
        },
    ),
    AlertRule(
        name="agents-agent-looping",
        group_by=["origin", "subject"],
        when=Condition(
            events=EventCondition(types=[AGENT_LOOPING], within=600, until=[AGENT_RECOVERED])
        ),
        annotations={"summary": "{{ subject }} repeats itself: {{ data.reason }}"},
    ),
    AlertRule(
        name="agents-budget-exceeded",
        group_by=["origin", "subject"],
        when=Condition(events=EventCondition(types=[BUDGET_EXCEEDED], within=3_600)),
        annotations={"summary": "{{ subject }} is over budget: {{ data.reason }}"},
    ),
    AlertRule(
        name="agents-deliberation-stalled",
        when=Condition(resource=ResourceCondition(kind=DELIBERATION, status=[STUCK])),
        annotations={
            "summary": "Deliberation {{ name }} is stuck: {{ state.quorum|default('none') }}"
            " answered, and nothing was heard of it for too long"
        },
    ),
    AlertRule(
        name="agents-deliberation-uncertain",
        when=Condition(resource=ResourceCondition(kind=DELIBERATION, status=[UNCERTAIN])),
        annotations={
            "summary": "Deliberation {{ name }} ended without a certain winner:"
            " {{ state.problem|default('') }}"
        },
    ),
    AlertRule(
        name="agents-deliberation-failed",
        group_by=["origin", "subject"],
        when=Condition(events=EventCondition(types=[DELIBERATION_FAILED])),
        annotations={"summary": "Deliberation {{ subject }} failed: {{ data.reason }}"},
    ),
)
