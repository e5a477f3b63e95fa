"""Events of Kubernetes (`events.k8s.io/v1`) as our events.

Kubernetes does not write an event for each occurrence: it counts a series up in the one it wrote
first. Each count that is seen becomes one event of ours, with the series in its data; panels show
the newest of a series, and history how it went.
https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""

import re
from typing import Final

from almenara.sdk import now
from almenara.signals import Event, Severity
from almenara_kubernetes.objects import KubernetesEvent
from almenara_kubernetes.quantities import moment

NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9_-]+")
LONGEST_NOTE: Final = 2000
SERIOUS: Final = frozenset((
    "BackOff", "CrashLoopBackOff", "Evicted", "Failed", "FailedAttachVolume", "FailedCreate",
    "FailedCreatePodSandBox", "FailedDaemonPod", "FailedMount", "FailedPostStartHook",
    "FreeDiskSpaceFailed", "InspectFailed", "InvalidDiskCapacity", "NetworkNotReady",
    "NodeNotReady", "OOMKilling", "ProvisioningFailed", "Rebooted", "SystemOOM",
    "BackoffLimitExceeded", "DeadlineExceeded", "ErrImageNeverPull", "ImageGCFailed",
))  # fmt: skip
"""Reasons of warnings that say that something does not work."""


def count(it: KubernetesEvent) -> int:
    """How often it happened so far."""
    if it.series is not None:
        return max(1, it.series.count)
    return max(1, it.deprecated_count)


def newest(it: KubernetesEvent) -> int | None:
    """When it happened last, in microseconds since the epoch."""
    times = (
        it.series.last_observed_time if it.series is not None else "",
        it.deprecated_last_timestamp,
        it.event_time,
        it.deprecated_first_timestamp,
        it.metadata.creation_timestamp,
    )
    return next((found for written in times if (found := moment(written)) is not None), None)


def oldest(it: KubernetesEvent) -> int | None:
    """When it happened first, in microseconds since the epoch."""
    times = (it.deprecated_first_timestamp, it.event_time, it.metadata.creation_timestamp)
    return next((found for written in times if (found := moment(written)) is not None), None)


def severity(it: KubernetesEvent) -> Severity:
    """Of the type and, for a warning, the reason."""
    if it.type != "Warning":
        return Severity.INFO
    return Severity.ERROR if it.reason in SERIOUS else Severity.WARN


def told(it: KubernetesEvent, *, subject: str, correlation: str, source: str) -> Event:
    """Our event of a count of a series."""
    reason = NOT_A_NAME.sub("_", it.reason)[:128] or "unnamed"
    often, last = count(it), newest(it)
    data = {
        "reason": it.reason,
        "message": it.note[:LONGEST_NOTE],
        "count": often,
        "first": oldest(it),
        "last": last,
        "series": it.metadata.uid,
        "kind": it.regarding.kind,
        "name": it.regarding.name,
        "namespace": it.regarding.namespace or it.metadata.namespace,
        "action": it.action,
        "reporter": it.reporting_controller or it.deprecated_source.component,
        "node": it.deprecated_source.host,
    }
    return Event(
        id=f"{it.metadata.uid}/{often}",
        source=source,
        type=f"kubernetes.event.{reason}",
        subject=subject,
        time=last if last is not None else now(),
        severity=severity(it),
        correlation=correlation or None,
        data={name: value for name, value in data.items() if value not in (None, "")},
    )
