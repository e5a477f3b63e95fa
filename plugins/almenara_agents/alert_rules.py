"""The alert rules about agents."""

from typing import Final

from almenara.hookspecs import AlertRule, Condition, EventCondition, ResourceCondition
from almenara_agents.kinds import AGENT, DELIBERATION_FAILED, STUCK

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
        name="agents-deliberation-failed",
        group_by=["origin", "subject"],
        when=Condition(events=EventCondition(types=[DELIBERATION_FAILED])),
        annotations={"summary": "Deliberation {{ subject }} failed: {{ data.reason }}"},
    ),
)
