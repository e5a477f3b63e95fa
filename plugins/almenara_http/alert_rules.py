"""The alert rules about HTTP checks, and what they depend on."""

from typing import Final

from almenara.hookspecs import AlertRule, Condition, ResourceCondition, ResourceLink
from almenara_http.source import EXPIRES_SOON, HOST, KIND

RULES: Final = (
    AlertRule(
        # The status changes after `failure_threshold` failures in a row, which is the delay.
        name="http-check-down",
        when=Condition(resource=ResourceCondition(kind=KIND, status=["down"])),
        severity="ERROR",
        annotations={
            "summary": "Check {{ name }} is down: {{ state.reason|default('') }}",
            "description": "{{ state.url }}",
        },
    ),
    AlertRule(
        name="http-host-down",
        when=Condition(resource=ResourceCondition(kind=HOST, status=["down"])),
        severity="ERROR",
        annotations={"summary": "All {{ state.checks }} checks of {{ name }} are down"},
    ),
    AlertRule(
        name="http-certificate-expires",
        when=Condition(
            resource=ResourceCondition(kind=KIND, field="certificate", equals=EXPIRES_SOON)
        ),
        severity="WARN",
        annotations={
            "summary": "The certificate of check {{ name }} expires at {{ state.expires|moment }}"
        },
    ),
)
LINKS: Final = (ResourceLink(kind=KIND, parent=HOST, name="host"),)
