"""The kinds that are watched: one table behind the watches, the mapping and the RBAC rules."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara_kube.kinds import LONGEST_PROBLEM, WatchedKind
from almenara_kube.objects import DECODE_ERRORS, KubernetesObject, Malformed
from almenara_kubernetes import models


class CustomColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of a custom resource that is displayed."""

    title: str
    """Title of the column."""
    path: str
    """Path of the value in the object: `status.phase`, `spec.workers[0].replicas`."""


class CustomKind(WatchedKind, frozen=True, kw_only=True):
    """A kind of custom resource that the configuration names."""

    columns: tuple[CustomColumn, ...] = ()
    """The values that are displayed."""
    status: str = ""
    """The path of the value that is its status."""

    def decode(self, raw: bytes | msgspec.Raw) -> KubernetesObject:
        """Decode an object and keep it whole: columns may point anywhere."""
        decoded = super().decode(raw)
        if not isinstance(decoded, models.CustomObject):
            return decoded
        try:
            return msgspec.structs.replace(decoded, whole=msgspec.json.decode(raw))
        except DECODE_ERRORS as error:
            return Malformed(metadata=decoded.metadata, problem=str(error)[:LONGEST_PROBLEM])


def _kind(
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


PODS: Final = _kind("pod", "v1", "pods", models.Pod)
REPLICA_SETS: Final = _kind("replicaset", "apps/v1", "replicasets", models.Workload, "ReplicaSet")
DEPLOYMENTS: Final = _kind("deployment", "apps/v1", "deployments", models.Workload, "Deployment")
STATEFUL_SETS: Final = _kind(
    "statefulset", "apps/v1", "statefulsets", models.Workload, "StatefulSet"
)
DAEMON_SETS: Final = _kind("daemonset", "apps/v1", "daemonsets", models.Workload, "DaemonSet")
JOBS: Final = _kind("job", "batch/v1", "jobs", models.Job)
CRON_JOBS: Final = _kind("cronjob", "batch/v1", "cronjobs", models.CronJob)
NODES: Final = _kind("node", "v1", "nodes", models.Node, namespaced=False)
SERVICES: Final = _kind("service", "v1", "services", models.Service)
ENDPOINT_SLICES: Final = _kind(
    "endpointslice", "discovery.k8s.io/v1", "endpointslices", models.EndpointSlice
)
INGRESSES: Final = _kind("ingress", "networking.k8s.io/v1", "ingresses", models.Ingress)
CLAIMS: Final = _kind(
    "persistentvolumeclaim", "v1", "persistentvolumeclaims", models.PersistentVolumeClaim
)
AUTOSCALERS: Final = _kind(
    "horizontalpodautoscaler", "autoscaling/v2", "horizontalpodautoscalers",
    models.Autoscaler, "HorizontalPodAutoscaler",
)  # fmt: skip
CERTIFICATES: Final = _kind(
    "certificate", "cert-manager.io/v1", "certificates", models.Certificate, optional=True
)
EVENTS: Final = _kind(
    "event", "events.k8s.io/v1", "events", models.KubernetesEvent, "Event"
)  # fmt: skip

NAMESPACES: Final = WatchedKind(
    kind="kubernetes.namespace", group="", version="v1", plural="namespaces",
    api_kind="Namespace", type=KubernetesObject, namespaced=False,
)  # fmt: skip
"""Watched, by their metadata alone, where a selector chooses namespaces."""

KINDS: Final[Sequence[WatchedKind]] = (
    # Owners before pods, so that a pod is published with its workload at once, and endpoints before
    # services.
    REPLICA_SETS, DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, CRON_JOBS, JOBS, NODES, PODS,
    ENDPOINT_SLICES, SERVICES, INGRESSES, CLAIMS, AUTOSCALERS, CERTIFICATES, EVENTS,
)  # fmt: skip
"""The kinds that are watched in every cluster, unless the configuration selects some."""

POD_METRICS: Final = _kind(
    "pod", "metrics.k8s.io/v1beta1", "pods", models.PodMetrics, optional=True, polled=True
)
NODE_METRICS: Final = _kind(
    "node", "metrics.k8s.io/v1beta1", "nodes", models.NodeMetrics,
    namespaced=False, optional=True, polled=True,
)  # fmt: skip

METRICS: Final[Sequence[WatchedKind]] = (NODE_METRICS, POD_METRICS)
"""The kinds that report the usage of CPU and memory, where metrics.k8s.io is served."""

BY_KIND: Final[Mapping[str, WatchedKind]] = {kind.kind: kind for kind in KINDS}

READABLE: Final[Mapping[str, WatchedKind]] = {
    kind.api_kind: kind
    for kind in (PODS, DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, REPLICA_SETS, JOBS, CRON_JOBS)
}
"""The kinds that can be read as YAML, by their name in the API."""


def custom_kind(
    *,
    group: str,
    version: str,
    plural: str,
    kind: str,
    namespaced: bool = True,
    columns: Sequence[CustomColumn] = (),
    status: str = "",
) -> CustomKind:
    """The kind of a configured custom resource, whose resources have the kind
    `kubernetes.custom.<plural>.<group>`."""
    return CustomKind(
        kind=f"kubernetes.custom.{plural}.{group}",
        group=group,
        version=version,
        plural=plural,
        api_kind=kind,
        type=models.CustomObject,
        namespaced=namespaced,
        optional=True,
        columns=tuple(columns),
        status=status,
    )
