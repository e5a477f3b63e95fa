"""How the custom resources of KubeRay become resources and events."""

from collections.abc import Mapping
from typing import Any, Final

from almenara.sdk import now
from almenara.signals import Event, Resource, Severity, Signal, parse_time
from almenara.units import SECOND
from almenara_kube.objects import KubernetesObject, Metadata
from almenara_ray.kinds import RAY_CLUSTER, RAY_CRON_JOB, RAY_JOB, RAY_SERVICE, correlation_id
from almenara_ray.kuberay_models import RayCluster, RayCronJob, RayJob, RayService
from almenara_ray.kuberay_phases import (
    Phase,
    PhaseLog,
    cluster_phase,
    cron_job_phase,
    job_phase,
    phase_key,
    service_phase,
)
from almenara_ray.redaction import redact
from almenara_ray.text import clean_text, find_error, keep_end

TEXT_LIMIT: Final = 2_000
REASON_LIMIT: Final = 1_000


def cluster_name(namespace: str, raycluster: str) -> str:
    """Return the name in Almenara of the Ray cluster of a RayCluster."""
    return f"{namespace}.{raycluster}"


def parse_optional_time(text: str) -> int | None:
    """Return microseconds since the epoch; None where the text is not a time."""
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None


def job_signals(
    job: RayJob, source: str, phases: PhaseLog, snapshot: Mapping[str, Any] | None
) -> list[Signal]:
    """Return the resource of a RayJob, and an event where its phase is new.

    `snapshot` is that of its cluster, which the event of an end stores.
    """
    status, metadata, phase = job.status, job.metadata, job_phase(job)
    cluster = cluster_name(metadata.namespace, status.ray_cluster_name)
    state = _job_state(job, phase, cluster)
    resource = _make_resource(RAY_JOB, metadata, phase, state)
    count = phases.enter(phase_key(RAY_JOB, metadata), _phase_name(job, phase))
    if not count:
        return [resource]
    occurrence = f"/{count}" if count > 1 else ""
    event = Event(
        id=f"{metadata.uid}/{status.failed}/{status.ray_cluster_name}/{phase.name}{occurrence}",
        source=source,
        origin=source,
        type=f"{RAY_JOB}.{phase.event}",
        subject=metadata.name,
        time=_event_time(job, phase) or now(),
        severity=phase.severity,
        correlation=correlation_id(cluster, status.job_id) if status.job_id else None,
        data={**state, **({"snapshot": snapshot} if job.has_ended and snapshot else {})},
    )
    return [resource, event]


def is_new_end(job: RayJob, phases: PhaseLog) -> bool:
    """Return whether a RayJob has ended, in a phase that has not been published."""
    name = _phase_name(job, job_phase(job))
    return job.has_ended and phases.previous(phase_key(RAY_JOB, job.metadata)) != name


def _phase_name(job: RayJob, phase: Phase) -> str:
    # Each retry has a cluster of its own, in which it enters each phase again.
    return f"{job.status.ray_cluster_name}/{phase.event}"


def _job_state(job: RayJob, phase: Phase, cluster: str) -> dict[str, Any]:
    status, metadata = job.status, job.metadata
    started, ended = parse_optional_time(status.start_time), parse_optional_time(status.end_time)
    message = redact(clean_text(status.message))
    reason = ": ".join(part for part in (status.reason, find_error(message) or message) if part)
    state: dict[str, Any] = {
        "id": status.job_id,
        "cluster": cluster,
        "rayjob": f"{metadata.namespace}/{metadata.name}",
        "status": status.job_status or phase.name,
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


def _event_time(job: RayJob, phase: Phase) -> int | None:
    if job.has_ended:
        return parse_optional_time(job.status.end_time)
    return parse_optional_time(job.status.start_time) if phase.name == "Initializing" else None


def cluster_signals(cluster: RayCluster, source: str, phases: PhaseLog) -> list[Signal]:
    """Return the resource of a RayCluster, and an event where its phase is new."""
    status, metadata, phase = cluster.status, cluster.metadata, cluster_phase(cluster)
    state = {
        "cluster": cluster_name(metadata.namespace, metadata.name),
        "desired": status.desired_worker_replicas,
        "available": status.available_worker_replicas,
        "head": status.head.pod_name,
        "reason": _clean_reason(phase.reason),
        "created": parse_optional_time(metadata.creation_timestamp),
        "conditions": {condition.type: condition.status for condition in status.conditions},
    }
    return _make_signals(RAY_CLUSTER, metadata, phase, state, source, phases)


def service_signals(service: RayService, source: str, phases: PhaseLog) -> list[Signal]:
    """Return the resource of a RayService, and an event where its phase is new."""
    status, metadata = service.status, service.metadata
    phase = service_phase(service, phases.previous(phase_key(RAY_SERVICE, metadata)))
    active, pending = status.active_service_status, status.pending_service_status
    state = {
        "endpoints": status.num_serve_endpoints,
        "reason": _clean_reason(phase.reason),
        "active_cluster": active.ray_cluster_name,
        "pending_cluster": pending.ray_cluster_name,
        "target_capacity": pending.target_capacity,
        "traffic_percent": pending.traffic_routed_percent,
        "applications": {
            name: application.status for name, application in active.application_statuses.items()
        },
    }
    return _make_signals(RAY_SERVICE, metadata, phase, state, source, phases)


def cron_job_signals(cron_job: RayCronJob, source: str, phases: PhaseLog) -> list[Signal]:
    """Return the resource of a RayCronJob, and an event where it was suspended or resumed."""
    state = {
        "schedule": cron_job.spec.schedule[:TEXT_LIMIT],
        "last_schedule": parse_optional_time(cron_job.status.last_schedule_time),
    }
    phase = cron_job_phase(cron_job)
    return _make_signals(RAY_CRON_JOB, cron_job.metadata, phase, state, source, phases)


def _make_signals(
    kind: str,
    metadata: Metadata,
    phase: Phase,
    state: dict[str, Any],
    source: str,
    phases: PhaseLog,
) -> list[Signal]:
    resource = _make_resource(kind, metadata, phase, state)
    key = phase_key(kind, metadata)
    previous = phases.previous(key)
    count = phases.enter(key, phase.event)
    # That an object exists and is healthy is not an event when it is first seen.
    if not count or (not previous and phase.severity < Severity.WARN):
        return [resource]
    event = Event(
        id=f"{metadata.uid}/{phase.event}/{count}", source=source, origin=source,
        type=f"{kind}.{phase.event}", subject=metadata.name, time=now(), severity=phase.severity,
        data={"object": f"{metadata.namespace}/{metadata.name}", "from": previous, **state},
    )  # fmt: skip
    return [resource, event]


def _make_resource(kind: str, metadata: Metadata, phase: Phase, state: dict[str, Any]) -> Resource:
    return Resource(
        kind=kind, namespace=metadata.namespace, name=metadata.name, status=phase.name,
        severity=phase.severity, state=state,
    )  # fmt: skip


def _clean_reason(reason: str) -> str:
    return keep_end(redact(clean_text(reason)), REASON_LIMIT)


def deletion_signals(item: KubernetesObject, kind: str) -> list[Signal]:
    """Return the deletion of an object's resource."""
    return [
        Resource(
            kind=kind, namespace=item.metadata.namespace, name=item.metadata.name, deleted=True
        )
    ]
