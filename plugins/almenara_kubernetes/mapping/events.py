"""Events of Kubernetes (`events.k8s.io/v1`) as events.

Kubernetes does not write an event for each occurrence: it raises the count of the first one. Each
count that is observed becomes one event, with the series in its data; panels display the newest of
a series, and history how it developed.
https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

import re
from typing import Final

from almenara.sdk import now
from almenara.signals import Event, Severity
from almenara_kubernetes.models import KubernetesEvent
from almenara_kubernetes.quantities import parse_timestamp

INVALID: Final = re.compile(r"[^A-Za-z0-9_-]+")
LONGEST_NOTE: Final = 2000
LONGEST_REASON: Final = 128
SERIOUS: Final = frozenset((
    "BackOff", "CrashLoopBackOff", "Evicted", "Failed", "FailedAttachVolume", "FailedCreate",
    "FailedCreatePodSandBox", "FailedDaemonPod", "FailedMount", "FailedPostStartHook",
    "FreeDiskSpaceFailed", "InspectFailed", "InvalidDiskCapacity", "NetworkNotReady",
    "NodeNotReady", "OOMKilling", "ProvisioningFailed", "Rebooted", "SystemOOM",
    "BackoffLimitExceeded", "DeadlineExceeded", "ErrImageNeverPull", "ImageGCFailed",
))  # fmt: skip
"""Reasons of warnings that mean that something does not work."""


def event_count(event: KubernetesEvent) -> int:
    """How often it has happened so far."""
    if event.series is not None:
        return max(1, event.series.count)
    return max(1, event.deprecated_count)


def last_time(event: KubernetesEvent) -> int | None:
    """When it happened last, in microseconds since the epoch."""
    return _first_timestamp(
        event.series.last_observed_time if event.series is not None else "",
        event.deprecated_last_timestamp,
        event.event_time,
        event.deprecated_first_timestamp,
        event.metadata.creation_timestamp,
    )


def first_time(event: KubernetesEvent) -> int | None:
    """When it happened first, in microseconds since the epoch."""
    return _first_timestamp(
        event.deprecated_first_timestamp, event.event_time, event.metadata.creation_timestamp
    )


def _first_timestamp(*texts: str) -> int | None:
    return next((time for text in texts if (time := parse_timestamp(text)) is not None), None)


def event_severity(event: KubernetesEvent) -> Severity:
    """By the type and, for a warning, the reason."""
    if event.type != "Warning":
        return Severity.INFO
    return Severity.ERROR if event.reason in SERIOUS else Severity.WARN


def map_event(event: KubernetesEvent, *, subject: str, correlation: str, source: str) -> Event:
    """The event of one count of a series."""
    reason = INVALID.sub("_", event.reason)[:LONGEST_REASON] or "unnamed"
    count, last = event_count(event), last_time(event)
    data = {
        "reason": event.reason,
        "message": event.note[:LONGEST_NOTE],
        "count": count,
        "first": first_time(event),
        "last": last,
        "series": event.metadata.uid,
        "kind": event.regarding.kind,
        "name": event.regarding.name,
        "namespace": event.regarding.namespace or event.metadata.namespace,
        "action": event.action,
        "reporter": event.reporting_controller or event.deprecated_source.component,
        "node": event.deprecated_source.host,
    }
    return Event(
        id=f"{event.metadata.uid}/{count}",
        source=source,
        type=f"kubernetes.event.{reason}",
        subject=subject,
        time=last if last is not None else now(),
        severity=event_severity(event),
        correlation=correlation or None,
        data={name: value for name, value in data.items() if value not in (None, "")},
    )
