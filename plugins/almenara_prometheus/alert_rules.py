"""The alert rule about scraped targets, and what depends on them."""

from collections.abc import Sequence
from typing import Final

from almenara.hookspecs import AlertRule, Condition, ResourceCondition, ResourceLink
from almenara_prometheus.settings import PrometheusSettings
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


def list_links(settings: PrometheusSettings) -> Sequence[ResourceLink]:
    """Return that every series depends on its target, whose name is its namespace."""
    kinds = {mapping.kind for target in settings.targets for mapping in target.mappings}
    return [ResourceLink(kind=kind, parent=KIND, name="namespace") for kind in sorted(kinds)]
