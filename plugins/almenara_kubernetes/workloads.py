"""Workloads as resources: how many are wanted, how many serve, and how far a rollout is.

The rules for a rollout are those of `kubectl rollout status`
(staging/src/k8s.io/kubectl/pkg/polymorphichelpers/rollout_status.go of kubernetes/kubernetes).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from almenara.signals import Severity
from almenara_kube.objects import Condition
from almenara_kubernetes.objects import CronJob, Job, Workload
from almenara_kubernetes.pods import conditions, requested, version
from almenara_kubernetes.quantities import moment

Read = tuple[str, Severity, dict[str, Any]]
"""The status, its severity and the state of a resource."""

COMPLETE: Final = "complete"
PROGRESSING: Final = "progressing"
STALLED: Final = "stalled"
PAUSED: Final = "paused"
ROLLOUT_OF: Final = "rollout_of"
"""In the state of a workload: its generation when the rollout began that is under way, or that has
just finished; absent otherwise. While its number is changed, it does not look rolled out either."""
REVISION: Final = "deployment.kubernetes.io/revision"
TEMPLATE_GENERATION: Final = "deprecated.daemonset.template.generation"


def _condition(found: list[Condition], kind: str) -> Condition | None:
    return next((it for it in found if it.type == kind), None)


def _is_true(found: list[Condition], kind: str) -> bool:
    it = _condition(found, kind)
    return it is not None and it.status == "True"


def _worry(rollout: str, desired: int, available: int) -> tuple[str, Severity]:
    """What a set of pods is called that should have so many and has so many available."""
    if rollout == STALLED:
        return "Stalled", Severity.ERROR
    if rollout == PROGRESSING:
        return "Progressing", Severity.WARN
    if desired == 0:
        return "Scaled to 0", Severity.DEBUG
    if available >= desired:
        return ("Paused", Severity.WARN) if rollout == PAUSED else ("Available", Severity.INFO)
    return ("Unavailable", Severity.ERROR) if available <= 0 else ("Degraded", Severity.WARN)


def _of_workload(
    it: Workload, *, desired: int, updated: int, ready: int, available: int, current: int,
    rollout: str, revision: str, message: str = "",
) -> Read:  # fmt: skip
    text, severity = _worry(rollout, desired, available)
    spec = it.spec.template.spec
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
        "version": version(image, it.metadata.labels),
        "images": [one.image for one in spec.containers],
        "strategy": it.spec.strategy.type or it.spec.update_strategy.type,
        "selector": dict(it.spec.selector.match_labels),
        "conditions": conditions(it.status.conditions),
        **{f"each_{name}": amount for name, amount in requested(spec).items()},
    }  # fmt: skip


def deployment(it: Workload) -> Read:
    """A Deployment."""
    status = it.status
    desired = 1 if it.spec.replicas is None else it.spec.replicas
    progress = _condition(status.conditions, "Progressing")
    rolled = (
        status.observed_generation >= it.metadata.generation
        and status.updated_replicas >= desired
        and status.replicas <= status.updated_replicas
    )
    message = ""
    if progress is not None and progress.reason == "ProgressDeadlineExceeded":
        rollout, message = STALLED, progress.message
    elif it.spec.paused:
        rollout = PAUSED
    elif not rolled:
        # A completed rollout stays one while its number is changed.
        scaled = progress is not None and progress.reason == "NewReplicaSetAvailable"
        settled = status.observed_generation >= it.metadata.generation
        rollout = COMPLETE if scaled and settled else PROGRESSING
    elif progress is None or progress.reason == "NewReplicaSetAvailable":
        rollout = COMPLETE
    else:
        rollout = COMPLETE if status.available_replicas >= desired else PROGRESSING
    if not message and (failure := _condition(status.conditions, "ReplicaFailure")) is not None:
        message = failure.message if failure.status == "True" else ""
    return _of_workload(
        it, desired=desired, current=status.replicas, updated=status.updated_replicas,
        ready=status.ready_replicas, available=status.available_replicas, rollout=rollout,
        revision=it.metadata.annotations.get(REVISION, ""), message=message,
    )  # fmt: skip


def stateful_set(it: Workload) -> Read:
    """A StatefulSet."""
    status = it.status
    desired = 1 if it.spec.replicas is None else it.spec.replicas
    partition = it.spec.update_strategy.rolling_update.partition
    waits = it.spec.update_strategy.type != "OnDelete" and (
        status.updated_replicas < desired - partition
        if partition
        else status.update_revision != status.current_revision
    )
    rolled = status.observed_generation >= it.metadata.generation and not waits
    return _of_workload(
        it, desired=desired, current=status.replicas, updated=status.updated_replicas,
        ready=status.ready_replicas, available=status.available_replicas,
        rollout=COMPLETE if rolled else PROGRESSING,
        revision=status.update_revision.rpartition("-")[2],
    )  # fmt: skip


def daemon_set(it: Workload) -> Read:
    """A DaemonSet; it wants as many as there are nodes for it."""
    status = it.status
    desired = status.desired_number_scheduled
    on_delete = it.spec.update_strategy.type == "OnDelete"
    rolled = status.observed_generation >= it.metadata.generation and (
        on_delete or status.updated_number_scheduled >= desired
    )
    return _of_workload(
        it, desired=desired, current=desired, updated=status.updated_number_scheduled,
        ready=status.number_ready, available=status.number_available,
        rollout=COMPLETE if rolled else PROGRESSING,
        revision=it.metadata.annotations.get(TEMPLATE_GENERATION, ""),
    )  # fmt: skip


def replica_set(it: Workload) -> Read:
    """A ReplicaSet that no Deployment owns."""
    desired = 1 if it.spec.replicas is None else it.spec.replicas
    status = it.status
    return _of_workload(
        it, desired=desired, current=status.replicas, updated=status.replicas,
        ready=status.ready_replicas, available=status.available_replicas,
        rollout=COMPLETE, revision="",
    )  # fmt: skip


def job(it: Job) -> Read:
    """A Job, with the status that `kubectl get jobs` prints."""
    status, found = it.status, it.status.conditions
    text, severity = "Running", Severity.INFO
    if _is_true(found, "Complete"):
        text, severity = "Complete", Severity.DEBUG
    elif _is_true(found, "Failed"):
        text, severity = "Failed", Severity.ERROR
    elif it.metadata.deletion_timestamp:
        text, severity = "Terminating", Severity.DEBUG
    elif _is_true(found, "Suspended"):
        text, severity = "Suspended", Severity.DEBUG
    elif _is_true(found, "FailureTarget"):
        text, severity = "FailureTarget", Severity.ERROR
    elif _is_true(found, "SuccessCriteriaMet"):
        text, severity = "SuccessCriteriaMet", Severity.DEBUG
    elif status.failed:
        severity = Severity.WARN
    failed = _condition(found, "Failed")
    spec = it.spec.template.spec
    image = spec.containers[0].image if spec.containers else ""
    desired = it.spec.completions
    return text, severity, {
        "desired": desired if desired is not None else it.spec.parallelism or 1,
        "active": status.active,
        "ready": status.ready,
        "succeeded": status.succeeded,
        "failed": status.failed,
        "started": moment(status.start_time),
        "finished": moment(status.completion_time),
        "message": failed.message if failed is not None and failed.status == "True" else "",
        "image": image,
        "version": version(image, it.metadata.labels),
        "conditions": conditions(found),
    }  # fmt: skip


def cron_job(it: CronJob) -> Read:
    """A CronJob."""
    text, severity = "Scheduled", Severity.INFO
    if it.spec.suspend:
        text, severity = "Suspended", Severity.DEBUG
    elif it.status.active:
        text = "Active"
    spec = it.spec.job_template.spec.template.spec
    image = spec.containers[0].image if spec.containers else ""
    return text, severity, {
        "schedule": it.spec.schedule,
        "time_zone": it.spec.time_zone,
        "active": len(it.status.active),
        "last_scheduled": moment(it.status.last_schedule_time),
        "last_succeeded": moment(it.status.last_successful_time),
        "image": image,
        "version": version(image, it.metadata.labels),
    }  # fmt: skip


def rollout_of(
    before: Mapping[str, Any] | None, after: Mapping[str, Any], generation: int
) -> int | None:
    """What `ROLLOUT_OF` is, given the states before and after, the first of the same object."""
    if before is None:
        return None if after["rollout"] == COMPLETE else generation
    if before.get("revision", "") != after["revision"]:
        return generation
    return None if before.get("rollout") == COMPLETE else before.get(ROLLOUT_OF)


READERS: Final[Mapping[str, Callable[[Any], Read]]] = {
    "kubernetes.deployment": deployment,
    "kubernetes.statefulset": stateful_set,
    "kubernetes.daemonset": daemon_set,
    "kubernetes.replicaset": replica_set,
    "kubernetes.job": job,
    "kubernetes.cronjob": cron_job,
}
"""By the kind of the resource."""
