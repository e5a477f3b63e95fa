"""Horizontal pod autoscalers as resources: bounds, replicas, and each metric against its target."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.signals import Severity
from almenara_kubernetes.mapping import Mapped
from almenara_kubernetes.mapping.conditions import find_condition, map_conditions
from almenara_kubernetes.models import Autoscaler, MetricSource, MetricValue, ScalingMetric
from almenara_kubernetes.quantities import parse_quantity, parse_timestamp

SOURCES: Final = {
    "Resource": "resource", "ContainerResource": "container_resource", "Pods": "pods",
    "Object": "object", "External": "external",
}  # fmt: skip
"""The field of each type of metric."""


def map_autoscaler(autoscaler: Autoscaler) -> Mapped:
    """A HorizontalPodAutoscaler."""
    spec, status = autoscaler.spec, autoscaler.status
    text, severity = "Steady", Severity.INFO
    current, desired = status.current_replicas, status.desired_replicas
    failure = next(
        (
            condition
            for kind in ("AbleToScale", "ScalingActive")
            if (condition := find_condition(status.conditions, kind)) is not None
            and condition.status == "False"
        ),
        None,
    )
    if failure is not None:
        text, severity = failure.reason or "Unable", Severity.ERROR
        if failure.reason == "ScalingDisabled":
            severity = Severity.DEBUG
    elif desired != current:
        text = "Scaling up" if desired > current else "Scaling down"
    elif spec.max_replicas and desired >= spec.max_replicas > spec.min_replicas:
        text, severity = "At maximum", Severity.WARN
    values = {_metric_key(metric): _source(metric).current for metric in status.current_metrics}
    return text, severity, {
        "target": f"{spec.scale_target_ref.kind}/{spec.scale_target_ref.name}",
        "min": spec.min_replicas,
        "max": spec.max_replicas,
        "current": current,
        "desired": desired,
        "scaled": parse_timestamp(status.last_scale_time),
        "metrics": [_map_metric(metric, values) for metric in spec.metrics],
        "message": failure.message if failure is not None else "",
        "conditions": map_conditions(status.conditions),
    }  # fmt: skip


def _source(metric: ScalingMetric) -> MetricSource:
    source: MetricSource = getattr(metric, SOURCES.get(metric.type, "resource"))
    return source


def _metric_key(metric: ScalingMetric) -> tuple[str, str, str, str]:
    """What identifies a metric in the spec and in the status alike."""
    source = _source(metric)
    return (
        metric.type,
        source.container,
        source.name or source.metric.name,
        source.described_object.name,
    )


def _map_metric(
    metric: ScalingMetric, values: Mapping[tuple[str, str, str, str], MetricValue]
) -> dict[str, Any]:
    """A metric: its name, its current value, its target, and `%` where they are percentages."""
    key = _metric_key(metric)
    target, current = _source(metric).target, values.get(key)
    of_object = f"{key[3]}: " if key[3] else ""
    of_container = f"{key[1]}: " if key[1] else ""
    row: dict[str, Any] = {"name": f"{of_object}{of_container}{key[2]}", "type": metric.type}
    if target.average_utilization is not None:
        row |= {
            "target": target.average_utilization,
            "current": current.average_utilization if current is not None else None,
            "unit": "%",
        }
        return row
    is_average = target.average_value != ""
    row["target"] = parse_quantity(target.average_value if is_average else target.value)
    row["current"] = None
    if current is not None:
        row["current"] = parse_quantity(current.average_value if is_average else current.value)
    return row
