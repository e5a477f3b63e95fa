"""Custom resources as resources: the configured columns, and a status found as kstatus finds it.

https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from almenara.signals import Severity
from almenara_kubernetes.kinds import CustomKind
from almenara_kubernetes.mapping import Mapped
from almenara_kubernetes.models import CustomObject

LARGEST: Final = 2**53
"""Whole numbers beyond this are not exact everywhere, and are stored as text."""
LONGEST_VALUE: Final = 300
STEP: Final = re.compile(r"([^.\[\]]+)|\[(\d{1,6})\]")
POSITIVE: Final = ("Ready", "Available", "Healthy", "Succeeded", "Complete", "Synced", "Reconciled")
"""Conditions that are good when they hold, by how much they mean for the whole object."""
NEGATIVE: Final = ("Stalled", "Failed", "Degraded", "Error", "ReplicaFailure", "Errored")
"""Conditions that are bad when they hold."""
PROGRESS: Final = ("Reconciling", "Progressing")
FAILED_WORDS: Final = frozenset((
    "failed", "failure", "error", "errored", "degraded", "unhealthy", "missing",
    "crashloopbackoff", "lost", "invalid", "expired", "stalled", "unschedulable",
))  # fmt: skip
PENDING_WORDS: Final = frozenset((
    "pending", "progressing", "creating", "updating", "provisioning", "initializing",
    "initialising", "waiting", "unknown", "suspended", "deleting", "terminating", "paused",
    "scheduling", "reconciling", "notready", "outofsync",
))  # fmt: skip


def map_custom(custom: CustomObject, kind: CustomKind) -> Mapped:
    """A custom resource: the values of its columns, and its status.

    The status is the configured value or, without one, the worst of its health, phase and
    conditions; its severity follows the same words. The reason is in the state as `reason` and
    `message`.
    """
    status = value_at(custom.whole, "status")
    text, severity, details = _find_status(status if isinstance(status, dict) else {})
    metadata = custom.metadata
    observed = value_at(custom.whole, "status.observedGeneration")
    if metadata.deletion_timestamp:
        text, severity = "Terminating", max(severity, Severity.DEBUG)
    elif isinstance(observed, int) and observed < metadata.generation and severity < Severity.WARN:
        # Its controller has not observed the latest change, so its status is of an older one.
        text, severity = "Progressing", Severity.WARN
    if kind.status:
        text = _as_text(value_at(custom.whole, kind.status))
        severity = max(severity, word_severity(text))
    columns = {
        column.title: value
        for column in kind.columns
        if (value := _shorten(value_at(custom.whole, column.path))) is not None
    }
    return text, severity, {**details, **columns}


def word_severity(word: str) -> Severity:
    """How serious a status word is: `Degraded` is an error, `Progressing` a warning."""
    plain = re.sub(r"[^a-z]", "", word.casefold())
    if plain in FAILED_WORDS:
        return Severity.ERROR
    return Severity.WARN if plain in PENDING_WORDS else Severity.INFO


def _find_status(status: Mapping[str, Any]) -> Mapped:
    """The worst of what a status reports; of what is equally serious, the most specific."""
    findings = [*_health(status), *_phase(status), *_conditions(status)]
    if not findings:
        return "", Severity.INFO, {}
    return max(findings, key=lambda finding: finding[1])


def _health(status: Mapping[str, Any]) -> Iterator[Mapped]:
    health = status.get("health")
    if isinstance(health, dict):
        word, message = health.get("status"), health.get("message")
    else:
        word, message = health, ""
    if isinstance(word, str) and word:
        yield _finding(word, message=message)


def _phase(status: Mapping[str, Any]) -> Iterator[Mapped]:
    for name in ("phase", "state"):
        word = status.get(name)
        if isinstance(word, str) and word:
            yield _finding(word, reason=status.get("reason"), message=status.get("message"))
            return


def _conditions(status: Mapping[str, Any]) -> Iterator[Mapped]:
    rows = status.get("conditions")
    conditions = {
        str(row.get("type")): row
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict)
    }
    for kind in NEGATIVE:
        condition = conditions.get(kind, {})
        if condition.get("status") == "True":
            yield _condition(condition, kind, Severity.ERROR)
    for kind in PROGRESS:
        condition = conditions.get(kind, {})
        if condition.get("status") == "True" and not _is_finished(condition):
            yield _condition(condition, kind, Severity.WARN)
    for kind in POSITIVE:
        if kind not in conditions:
            continue
        condition = conditions[kind]
        if condition.get("status") == "True":
            yield kind, Severity.INFO, {}
        elif condition.get("status") == "False":
            yield _condition(condition, f"Not{kind}", Severity.WARN)
        else:
            yield _condition(condition, f"{kind} unknown", Severity.WARN)
        # The first that a kind has means the whole object; the others are parts of it.
        return


def _is_finished(condition: Mapping[str, Any]) -> bool:
    """Whether `Progressing` holds because progress has been made, as for a Deployment."""
    return condition.get("reason") in ("NewReplicaSetAvailable", "Completed", "Succeeded")


def _condition(condition: Mapping[str, Any], word: str, severity: Severity) -> Mapped:
    reason, message = condition.get("reason"), condition.get("message")
    text = (reason if isinstance(reason, str) and reason else word)[:LONGEST_VALUE]
    severity = max(severity, word_severity(text))
    return text, severity, _details(reason, message)


def _finding(word: str, *, reason: Any = None, message: Any = None) -> Mapped:
    return word[:LONGEST_VALUE], word_severity(word), _details(reason, message)


def _details(reason: Any, message: Any) -> dict[str, Any]:
    return {
        name: value[:LONGEST_VALUE]
        for name, value in (("reason", reason), ("message", message))
        if isinstance(value, str) and value
    }


def value_at(tree: Any, path: str) -> Any:
    """The value at a path such as `spec.workers[0].replicas`; None where there is no such."""
    for match in STEP.finditer(path):
        name, place = match.groups()
        if place is not None:
            number = int(place)
            if not isinstance(tree, list) or number >= len(tree):
                return None
            tree = tree[number]
        elif isinstance(tree, dict):
            tree = tree.get(name)
        else:
            return None
    return tree


def _as_text(value: Any) -> str:
    return "" if value is None or isinstance(value, dict | list) else str(value)[:LONGEST_VALUE]


def _shorten(value: Any) -> Any:
    if isinstance(value, str):
        return value[:LONGEST_VALUE]
    if isinstance(value, dict | list) or (
        isinstance(value, int) and not -LARGEST <= value <= LARGEST
    ):
        return str(value)[:LONGEST_VALUE]
    return value
