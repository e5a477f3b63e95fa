"""The kinds of objects of the simulated Kubernetes cluster."""

from typing import Any, Final

import msgspec

Tree = dict[str, Any]
"""An object as the API has it."""


class Kind(msgspec.Struct, frozen=True):
    """A kind of object, and where the API serves it."""

    kind: str
    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def path(self) -> str:
        """The path of its API group and version."""
        return f"/{'apis' if '/' in self.api_version else 'api'}/{self.api_version}"


PODS: Final = Kind("Pod", "v1", "pods")
REPLICA_SETS: Final = Kind("ReplicaSet", "apps/v1", "replicasets")
DEPLOYMENTS: Final = Kind("Deployment", "apps/v1", "deployments")
STATEFUL_SETS: Final = Kind("StatefulSet", "apps/v1", "statefulsets")
DAEMON_SETS: Final = Kind("DaemonSet", "apps/v1", "daemonsets")
JOBS: Final = Kind("Job", "batch/v1", "jobs")
CRON_JOBS: Final = Kind("CronJob", "batch/v1", "cronjobs")
NODES: Final = Kind("Node", "v1", "nodes", namespaced=False)
SERVICES: Final = Kind("Service", "v1", "services")
ENDPOINT_SLICES: Final = Kind("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
INGRESSES: Final = Kind("Ingress", "networking.k8s.io/v1", "ingresses")
CLAIMS: Final = Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
AUTOSCALERS: Final = Kind("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers")
CERTIFICATES: Final = Kind("Certificate", "cert-manager.io/v1", "certificates")
EVENTS: Final = Kind("Event", "events.k8s.io/v1", "events")
KINDS: Final = (
    PODS, REPLICA_SETS, DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, JOBS, CRON_JOBS, NODES,
    SERVICES, ENDPOINT_SLICES, INGRESSES, CLAIMS, AUTOSCALERS, CERTIFICATES, EVENTS,
)  # fmt: skip


class Change(msgspec.Struct, frozen=True):
    """An object that has changed or was deleted."""

    kind: Kind
    tree: Tree
    deleted: bool = False
