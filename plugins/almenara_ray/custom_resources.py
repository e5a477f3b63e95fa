"""The custom resources of KubeRay: what of them is read, and the signals they become.

Fields as KubeRay publishes them, `ray.io/v1`:
https://github.com/ray-project/kuberay/tree/master/ray-operator/apis/ray/v1
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from almenara.sdk import now
from almenara.signals import Event, Resource, Severity, Signal, parse_time
from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import Condition, KubernetesObject, Part
from almenara_ray.following import correlation
from almenara_ray.masking import masked

RAY_JOB: Final = "ray.rayjob"
RAY_CLUSTER: Final = "ray.raycluster"
RAY_SERVICE: Final = "ray.rayservice"


class Head(Part, frozen=True):
    service_name: str = ""
    pod_name: str = ""


class RayClusterStatus(Part, frozen=True):
    state: str = ""
    reason: str = ""
    desired_worker_replicas: int = 0
    available_worker_replicas: int = 0
    ready_worker_replicas: int = 0
    head: Head = Head()
    conditions: list[Condition] = msgspec.field(default_factory=list)


class RayCluster(KubernetesObject, frozen=True):
    """A Ray cluster that KubeRay keeps."""

    status: RayClusterStatus = RayClusterStatus()

    @property
    def service(self) -> str:
        """The service of its head."""
        return self.status.head.service_name or f"{self.metadata.name}-head-svc"

    @property
    def answers(self) -> bool:
        """Whether its head may answer."""
        return bool(self.status.head.service_name or self.status.state == "ready")


class RayJobSpec(Part, frozen=True):
    entrypoint: str = ""
    backoff_limit: int = 0


class RayJobStatus(Part, frozen=True):
    job_id: str = ""
    ray_cluster_name: str = ""
    job_status: str = ""
    job_deployment_status: str = ""
    reason: str = ""
    message: str = ""
    start_time: str = ""
    end_time: str = ""
    succeeded: int = 0
    failed: int = 0


class RayJob(KubernetesObject, frozen=True):
    """A job that KubeRay runs, often on a cluster of its own."""

    spec: RayJobSpec = RayJobSpec()
    status: RayJobStatus = RayJobStatus()

    @property
    def told(self) -> str:
        """How far it has come, in one word: `Initializing`, `Running`, `SUCCEEDED`, `Failed`."""
        status = self.status
        if status.job_deployment_status == "Complete":
            return status.job_status or "Complete"
        return status.job_deployment_status or "New"

    @property
    def ended(self) -> bool:
        """Whether Ray is done with it."""
        return self.status.job_status in ("SUCCEEDED", "FAILED", "STOPPED") or (
            self.status.job_deployment_status in ("Complete", "Failed", "ValidationFailed")
        )


class RayServiceStatus(Part, frozen=True):
    service_status: str = ""
    num_serve_endpoints: int = 0
    conditions: list[Condition] = msgspec.field(default_factory=list)


class RayService(KubernetesObject, frozen=True):
    """Serve applications that KubeRay keeps up."""

    status: RayServiceStatus = RayServiceStatus()


def _watched(kind: str, plural: str, api_kind: str, of: type[KubernetesObject]) -> WatchedKind:
    return WatchedKind(
        kind=kind, group="ray.io", version="v1", plural=plural, api_kind=api_kind, type=of,
        optional=True,
    )  # fmt: skip


WATCHED: Final = (
    _watched(RAY_CLUSTER, "rayclusters", "RayCluster", RayCluster),
    _watched(RAY_JOB, "rayjobs", "RayJob", RayJob),
    _watched(RAY_SERVICE, "rayservices", "RayService", RayService),
)
WORSE: Final[Mapping[str, Severity]] = {
    "Failed": Severity.ERROR, "FAILED": Severity.ERROR, "failed": Severity.ERROR,
    "ValidationFailed": Severity.ERROR,
    "unhealthy": Severity.ERROR, "Retrying": Severity.WARN, "Suspended": Severity.WARN,
    "suspended": Severity.WARN,
}  # fmt: skip


def followed_name(namespace: str, cluster: str) -> str:
    """What the Ray cluster of a RayCluster is called here."""
    return f"{namespace}.{cluster}"


def moment(text: str) -> int | None:
    """Microseconds since the epoch; None for what is no time."""
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None


def job_signals(it: RayJob, source: str, shape: Mapping[str, Any] | None) -> list[Signal]:
    """A RayJob as it stands, and the event of its having come there.

    The event has the same id whenever the same standing is seen.
    """
    status, meta = it.status, it.metadata
    begun, ended = moment(status.start_time), moment(status.end_time)
    cluster = followed_name(meta.namespace, status.ray_cluster_name)
    reason = masked(": ".join(part for part in (status.reason, status.message) if part))[:2000]
    severity = WORSE.get(it.told, Severity.INFO)
    state: dict[str, Any] = {
        "id": status.job_id,
        "cluster": cluster,
        "rayjob": f"{meta.namespace}/{meta.name}",
        "status": status.job_status or it.told,
        "deployment": status.job_deployment_status,
        "entrypoint": masked(it.spec.entrypoint[:2000]),
        "submitted": begun or moment(meta.creation_timestamp) or 0,
        "ended": ended,
        "succeeded": status.succeeded,
        "failed": status.failed,
        "retries": it.spec.backoff_limit,
    }
    if begun and ended:
        state["seconds"] = max(ended - begun, 0) / 1_000_000
    if reason:
        state["reason"] = reason
    event = Event(
        id=f"{meta.uid}/{status.failed}/{status.ray_cluster_name}/{it.told}",
        source=source,
        origin=source,
        type=f"{RAY_JOB}.{it.told.lower()}",
        subject=meta.name,
        time=(ended if it.ended else begun if it.told == "Initializing" else None) or now(),
        severity=severity,
        correlation=correlation(cluster, status.job_id) if status.job_id else None,
        data={**state, **({"shape": shape} if it.ended and shape else {})},
    )
    resource = Resource(
        kind=RAY_JOB, namespace=meta.namespace, name=meta.name, status=it.told,
        severity=severity, state=state,
    )  # fmt: skip
    return [resource, event]


def cluster_signals(it: RayCluster) -> list[Signal]:
    """A RayCluster as it stands."""
    status, meta = it.status, it.metadata
    word = status.state or next(
        (one.reason for one in status.conditions if one.type == "HeadPodReady"), ""
    )
    # `state` and its reason are on their way out; the conditions stay.
    failing = next((one for one in status.conditions if one.type == "ReplicaFailure"), None)
    failure = failing.message if failing is not None and failing.status == "True" else ""
    severity = WORSE.get(word, Severity.WARN if failure else Severity.INFO)
    return [
        Resource(
            kind=RAY_CLUSTER, namespace=meta.namespace, name=meta.name, status=word or "starting",
            severity=severity,
            state={
                "cluster": followed_name(meta.namespace, meta.name),
                "desired": status.desired_worker_replicas,
                "available": status.available_worker_replicas,
                "head": status.head.pod_name,
                "reason": masked((status.reason or failure)[:1000]),
                "created": moment(meta.creation_timestamp),
                "conditions": {one.type: one.status for one in status.conditions},
            },
        )
    ]  # fmt: skip


def service_signals(it: RayService) -> list[Signal]:
    """A RayService as it stands."""
    status, meta = it.status, it.metadata
    ready = next((one for one in status.conditions if one.type == "Ready"), None)
    word = status.service_status or ("Running" if ready and ready.status == "True" else "starting")
    unready = ready is not None and ready.status == "False"
    return [
        Resource(
            kind=RAY_SERVICE, namespace=meta.namespace, name=meta.name, status=word,
            severity=Severity.WARN if unready else Severity.INFO,
            state={
                "endpoints": status.num_serve_endpoints,
                "reason": masked(ready.message[:1000]) if ready and unready else "",
            },
        )
    ]  # fmt: skip


def gone(it: KubernetesObject, kind: str) -> list[Signal]:
    """What is told of an object that is no more."""
    return [
        Resource(kind=kind, namespace=it.metadata.namespace, name=it.metadata.name, deleted=True)
    ]
