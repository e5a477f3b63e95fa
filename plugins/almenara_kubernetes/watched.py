"""What is watched: the one table behind the watches, the readings and the RBAC rules."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara_kubernetes import objects
from almenara_kubernetes.objects import UNREADABLE, KubernetesObject, Malformed, Metadata

LONGEST_PROBLEM: Final = 300


class CustomColumn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of a custom resource that is shown."""

    title: str
    """Title of the column."""
    path: str
    """Where the value is in the object: `status.phase`, `spec.workers[0].replicas`."""


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of object that is listed and watched."""

    kind: str
    """The kind of its resources: `kubernetes.pod`."""
    group: str
    """The API group; empty for the core."""
    version: str
    plural: str
    """The name in the address and in RBAC rules: `pods`."""
    api_kind: str
    """The kind as owner references and events name it: `Pod`."""
    type: type[KubernetesObject]
    """What of it is decoded."""
    namespaced: bool = True
    optional: bool = False
    """Whether a cluster may be without it, and that is no trouble: a CRD or a newer API."""
    polled: bool = False
    """Whether it can be listed only: the APIs of metrics.k8s.io have no watch."""
    columns: tuple[CustomColumn, ...] = ()
    """Of a custom resource: what of it is shown."""
    status: str = ""
    """Of a custom resource: the path of the word that is its status."""

    @property
    def api_version(self) -> str:
        """As an object has it: `v1`, `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """Where the API serves it, without namespace: `/apis/apps/v1`."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def decode(self, raw: bytes | msgspec.Raw) -> KubernetesObject:
        """The object in these bytes; `Malformed` where they are not one of this kind.

        Raises nothing: what is wrong is in the object.
        """
        try:
            found: KubernetesObject = _decoder(self.type).decode(raw)
        except UNREADABLE as error:
            found = _second_try(self.type, raw, error)
        if not isinstance(found, objects.CustomObject):
            return found
        try:
            return msgspec.structs.replace(found, whole=msgspec.json.decode(raw))
        except UNREADABLE as error:
            return Malformed(metadata=found.metadata, problem=str(error)[:LONGEST_PROBLEM])


@functools.cache
def _decoder(kind: type[KubernetesObject]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, strict=False)


def _second_try(
    kind: type[KubernetesObject], raw: bytes | msgspec.Raw, first: Exception
) -> KubernetesObject:
    """Once more without the nulls, that some clients write for what is absent."""
    try:
        tree = msgspec.json.decode(raw)
        found: KubernetesObject = msgspec.convert(without_nulls(tree), kind, strict=False)
    except UNREADABLE:
        return Malformed(metadata=_metadata(raw), problem=str(first)[:LONGEST_PROBLEM])
    return found


def without_nulls(tree: Any) -> Any:
    """A decoded JSON value without the members that are null, at any depth."""
    if isinstance(tree, dict):
        return {name: without_nulls(it) for name, it in tree.items() if it is not None}
    if isinstance(tree, list):
        return [without_nulls(it) for it in tree if it is not None]
    return tree


def _metadata(raw: bytes | msgspec.Raw) -> Metadata:
    """What can be known of an object that is wrong elsewhere."""
    try:
        found = msgspec.json.decode(raw)
        written = found.get("metadata") if isinstance(found, dict) else None
    except UNREADABLE:
        return Metadata()
    if not isinstance(written, dict):
        return Metadata()
    texts = {
        name: written[key]
        for name, key in (
            ("name", "name"),
            ("namespace", "namespace"),
            ("uid", "uid"),
            ("resource_version", "resourceVersion"),
        )
        if isinstance(written.get(key), str)
    }
    return Metadata(**texts)


def _watched(
    kind: str,
    api_version: str,
    plural: str,
    type: type[KubernetesObject],  # noqa: A002
    api_kind: str = "",
    **more: Any,
) -> Watched:
    group, _, version = api_version.rpartition("/")
    return Watched(
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

WATCHED: Final[Sequence[Watched]] = (
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

MEASURED: Final[Sequence[Watched]] = (NODE_METRICS, POD_METRICS)
"""What is asked for the use of CPU and memory, where metrics.k8s.io is served."""

BY_KIND: Final[Mapping[str, Watched]] = {it.kind: it for it in WATCHED}

READABLE: Final[Mapping[str, Watched]] = {
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
) -> Watched:
    """A custom resource that the configuration names; its resources are of the kind
    `kubernetes.custom.<plural>.<group>`."""
    return Watched(
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
