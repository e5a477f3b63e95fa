"""The kinds of resources that the plugin publishes, and their statuses."""

from typing import Final

from almenara.signals import Severity

SOURCE: Final = "vllm"
SERVER: Final = "vllm.server"
MODEL: Final = "vllm.model"
ENGINE: Final = "vllm.engine"
KINDS: Final = (SERVER, MODEL, ENGINE)

OK: Final = "ok"
IDLE: Final = "idle"
ASLEEP: Final = "asleep"
SATURATED: Final = "saturated"
PREEMPTING: Final = "preempting"
FAILING: Final = "failing"
UNHEALTHY: Final = "unhealthy"
UNREACHABLE: Final = "unreachable"
UNKNOWN: Final = "unknown"
SEVERITIES: Final = {
    OK: Severity.INFO,
    IDLE: Severity.INFO,
    ASLEEP: Severity.INFO,
    SATURATED: Severity.WARN,
    PREEMPTING: Severity.WARN,
    UNKNOWN: Severity.WARN,
    FAILING: Severity.ERROR,
    UNHEALTHY: Severity.ERROR,
    UNREACHABLE: Severity.ERROR,
}
HEALTHY: Final = frozenset((OK, IDLE, ASLEEP))
