"""The alert rule about scraped targets."""

from typing import Final

from almenara.hookspecs import AlertRule, Condition, ResourceCondition
from almenara_prometheus.target import KIND

RULES: Final = (
    AlertRule(
        name="prometheus-target-down",
        when=Condition(resource=ResourceCondition(kind=KIND, severity="ERROR")),
        for_=60.0,
        severity="ERROR",
        annotations={
            "summary": "Target {{ name }} is {{ status }}: {{ state.reason|default('') }}",
            "description": "{{ state.url }}",
        },
    ),
)
