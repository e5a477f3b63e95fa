"""The kinds of resources that the plugin publishes, and their statuses."""

from typing import Final

from almenara.signals import UNKNOWN as UNKNOWN, Severity

SERVER: Final = "neo4j.server"
DATABASE: Final = "neo4j.database"
QUERY: Final = "neo4j.query"
GRAPH: Final = "neo4j.graph"
NODE: Final = "neo4j.node"
RELATIONSHIP: Final = "neo4j.relationship"

OK: Final = "ok"
UNREACHABLE: Final = "unreachable"
ONLINE: Final = "online"
RUNNING: Final = "running"
BLOCKED: Final = "blocked"
PARTIAL: Final = "partial"
FAILING: Final = "failing"
PRESENT: Final = "present"
REMOVED: Final = "removed"
CHANGING: Final = frozenset(
    ("starting", "stopping", "initial", "store copying", "quarantined", "dirty", "draining")
)
"""Statuses of databases between online and offline."""

SEVERITIES: Final = {
    OK: Severity.INFO,
    ONLINE: Severity.INFO,
    PARTIAL: Severity.INFO,
    RUNNING: Severity.WARN,
    BLOCKED: Severity.WARN,
    UNKNOWN: Severity.WARN,
    FAILING: Severity.WARN,
    UNREACHABLE: Severity.ERROR,
}


def severity_of(status: str) -> Severity:
    """The severity of a status, those of databases included."""
    return SEVERITIES.get(status, Severity.WARN if status in CHANGING else Severity.ERROR)
