"""Fields of signals by path, as rules group by them and compare them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.scope import labels_of, namespace_of
from almenara.signals import Event, Resource, Sample, Signal

FIELDS: Final = (
    "kind", "namespace", "name", "origin", "type", "subject", "correlation", "metric",
)  # fmt: skip
PATHS: Final = ("label.", "data.", "state.", "attribute.")
MAX_FIELD: Final = 200
"""Characters of a value in a label."""
MAX_LABELS: Final = 16
MAX_STEPS: Final = 16


def read_path(value: Any, path: str) -> Any:
    """Return what is at a path such as `order.items.0` of mappings and lists; None without it."""
    for step in path.split(".")[:MAX_STEPS]:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, Sequence) and not isinstance(value, str) and step.isdigit():
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def show_value(value: Any) -> str:
    """Return a value as a label has it."""
    if value is None or isinstance(value, Mapping | list):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)[:MAX_FIELD]


def read_field(signal: Signal, name: str) -> str:
    """Return a field of a signal as text; empty where it has none."""
    if name == "namespace":
        return namespace_of(signal)[:MAX_FIELD]
    prefix, dot, path = name.partition(".")
    if not dot:
        return show_value(getattr(signal, name, None))
    if prefix == "label":
        return labels_of(signal).get(path, "")[:MAX_FIELD]
    if prefix == "attribute" and isinstance(signal, Event):
        return signal.attributes.get(path, "")[:MAX_FIELD]
    body = signal.data if isinstance(signal, Event) else getattr(signal, "state", None)
    return show_value(read_path(body, path))


def label_of(field: str) -> str:
    """Return the name of the label that alerts have for a field of their group."""
    return field.partition(".")[2] or field


def default_group(signal: Signal) -> dict[str, str]:
    """Return what makes an alert of its own by default: correlation, resource or subject."""
    if isinstance(signal, Event):
        if signal.correlation:
            return {"correlation": signal.correlation[:MAX_FIELD]}
        group = {"subject": signal.subject[:MAX_FIELD], "namespace": namespace_of(signal)}
        return {name: value for name, value in group.items() if value}
    group = {"kind": signal.kind, "namespace": signal.namespace, "name": signal.name}
    if isinstance(signal, Sample):
        group["metric"] = signal.metric
    # Two clusters may have resources of the same name.
    group["origin"] = signal.origin
    return {name: value[:MAX_FIELD] for name, value in group.items() if value}


def scope_labels(signal: Signal) -> dict[str, str]:
    """Return the first labels of what a signal is about."""
    labels = labels_of(signal)
    return {name[:MAX_FIELD]: labels[name][:MAX_FIELD] for name in sorted(labels)[:MAX_LABELS]}


def resource_key(signal: Signal) -> tuple[str, str, str] | None:
    """Return the key of the resource that a signal is about; None for an event."""
    return signal.key if isinstance(signal, Resource | Sample) else None
