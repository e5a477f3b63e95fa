"""The rules of the core, about what it knows of itself."""

from typing import Final

from almenara.alerting import RULE, SOURCE
from almenara.config.alert_rules import AlertRule, Condition, ResourceCondition

CORE: Final = "almenara"
CORE_RULES: Final = (
    AlertRule(
        name="source-blind",
        when=Condition(
            resource=ResourceCondition(
                kind=SOURCE, status=["degraded", "blocked", "backing_off", "stopped"]
            )
        ),
        for_=60.0,
        severity="ERROR",
        annotations={
            "summary": "The source {{ name }} cannot observe its system: {{ status }}",
            "description": "{{ state.reason }}",
        },
    ),
    AlertRule(
        name="rule-failing",
        when=Condition(resource=ResourceCondition(kind=RULE, status=["failing"])),
        severity="ERROR",
        annotations={
            "summary": "The alert rule {{ name }} fails: {{ state.error }}",
        },
    ),
)
