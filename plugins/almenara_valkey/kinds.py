"""The kinds of resources that the plugin publishes, and their statuses."""

from typing import Final

from almenara.signals import Severity

DEPLOYMENT: Final = "valkey.deployment"
SERVER: Final = "valkey.server"
COMMAND: Final = "valkey.command"
STREAM_GROUP: Final = "valkey.stream_group"
KEY: Final = "valkey.key"
CHANNEL: Final = "valkey.channel"
KINDS: Final = (DEPLOYMENT, SERVER, COMMAND, STREAM_GROUP, KEY, CHANNEL)

OK: Final = "ok"
LOADING: Final = "loading"
EVICTING: Final = "evicting"
MEMORY_FULL: Final = "memory full"
LINK_DOWN: Final = "replication link down"
PERSISTENCE_FAILING: Final = "persistence failing"
CLUSTER_FAILED: Final = "cluster failed"
FRAGMENTED: Final = "memory fragmented"
CLIENTS_BLOCKED: Final = "clients blocked"
NO_PRIMARY: Final = "no primary"
UNREACHABLE: Final = "unreachable"
DEGRADED: Final = "degraded"
STALLED: Final = "stalled"
UNKNOWN: Final = "unknown"

SEVERITIES: Final = {
    OK: Severity.INFO,
    LOADING: Severity.WARN,
    EVICTING: Severity.WARN,
    FRAGMENTED: Severity.WARN,
    CLIENTS_BLOCKED: Severity.WARN,
    DEGRADED: Severity.WARN,
    STALLED: Severity.WARN,
    UNKNOWN: Severity.WARN,
    MEMORY_FULL: Severity.ERROR,
    LINK_DOWN: Severity.ERROR,
    PERSISTENCE_FAILING: Severity.ERROR,
    CLUSTER_FAILED: Severity.ERROR,
    NO_PRIMARY: Severity.ERROR,
    UNREACHABLE: Severity.ERROR,
}
