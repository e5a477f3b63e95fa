"""The alert rules about Neo4j, and which resources depend on which."""

from typing import Final

from almenara.hookspecs import (
    AlertRule,
    Condition,
    ResourceCondition,
    ResourceLink,
)
from almenara_neo4j.kinds import BLOCKED, DATABASE, QUERY, SERVER, UNREACHABLE

RULES: Final = (
    AlertRule(
        name="neo4j-server-unreachable",
        when=Condition(resource=ResourceCondition(kind=SERVER, status=[UNREACHABLE])),
        for_=30.0,
        severity="ERROR",
        annotations={
            "summary": "Server {{ name }} of {{ namespace }}:"
            " {{ state.reason|default('unreachable') }}"
        },
    ),
    AlertRule(
        name="neo4j-database-failing",
        when=Condition(resource=ResourceCondition(kind=DATABASE, severity="ERROR")),
        for_=60.0,
        severity="ERROR",
        annotations={
            "summary": "Database {{ name }} of {{ namespace }} is {{ status }}:"
            " {{ state.reason|default('no reason') }}"
        },
    ),
    AlertRule(
        name="neo4j-query-blocked",
        when=Condition(resource=ResourceCondition(kind=QUERY, status=[BLOCKED])),
        for_=60.0,
        annotations={
            "summary": "A query of {{ namespace }} waits for a lock:"
            " {{ state.query|default(name) }}"
        },
    ),
)
LINKS: Final = (ResourceLink(kind=QUERY, parent=SERVER, namespace="namespace", name="server"),)
