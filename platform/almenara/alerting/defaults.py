"""The rules of the core: about what it knows of itself, and the alerts that others push."""

from typing import Final

from almenara.alerting import RULE, SOURCE
from almenara.config.alert_rules import AlertRule, Condition, EventCondition, ResourceCondition

CORE: Final = "almenara"
PUSHED_ALERT_LIMIT: Final = 7 * 86_400.0
"""Seconds after which an alert of another system whose end was not received is over."""
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
    AlertRule(
        name="pushed-alert-firing",
        group_by=["origin", "correlation"],
        when=Condition(
            events=EventCondition(
                types=["alertmanager.alert.firing", "grafana.alert.firing"],
                source="intake/*",
                within=PUSHED_ALERT_LIMIT,
                until=["alertmanager.alert.resolved", "grafana.alert.resolved"],
            )
        ),
        severity="signal",
        annotations={
            "summary": "{{ subject|default('An alert', true) }} fires, reported by {{ origin }}",
            "description": "{{ data.annotations.summary or data.annotations.description }}",
        },
    ),
)
