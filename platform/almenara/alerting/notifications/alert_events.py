"""Alerts as they are on the bus: resources of kind `almenara.alert`.

Every transition is an event too. Events are not read: a message that some system has sent can have
any type, and must not choose who is notified of what. Resources are made by Almenara alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from almenara.hookspecs import Alert
from almenara.notification_specs import AlertStatus
from almenara.scope import ALERT_KIND, LABELS, NAMESPACE, OWN_LABELS, Scope, write_labels
from almenara.signals import Event, Resource, Severity, Signal, parse_severity

STATUSES: Final[frozenset[str]] = frozenset(get_args(AlertStatus))
MAX_LABELS: Final = 64
MAX_NAME: Final = 200
MAX_VALUE: Final = 1_000
MAX_DESCRIPTION: Final = 4_000
LARGEST_TIME: Final = 2**63 - 1


class AlertChange(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that was published."""

    alert: Alert
    sequence: int
    """The place of the change in the log."""
    origin: str = ""
    namespace: str = ""
    own_labels: dict[str, str] = {}
    """The labels of what it is about, by which scopes grant it."""
    notify: tuple[str, ...] = ()
    """The receivers that its rule names; empty for those of the routing tree."""

    @property
    def key(self) -> str:
        """Identifies the alert."""
        return f"{self.alert.rule}/{self.alert.fingerprint}"

    def is_visible_to(self, scope: Scope) -> bool:
        """Whether a scope includes the alert."""
        if scope.is_full:
            return True
        alert = self.alert
        return scope.permits(
            Event(
                id=alert.fingerprint,
                source=alert.rule,
                type=f"{ALERT_KIND}.{alert.status}",
                time=alert.since,
                origin=self.origin,
                attributes={NAMESPACE: self.namespace, LABELS: write_labels(self.own_labels)},
            )
        )


def read_change(signal: Signal, sequence: int) -> AlertChange | None:
    """Return the alert that a resource is; None for any other signal."""
    if not isinstance(signal, Resource) or signal.kind != ALERT_KIND:
        return None
    status = "resolved" if signal.deleted else signal.status
    rule, fingerprint, state = signal.namespace, signal.name, signal.state
    if status not in STATUSES or not fingerprint or not rule:
        return None
    return AlertChange(
        alert=_read_alert(signal, status),
        sequence=sequence,
        origin=signal.origin,
        namespace=_text(state.get(NAMESPACE), MAX_NAME),
        own_labels=_labels(state.get(OWN_LABELS)),
        notify=_names(state.get("notify")),
    )


def _read_alert(signal: Resource, status: Any) -> Alert:
    state, time = signal.state, signal.time
    annotations = state.get("annotations")
    annotations = annotations if isinstance(annotations, Mapping) else {}
    return Alert(
        rule=signal.namespace[:MAX_NAME],
        fingerprint=signal.name[:MAX_NAME],
        status=status,
        severity=_severity(state.get("severity"), signal.severity),
        labels=_labels(state.get("labels")),
        summary=_text(annotations.get("summary"), MAX_VALUE),
        description=_text(annotations.get("description"), MAX_DESCRIPTION),
        runbook=_text(state.get("runbook"), MAX_DESCRIPTION),
        value=_value(state.get("value")),
        threshold=_value(state.get("threshold")),
        since=_time(state.get("since")) or time,
        started=_time(state.get("started")) or time,
        ended=(_time(state.get("ended")) or time) if status == "resolved" else None,
        resource=_resource(state.get("resource")),
        cause=_text(state.get("cause"), MAX_VALUE),
        by=_text(state.get("by"), MAX_NAME),
        assignee=_text(state.get("assignee"), MAX_NAME),
        metric=_text(state.get("metric"), MAX_NAME),
    )


def _severity(value: Any, default: Severity) -> Severity:
    """The severity of the rule; that of the resource is lower while no one has to act."""
    try:
        return parse_severity(value)
    except (ValueError, AttributeError):
        return default


def _text(value: Any, limit: int) -> str:
    if value is None or isinstance(value, Mapping | list | tuple):
        return ""
    return str(value)[:limit]


def _value(value: Any) -> float | str | None:
    if isinstance(value, str):
        return value[:MAX_NAME]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _time(value: Any) -> int | None:
    is_time = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_TIME
    return value if is_time else None


def _labels(value: Any) -> dict[str, str]:
    pairs = list(value.items())[:MAX_LABELS] if isinstance(value, Mapping) else []
    return {str(name)[:MAX_NAME]: _text(text, MAX_VALUE) for name, text in pairs}


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return ()
    return tuple(name for name in value[:MAX_LABELS] if isinstance(name, str))


def _resource(value: Any) -> tuple[str, str, str] | None:
    if not isinstance(value, Mapping):
        return None
    kind, namespace, name = (
        _text(value.get(part), MAX_VALUE) for part in ("kind", "namespace", "name")
    )
    return (kind, namespace, name) if kind and name else None
