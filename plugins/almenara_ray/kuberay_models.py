"""The custom resources of KubeRay, with the fields that are read of them.

Fields of `ray.io/v1`:
https://github.com/ray-project/kuberay/tree/master/ray-operator/apis/ray/v1
"""

from typing import Final

import msgspec

from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import Condition, KubernetesObject, Part
from almenara_ray.kinds import RAY_CLUSTER, RAY_CRON_JOB, RAY_JOB, RAY_SERVICE

SUSPENSIONS: Final = frozenset((("RayClusterSuspending", "True"), ("RayClusterSuspended", "True")))
"""Types and statuses of the conditions of a RayCluster without a head."""


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


class AuthOptions(Part, frozen=True):
    mode: str = ""
    secret_name: str = ""
    enable_k8s_token_auth: bool = False


class RayClusterSpec(Part, frozen=True):
    auth_options: AuthOptions = AuthOptions()
    suspend: bool = False


class RayCluster(KubernetesObject, frozen=True):
    """A Ray cluster that KubeRay manages."""

    spec: RayClusterSpec = RayClusterSpec()
    status: RayClusterStatus = RayClusterStatus()

    @property
    def token_secret(self) -> str:
        """The name of the Secret with the token that its dashboard requires; empty where it
        requires none of its own."""
        options = self.spec.auth_options
        if options.mode != "token" or options.enable_k8s_token_auth:
            return ""
        return options.secret_name or self.metadata.name

    @property
    def head_service(self) -> str:
        """The name of its head's service."""
        return self.status.head.service_name or f"{self.metadata.name}-head-svc"

    @property
    def is_suspended(self) -> bool:
        """Whether it is suspended, as by Kueue, or about to be: its pods are deleted."""
        return (
            self.spec.suspend
            or self.status.state == "suspended"
            or any((each.type, each.status) in SUSPENSIONS for each in self.status.conditions)
        )

    @property
    def may_answer(self) -> bool:
        """Whether its head may answer already. While it is suspended, the service of its head
        exists, and no head."""
        return not self.is_suspended and bool(
            self.status.head.service_name or self.status.state == "ready"
        )


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
    """A job that KubeRay runs, usually on a cluster of its own."""

    spec: RayJobSpec = RayJobSpec()
    status: RayJobStatus = RayJobStatus()

    @property
    def has_ended(self) -> bool:
        """Whether it will not run any further."""
        return self.status.job_status in ("SUCCEEDED", "FAILED", "STOPPED") or (
            self.status.job_deployment_status in ("Complete", "Failed", "ValidationFailed")
        )


class ApplicationStatus(Part, frozen=True):
    """A Serve application, as KubeRay reports it."""

    status: str = ""
    message: str = ""


class ServiceStatus(Part, frozen=True):
    """One of the two RayClusters of a RayService: the active or, in an upgrade, the pending one."""

    ray_cluster_name: str = ""
    application_statuses: dict[str, ApplicationStatus] = msgspec.field(default_factory=dict)
    target_capacity: int | None = None
    traffic_routed_percent: int | None = None


class RayServiceStatus(Part, frozen=True):
    service_status: str = ""
    num_serve_endpoints: int = 0
    active_service_status: ServiceStatus = ServiceStatus()
    pending_service_status: ServiceStatus = ServiceStatus()
    conditions: list[Condition] = msgspec.field(default_factory=list)


class RayService(KubernetesObject, frozen=True):
    """Serve applications that KubeRay runs and upgrades."""

    status: RayServiceStatus = RayServiceStatus()


class RayCronJobSpec(Part, frozen=True):
    schedule: str = ""
    suspend: bool = False


class RayCronJobStatus(Part, frozen=True):
    last_schedule_time: str = ""


class RayCronJob(KubernetesObject, frozen=True):
    """A schedule by which KubeRay creates RayJobs."""

    spec: RayCronJobSpec = RayCronJobSpec()
    status: RayCronJobStatus = RayCronJobStatus()


def _watched(kind: str, plural: str, api_kind: str, model: type[KubernetesObject]) -> WatchedKind:
    return WatchedKind(
        kind=kind, group="ray.io", version="v1", plural=plural, api_kind=api_kind, type=model,
        optional=True,
    )  # fmt: skip


WATCHED: Final = (
    _watched(RAY_CLUSTER, "rayclusters", "RayCluster", RayCluster),
    _watched(RAY_JOB, "rayjobs", "RayJob", RayJob),
    _watched(RAY_SERVICE, "rayservices", "RayService", RayService),
    _watched(RAY_CRON_JOB, "raycronjobs", "RayCronJob", RayCronJob),
)
