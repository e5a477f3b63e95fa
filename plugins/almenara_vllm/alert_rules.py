"""The alert rules about vLLM."""

from typing import Final

from almenara.hookspecs import AlertRule, Condition, ResourceCondition
from almenara_vllm.kinds import FAILING, PREEMPTING, SATURATED, SERVER, UNHEALTHY, UNREACHABLE

SUMMARY: Final = "{{ name }}: {{ state.reason|default('no reason') }}"

RULES: Final = (
    AlertRule(
        name="vllm-server-failing",
        when=Condition(
            resource=ResourceCondition(kind=SERVER, status=[UNREACHABLE, UNHEALTHY, FAILING])
        ),
        for_=30.0,
        severity="ERROR",
        annotations={"summary": SUMMARY},
    ),
    AlertRule(
        name="vllm-server-saturated",
        when=Condition(resource=ResourceCondition(kind=SERVER, status=[SATURATED, PREEMPTING])),
        for_=300.0,
        keep_firing_for=120.0,
        annotations={"summary": SUMMARY},
    ),
)
