"""How the custom resources of KubeRay become resources and events."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.sdk import now
from almenara.signals import Event, Resource, Severity, Signal, parse_time
from almenara.units import SECOND
from almenara_kube.objects import Condition, KubernetesObject
from almenara_ray.kinds import RAY_CLUSTER, RAY_JOB, RAY_SERVICE, correlation_id
from almenara_ray.kuberay_models import RayCluster, RayJob, RayService
from almenara_ray.redaction import redact
from almenara_ray.text import clean_text, find_error, keep_end

TEXT_LIMIT: Final = 2_000
REASON_LIMIT: Final = 1_000
SEVERITIES: Final[Mapping[str, Severity]] = {
    "Failed": Severity.ERROR,
    "FAILED": Severity.ERROR,
    "failed": Severity.ERROR,
    "ValidationFailed": Severity.ERROR,
    "unhealthy": Severity.ERROR,
    "Retrying": Severity.WARN,
    "Suspended": Severity.WARN,
    "suspended": Severity.WARN,
}
"""Severity of a status of any of the kinds; INFO for any other."""


def cluster_name(namespace: str, raycluster: str) -> str:
    """Return the name in Almenara of the Ray cluster of a RayCluster."""
    return f"{namespace}.{raycluster}"


def parse_optional_time(text: str) -> int | None:
    """Return microseconds since the epoch; None where the text is not a time."""
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None


def job_signals(job: RayJob, source: str, snapshot: Mapping[str, Any] | None) -> list[Signal]:
    """Return the resource of a RayJob, and the event of its current phase.

    The event has the same id each time the job is seen in the same phase of the same attempt.
    `snapshot` is that of its cluster, which the event of an end stores.
    """
    status, metadata = job.status, job.metadata
    phase, severity = job.phase, SEVERITIES.get(job.phase, Severity.INFO)
    cluster = cluster_name(metadata.namespace, status.ray_cluster_name)
    state = _job_state(job, cluster)
    event = Event(
        id=f"{metadata.uid}/{status.failed}/{status.ray_cluster_name}/{phase}",
        source=source,
        origin=source,
        type=f"{RAY_JOB}.{phase.lower()}",
        subject=metadata.name,
        time=_event_time(job) or now(),
        severity=severity,
        correlation=correlation_id(cluster, status.job_id) if status.job_id else None,
        data={**state, **({"snapshot": snapshot} if job.has_ended and snapshot else {})},
    )
    resource = Resource(
        kind=RAY_JOB, namespace=metadata.namespace, name=metadata.name, status=phase,
        severity=severity, state=state,
    )  # fmt: skip
    return [resource, event]


def _job_state(job: RayJob, cluster: str) -> dict[str, Any]:
    status, metadata = job.status, job.metadata
    started, ended = parse_optional_time(status.start_time), parse_optional_time(status.end_time)
    message = redact(clean_text(status.message))
    reason = ": ".join(part for part in (status.reason, find_error(message) or message) if part)
    state: dict[str, Any] = {
        "id": status.job_id,
        "cluster": cluster,
        "rayjob": f"{metadata.namespace}/{metadata.name}",
        "status": status.job_status or job.phase,
        "deployment": status.job_deployment_status,
        "entrypoint": redact(job.spec.entrypoint[:TEXT_LIMIT]),
        "submitted": started or parse_optional_time(metadata.creation_timestamp) or 0,
        "ended": ended,
        "succeeded": status.succeeded,
        "failed": status.failed,
        "retries": job.spec.backoff_limit,
    }
    if started and ended:
        state["seconds"] = max(ended - started, 0) / SECOND
    if reason:
        state["reason"] = keep_end(reason, TEXT_LIMIT)
    return state


def _event_time(job: RayJob) -> int | None:
    if job.has_ended:
        return parse_optional_time(job.status.end_time)
    return parse_optional_time(job.status.start_time) if job.phase == "Initializing" else None


def cluster_signals(cluster: RayCluster) -> list[Signal]:
    """Return the resource of a RayCluster."""
    status, metadata = cluster.status, cluster.metadata
    head_ready = _find_condition(status.conditions, "HeadPodReady")
    word = status.state or (head_ready.reason if head_ready is not None else "")
    # KubeRay deprecates `state` and its reason in favour of the conditions.
    failure = _find_condition(status.conditions, "ReplicaFailure")
    failed = failure is not None and failure.status == "True"
    reason = status.reason or (failure.message if failure is not None and failed else "")
    return [
        Resource(
            kind=RAY_CLUSTER, namespace=metadata.namespace, name=metadata.name,
            status=word or "starting",
            severity=SEVERITIES.get(word, Severity.WARN if failed else Severity.INFO),
            state={
                "cluster": cluster_name(metadata.namespace, metadata.name),
                "desired": status.desired_worker_replicas,
                "available": status.available_worker_replicas,
                "head": status.head.pod_name,
                "reason": keep_end(redact(clean_text(reason)), REASON_LIMIT),
                "created": parse_optional_time(metadata.creation_timestamp),
                "conditions": {
                    condition.type: condition.status for condition in status.conditions
                },
            },
        )
    ]  # fmt: skip


def service_signals(service: RayService) -> list[Signal]:
    """Return the resource of a RayService."""
    status, metadata = service.status, service.metadata
    ready = _find_condition(status.conditions, "Ready")
    is_ready = ready is not None and ready.status == "True"
    reason = ready.message if ready is not None and ready.status == "False" else ""
    is_unready = ready is not None and ready.status == "False"
    return [
        Resource(
            kind=RAY_SERVICE, namespace=metadata.namespace, name=metadata.name,
            status=status.service_status or ("Running" if is_ready else "starting"),
            severity=Severity.WARN if is_unready else Severity.INFO,
            state={
                "endpoints": status.num_serve_endpoints,
                "reason": keep_end(redact(clean_text(reason)), REASON_LIMIT),
            },
        )
    ]  # fmt: skip


def deletion_signals(item: KubernetesObject, kind: str) -> list[Signal]:
    """Return the deletion of an object's resource."""
    return [
        Resource(
            kind=kind, namespace=item.metadata.namespace, name=item.metadata.name, deleted=True
        )
    ]


def _find_condition(conditions: Sequence[Condition], kind: str) -> Condition | None:
    return next((condition for condition in conditions if condition.type == kind), None)
