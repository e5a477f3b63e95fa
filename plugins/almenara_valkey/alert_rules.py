"""The alert rules about Valkey, and which resources depend on which."""

from typing import Final

from almenara.hookspecs import AlertRule, Condition, ResourceCondition, ResourceLink
from almenara_valkey.kinds import (
    CLUSTER_FAILED,
    DEPLOYMENT,
    LINK_DOWN,
    MEMORY_FULL,
    NO_PRIMARY,
    PERSISTENCE_FAILING,
    SERVER,
    STALLED,
    STREAM_GROUP,
    UNREACHABLE,
)

SUMMARY: Final = "Server {{ name }} of {{ namespace }}: {{ state.reason|default('no reason') }}"

RULES: Final = (
    AlertRule(
        name="valkey-deployment-down",
        when=Condition(
            resource=ResourceCondition(kind=DEPLOYMENT, status=[UNREACHABLE, NO_PRIMARY])
        ),
        for_=30.0,
        severity="ERROR",
        annotations={"summary": "{{ name }}: {{ state.reason|default('no primary answers') }}"},
    ),
    AlertRule(
        name="valkey-server-failing",
        when=Condition(
            resource=ResourceCondition(
                kind=SERVER,
                status=[UNREACHABLE, LINK_DOWN, PERSISTENCE_FAILING, CLUSTER_FAILED],
            )
        ),
        for_=60.0,
        severity="ERROR",
        annotations={"summary": SUMMARY},
    ),
    AlertRule(
        name="valkey-memory-full",
        when=Condition(resource=ResourceCondition(kind=SERVER, status=[MEMORY_FULL])),
        severity="ERROR",
        annotations={"summary": SUMMARY},
    ),
    AlertRule(
        name="valkey-stream-group-stalled",
        when=Condition(resource=ResourceCondition(kind=STREAM_GROUP, status=[STALLED])),
        for_=60.0,
        annotations={"summary": "Group {{ name }} of {{ namespace }}: entries wait"},
    ),
)
LINKS: Final = (
    ResourceLink(kind=SERVER, parent=DEPLOYMENT, name="namespace"),
    ResourceLink(kind=STREAM_GROUP, parent=DEPLOYMENT, name="namespace"),
)
