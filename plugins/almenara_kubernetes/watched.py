"""What is watched: the one table behind the watches, the readings and the RBAC rules."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara_kube.kinds import LONGEST_PROBLEM, WatchedKind
from almenara_kube.objects import DECODE_ERRORS, KubernetesObject, Malformed
from almenara_kubernetes import objects


class CustomColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of a custom resource that is shown."""

    title: str
    """Title of the column."""
    path: str
    """Where the value is in the object: `status.phase`, `spec.workers[0].replicas`."""


class CustomKind(WatchedKind, frozen=True, kw_only=True):
    """A kind of custom resource that the configuration names."""

    columns: tuple[CustomColumn, ...] = ()
    """The values that are displayed."""
    status: str = ""
    """The path of the value that is its status."""

    def decode(self, raw: bytes | msgspec.Raw) -> KubernetesObject:
        """Decode an object and keep it whole: columns may point anywhere."""
        decoded = super().decode(raw)
        if not isinstance(decoded, objects.CustomObject):
            return decoded
        try:
            return msgspec.structs.replace(decoded, whole=msgspec.json.decode(raw))
        except DECODE_ERRORS as error:
            return Malformed(metadata=decoded.metadata, problem=str(error)[:LONGEST_PROBLEM])


def _watched(
    kind: str,
    api_version: str,
    plural: str,
    type: type[KubernetesObject],  # noqa: A002
    api_kind: str = "",
    **more: Any,
) -> WatchedKind:
    group, _, version = api_version.rpartition("/")
    return WatchedKind(
        kind=f"kubernetes.{kind}",
        group=group,
        version=version,
        plural=plural,
        type=type,
        api_kind=api_kind or type.__name__,
        **more,
    )


PODS: Final = _watched("pod", "v1", "pods", objects.Pod)
REPLICA_SETS: Final = _watched(
    "replicaset", "apps/v1", "replicasets", objects.Workload, "ReplicaSet"
)
DEPLOYMENTS: Final = _watched(
    "deployment", "apps/v1", "deployments", objects.Workload, "Deployment"
)
STATEFUL_SETS: Final = _watched(
    "statefulset", "apps/v1", "statefulsets", objects.Workload, "StatefulSet"
)
DAEMON_SETS: Final = _watched("daemonset", "apps/v1", "daemonsets", objects.Workload, "DaemonSet")
JOBS: Final = _watched("job", "batch/v1", "jobs", objects.Job)
CRON_JOBS: Final = _watched("cronjob", "batch/v1", "cronjobs", objects.CronJob)
NODES: Final = _watched("node", "v1", "nodes", objects.Node, namespaced=False)
SERVICES: Final = _watched("service", "v1", "services", objects.Service)
ENDPOINT_SLICES: Final = _watched(
    "endpointslice", "discovery.k8s.io/v1", "endpointslices", objects.EndpointSlice
)
INGRESSES: Final = _watched("ingress", "networking.k8s.io/v1", "ingresses", objects.Ingress)
CLAIMS: Final = _watched(
    "persistentvolumeclaim", "v1", "persistentvolumeclaims", objects.PersistentVolumeClaim
)
AUTOSCALERS: Final = _watched(
    "horizontalpodautoscaler", "autoscaling/v2", "horizontalpodautoscalers",
    objects.Autoscaler, "HorizontalPodAutoscaler",
)  # fmt: skip
CERTIFICATES: Final = _watched(
    "certificate", "cert-manager.io/v1", "certificates", objects.Certificate, optional=True
)
EVENTS: Final = _watched(
    "event", "events.k8s.io/v1", "events", objects.KubernetesEvent, "Event"
)  # fmt: skip

WATCHED: Final[Sequence[WatchedKind]] = (
    # Owners before pods, so that a pod is first told with the workload it belongs to.
    REPLICA_SETS, DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, CRON_JOBS, JOBS, NODES, PODS,
    SERVICES, ENDPOINT_SLICES, INGRESSES, CLAIMS, AUTOSCALERS, CERTIFICATES, EVENTS,
)  # fmt: skip
"""What is watched of every cluster unless the configuration leaves it out."""

POD_METRICS: Final = _watched(
    "pod", "metrics.k8s.io/v1beta1", "pods", objects.PodMetrics, optional=True, polled=True
)
NODE_METRICS: Final = _watched(
    "node", "metrics.k8s.io/v1beta1", "nodes", objects.NodeMetrics,
    namespaced=False, optional=True, polled=True,
)  # fmt: skip

MEASURED: Final[Sequence[WatchedKind]] = (NODE_METRICS, POD_METRICS)
"""What is asked for the use of CPU and memory, where metrics.k8s.io is served."""

BY_KIND: Final[Mapping[str, WatchedKind]] = {it.kind: it for it in WATCHED}

READABLE: Final[Mapping[str, WatchedKind]] = {
    it.api_kind: it
    for it in (PODS, DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, REPLICA_SETS, JOBS, CRON_JOBS)
}
"""What can be read as YAML, by its kind as the API names it."""


def custom(
    *,
    group: str,
    version: str,
    plural: str,
    kind: str,
    namespaced: bool = True,
    columns: Sequence[CustomColumn] = (),
    status: str = "",
) -> CustomKind:
    """A custom resource that the configuration names; its resources are of the kind
    `kubernetes.custom.<plural>.<group>`."""
    return CustomKind(
        kind=f"kubernetes.custom.{plural}.{group}",
        group=group,
        version=version,
        plural=plural,
        api_kind=kind,
        type=objects.CustomObject,
        namespaced=namespaced,
        optional=True,
        columns=tuple(columns),
        status=status,
    )
