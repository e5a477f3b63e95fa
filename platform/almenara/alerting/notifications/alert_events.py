"""Alerts as they are on the bus: events of type `almenara.alert.<status>`, and resources."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from almenara.hookspecs import Alert
from almenara.notification_specs import AlertStatus
from almenara.scope import Scope
from almenara.signals import Event, Resource, Severity, Signal

KIND: Final = "almenara.alert"
ORIGINS: Final = "almenara/"
"""How the origins of alerts start. Almenara itself publishes them: an event of the same type that
some system has sent is not an alert, and must not choose who is notified."""
STATUSES: Final[frozenset[str]] = frozenset(get_args(AlertStatus))
MAX_LABELS: Final = 64
MAX_NAME: Final = 200
MAX_VALUE: Final = 1_000
MAX_DESCRIPTION: Final = 4_000
LARGEST_TIME: Final = 2**63 - 1


class AlertChange(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that has changed."""

    alert: Alert
    sequence: int
    """The place of the change in the log."""
    origin: str = ""
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
        namespace = alert.resource[1] if alert.resource else alert.labels.get("namespace", "")
        # Labels are in one attribute, separated by commas: a value with a comma could add another.
        labels = ",".join(
            f"{name}={value}"
            for name, value in alert.labels.items()
            if "," not in name + value and "=" not in name
        )
        return scope.permits(
            Event(
                id=alert.fingerprint,
                source=alert.rule,
                type=f"{KIND}.{alert.status}",
                time=alert.since,
                origin=self.origin,
                attributes={"namespace": namespace, "labels": labels},
            )
        )


def read_change(signal: Signal, sequence: int) -> AlertChange | None:
    """Return the alert that an event or a resource is about; None for any other signal."""
    if not isinstance(signal, Event | Resource) or not signal.origin.startswith(ORIGINS):
        return None
    if isinstance(signal, Event):
        prefix, _, status = signal.type.rpartition(".")
        if prefix != KIND:
            return None
        rule, _, fingerprint = signal.subject.rpartition("/")
        data = _decode(signal.data)
    else:
        if signal.kind != KIND:
            return None
        status = "resolved" if signal.deleted else signal.status
        rule, fingerprint, data = signal.namespace, signal.name, signal.state
    rule = _text(data.get("rule"), MAX_NAME) or rule
    if status not in STATUSES or not fingerprint or not rule:
        return None
    return AlertChange(
        alert=_read_alert(rule, fingerprint, status, signal.severity, data, signal.time),
        sequence=sequence,
        origin=signal.origin,
        notify=_names(data.get("notify")),
    )


def _decode(data: Any) -> Mapping[str, Any]:
    if isinstance(data, msgspec.Raw):
        try:
            data = msgspec.json.decode(data)
        except msgspec.DecodeError:
            data = None
    return data if isinstance(data, Mapping) else {}


def _read_alert(
    rule: str, fingerprint: str, status: Any, severity: Severity, data: Mapping[str, Any], time: int
) -> Alert:
    annotations = data.get("annotations")
    annotations = annotations if isinstance(annotations, Mapping) else {}
    return Alert(
        rule=rule[:MAX_NAME],
        fingerprint=fingerprint[:MAX_NAME],
        status=status,
        severity=severity,
        labels=_labels(data.get("labels")),
        summary=_text(annotations.get("summary"), MAX_VALUE),
        description=_text(annotations.get("description"), MAX_DESCRIPTION),
        runbook=_text(data.get("runbook"), MAX_DESCRIPTION),
        value=_number(data.get("value")),
        threshold=_number(data.get("threshold")),
        since=_time(data.get("since")) or time,
        started=_time(data.get("started")) or time,
        ended=_time(data.get("ended")) or (time if status == "resolved" else None),
        resource=_resource(data.get("resource")),
        cause=_text(data.get("cause"), MAX_VALUE),
        by=_text(data.get("by"), MAX_NAME),
    )


def _text(value: Any, limit: int) -> str:
    if value is None or isinstance(value, Mapping | list | tuple):
        return ""
    return str(value)[:limit]


def _number(value: Any) -> float | None:
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
