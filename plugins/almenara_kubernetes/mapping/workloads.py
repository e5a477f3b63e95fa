"""Workloads as resources: how many replicas are desired and available, and how far a rollout is.

The rules of a rollout are those of `kubectl rollout status`
(staging/src/k8s.io/kubectl/pkg/polymorphichelpers/rollout_status.go of kubernetes/kubernetes).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from almenara.signals import Severity
from almenara_kubernetes.mapping import Mapped
from almenara_kubernetes.mapping.conditions import find_condition, is_true, map_conditions
from almenara_kubernetes.mapping.pod_resources import sum_resources
from almenara_kubernetes.mapping.pods import image_version
from almenara_kubernetes.models import CronJob, Job, Workload
from almenara_kubernetes.quantities import parse_timestamp

COMPLETE: Final = "complete"
PROGRESSING: Final = "progressing"
STALLED: Final = "stalled"
PAUSED: Final = "paused"
ROLLOUT_OF: Final = "rollout_of"
"""In the state of a workload: its generation when the rollout started that is under way, or that
has just finished; absent otherwise. It tells a rollout from a change of the number of replicas,
during which a workload is not fully updated either."""
REVISION: Final = "deployment.kubernetes.io/revision"
TEMPLATE_GENERATION: Final = "deprecated.daemonset.template.generation"


def _status(rollout: str, desired: int, available: int) -> tuple[str, Severity]:
    if rollout == STALLED:
        return "Stalled", Severity.ERROR
    if rollout == PROGRESSING:
        return "Progressing", Severity.WARN
    if desired == 0:
        return "Scaled to 0", Severity.DEBUG
    if available >= desired:
        return ("Paused", Severity.WARN) if rollout == PAUSED else ("Available", Severity.INFO)
    return ("Unavailable", Severity.ERROR) if available <= 0 else ("Degraded", Severity.WARN)


def _map_workload(
    workload: Workload, *, desired: int, updated: int, ready: int, available: int, current: int,
    rollout: str, revision: str, message: str = "",
) -> Mapped:  # fmt: skip
    text, severity = _status(rollout, desired, available)
    spec = workload.spec.template.spec
    image = spec.containers[0].image if spec.containers else ""
    return text, severity, {
        "desired": desired,
        "current": current,
        "updated": updated,
        "ready": ready,
        "available": available,
        "rollout": rollout,
        "revision": revision,
        "message": message,
        "image": image,
        "version": image_version(image, workload.metadata.labels),
        "images": [container.image for container in spec.containers],
        "strategy": workload.spec.strategy.type or workload.spec.update_strategy.type,
        "selector": dict(workload.spec.selector.match_labels),
        "conditions": map_conditions(workload.status.conditions),
        **{f"each_{name}": amount for name, amount in sum_resources(spec).items()},
    }  # fmt: skip


def map_deployment(workload: Workload) -> Mapped:
    """A Deployment."""
    status = workload.status
    desired = 1 if workload.spec.replicas is None else workload.spec.replicas
    progress = find_condition(status.conditions, "Progressing")
    is_observed = status.observed_generation >= workload.metadata.generation
    is_updated = (
        is_observed
        and status.updated_replicas >= desired
        and status.replicas <= status.updated_replicas
    )
    message = ""
    if progress is not None and progress.reason == "ProgressDeadlineExceeded":
        rollout, message = STALLED, progress.message
    elif workload.spec.paused:
        rollout = PAUSED
    elif not is_updated:
        # A completed rollout stays complete while the number of replicas changes.
        has_completed = progress is not None and progress.reason == "NewReplicaSetAvailable"
        rollout = COMPLETE if has_completed and is_observed else PROGRESSING
    elif progress is None or progress.reason == "NewReplicaSetAvailable":
        rollout = COMPLETE
    else:
        rollout = COMPLETE if status.available_replicas >= desired else PROGRESSING
    failure = find_condition(status.conditions, "ReplicaFailure")
    if not message and failure is not None and failure.status == "True":
        message = failure.message
    return _map_workload(
        workload, desired=desired, current=status.replicas, updated=status.updated_replicas,
        ready=status.ready_replicas, available=status.available_replicas, rollout=rollout,
        revision=workload.metadata.annotations.get(REVISION, ""), message=message,
    )  # fmt: skip


def map_stateful_set(workload: Workload) -> Mapped:
    """A StatefulSet."""
    status = workload.status
    desired = 1 if workload.spec.replicas is None else workload.spec.replicas
    partition = workload.spec.update_strategy.rolling_update.partition
    is_updating = workload.spec.update_strategy.type != "OnDelete" and (
        status.updated_replicas < desired - partition
        if partition
        else status.update_revision != status.current_revision
    )
    is_observed = status.observed_generation >= workload.metadata.generation
    return _map_workload(
        workload, desired=desired, current=status.replicas, updated=status.updated_replicas,
        ready=status.ready_replicas, available=status.available_replicas,
        rollout=COMPLETE if is_observed and not is_updating else PROGRESSING,
        revision=status.update_revision.rpartition("-")[2],
    )  # fmt: skip


def map_daemon_set(workload: Workload) -> Mapped:
    """A DaemonSet, which runs a pod on each node that it selects."""
    status = workload.status
    desired = status.desired_number_scheduled
    is_observed = status.observed_generation >= workload.metadata.generation
    is_updated = (
        workload.spec.update_strategy.type == "OnDelete"
        or status.updated_number_scheduled >= desired
    )
    return _map_workload(
        workload, desired=desired, current=status.current_number_scheduled,
        updated=status.updated_number_scheduled,
        ready=status.number_ready, available=status.number_available,
        rollout=COMPLETE if is_observed and is_updated else PROGRESSING,
        revision=workload.metadata.annotations.get(TEMPLATE_GENERATION, ""),
    )  # fmt: skip


def map_replica_set(workload: Workload) -> Mapped:
    """A ReplicaSet that no Deployment owns."""
    desired = 1 if workload.spec.replicas is None else workload.spec.replicas
    status = workload.status
    return _map_workload(
        workload, desired=desired, current=status.replicas, updated=status.replicas,
        ready=status.ready_replicas, available=status.available_replicas,
        rollout=COMPLETE, revision="",
    )  # fmt: skip


def map_job(job: Job) -> Mapped:
    """A Job, with the status that `kubectl get jobs` prints."""
    status, conditions = job.status, job.status.conditions
    text, severity = "Running", Severity.INFO
    if is_true(conditions, "Complete"):
        text, severity = "Complete", Severity.DEBUG
    elif is_true(conditions, "Failed"):
        text, severity = "Failed", Severity.ERROR
    elif job.metadata.deletion_timestamp:
        text, severity = "Terminating", Severity.DEBUG
    elif is_true(conditions, "Suspended"):
        text, severity = "Suspended", Severity.DEBUG
    elif is_true(conditions, "FailureTarget"):
        text, severity = "FailureTarget", Severity.ERROR
    elif is_true(conditions, "SuccessCriteriaMet"):
        text, severity = "SuccessCriteriaMet", Severity.DEBUG
    elif status.failed:
        severity = Severity.WARN
    failure = find_condition(conditions, "Failed")
    spec = job.spec.template.spec
    image = spec.containers[0].image if spec.containers else ""
    desired = job.spec.completions
    return text, severity, {
        "desired": desired if desired is not None else job.spec.parallelism or 1,
        "active": status.active,
        "ready": status.ready,
        "succeeded": status.succeeded,
        "failed": status.failed,
        "started": parse_timestamp(status.start_time),
        "finished": parse_timestamp(status.completion_time),
        "message": failure.message if failure is not None and failure.status == "True" else "",
        "image": image,
        "version": image_version(image, job.metadata.labels),
        "conditions": map_conditions(conditions),
    }  # fmt: skip


def map_cron_job(cron_job: CronJob) -> Mapped:
    """A CronJob."""
    text, severity = "Scheduled", Severity.INFO
    if cron_job.spec.suspend:
        text, severity = "Suspended", Severity.DEBUG
    elif cron_job.status.active:
        text = "Active"
    spec = cron_job.spec.job_template.spec.template.spec
    image = spec.containers[0].image if spec.containers else ""
    return text, severity, {
        "schedule": cron_job.spec.schedule,
        "time_zone": cron_job.spec.time_zone,
        "active": len(cron_job.status.active),
        "last_scheduled": parse_timestamp(cron_job.status.last_schedule_time),
        "last_succeeded": parse_timestamp(cron_job.status.last_successful_time),
        "image": image,
        "version": image_version(image, cron_job.metadata.labels),
    }  # fmt: skip


def rollout_generation(
    before: Mapping[str, Any] | None, after: Mapping[str, Any], generation: int
) -> int | None:
    """The value of `ROLLOUT_OF`, by the states before and after; `before` is None for an object
    that is new."""
    if before is None:
        return None if after["rollout"] == COMPLETE else generation
    if before.get("revision", "") != after["revision"]:
        return generation
    return None if before.get("rollout") == COMPLETE else before.get(ROLLOUT_OF)


MAPPERS: Final[Mapping[str, Callable[[Any], Mapped]]] = {
    "kubernetes.deployment": map_deployment,
    "kubernetes.statefulset": map_stateful_set,
    "kubernetes.daemonset": map_daemon_set,
    "kubernetes.replicaset": map_replica_set,
    "kubernetes.job": map_job,
    "kubernetes.cronjob": map_cron_job,
}
"""By the kind of the resource."""
