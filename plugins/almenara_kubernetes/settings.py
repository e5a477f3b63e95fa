"""The Kubernetes plugin's part of the configuration."""

import re
from pathlib import Path
from typing import Final

import msgspec

from almenara.config import suggest
from almenara_kube.kinds import WatchedKind
from almenara_kube.settings import ClientSettings, KubeContext, Positive
from almenara_kubernetes.kinds import BY_KIND, CustomColumn, custom_kind

NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
SECRET_KINDS: Final = frozenset({"secrets", "configmaps"})
"""Core kinds that may contain secrets in any field."""
PREFIX: Final = "kubernetes."


class CustomResource(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A kind of custom resource to watch."""

    group: str
    """Its API group: `argoproj.io`."""
    version: str
    """Its version: `v1alpha1`."""
    plural: str
    """Its name in the API: `rollouts`."""
    kind: str
    """Its kind: `Rollout`."""
    namespaced: bool = True
    """Whether its objects are in namespaces."""
    columns: list[CustomColumn] = []
    """The values to display."""
    status: str = ""
    """Path of the value that is its status: `status.phase`; empty to find it in the health, phase
    and conditions of the object."""

    def __post_init__(self) -> None:
        if self.group in ("", "core"):
            raise ValueError(
                f"custom takes the kinds of custom resources; {self.plural!r} has no group"
            )
        if self.plural in SECRET_KINDS:
            raise ValueError(f"custom does not take {self.plural}, which may contain secrets")


class ClusterSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A cluster to watch."""

    name: str = ""
    """Its name here, in lower case; needed where there are several."""
    kubeconfig: Path | None = None
    """File to connect by; without one the ServiceAccount of the pod that Almenara runs in, and
    outside of a cluster the files of KUBECONFIG or ~/.kube/config."""
    context: str = ""
    """Context of the kubeconfig; empty for its current one."""
    namespaces: list[str] = []
    """Namespaces to watch; empty for all. Each kind is watched in each namespace separately, so
    watch all of them instead of more than some dozens."""
    namespace_selector: str = ""
    """Labels of the namespaces to watch, `team=search,env!=test`, instead of a list."""
    simulated: bool = False
    """Whether its data is simulated, as in the demo; its pages say so."""

    def __post_init__(self) -> None:
        if self.name and not NAME.fullmatch(self.name):
            raise ValueError(
                f"name must be lower case letters, digits, . and - only; it is {self.name!r}"
            )
        for namespace in self.namespaces:
            if not NAME.fullmatch(namespace):
                raise ValueError(f"namespaces has {namespace!r}, which is not a valid name")
        if self.namespaces and self.namespace_selector:
            raise ValueError("set namespaces or namespace_selector, not both")

    @property
    def kube_context(self) -> KubeContext:
        """The source of its credentials."""
        return KubeContext(self.kubeconfig, self.context)

    @property
    def everywhere(self) -> bool:
        """Whether all namespaces are watched."""
        return not self.namespaces and not self.namespace_selector


class KubernetesSettings(ClientSettings, kw_only=True, forbid_unknown_fields=True):
    """The clusters to watch, and what to watch of them."""

    clusters: list[ClusterSettings] = []
    """Clusters to watch; `[{}]` is the one that Almenara runs in, or that of your kubeconfig."""
    kinds: list[str] = []
    """Kinds to watch, `[pod, deployment, node]`; empty for all that Almenara knows. Kinds without
    namespaces, such as node, are watched where all namespaces are, or where named here."""
    custom: list[CustomResource] = []
    """Custom resources to watch as well."""
    usage: bool = True
    """Whether to read the CPU and memory in use, where the metrics.k8s.io API is served."""
    usage_every: Positive = 15.0
    """Seconds between two reads of usage."""
    logs: bool = False
    """Whether viewers may read the logs of pods. It needs one more rule, and displays whatever
    programs write."""
    yaml: bool = False
    """Whether viewers may read pods and workloads as YAML. It needs `get` of them. Values of
    environment variables, and whatever else looks like a secret, are masked."""

    def __post_init__(self) -> None:
        names = [cluster.name for cluster in self.clusters]
        if len(names) > 1 and "" in names:
            raise ValueError("clusters has several; give each a name")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"clusters has two named {name!r}")
        known = [kind.removeprefix(PREFIX) for kind in BY_KIND]
        for kind in self.kinds:
            if kind not in known:
                raise ValueError(f"kinds has {kind!r}; {suggest(kind, known)}")
        custom = [(resource.plural, resource.group) for resource in self.custom]
        for plural, group in custom:
            if custom.count((plural, group)) > 1:
                raise ValueError(f"custom has {plural}.{group} twice")


def source_name(cluster: ClusterSettings) -> str:
    """The name of the source that observes a cluster."""
    return f"kubernetes-{cluster.name}" if cluster.name else "kubernetes"


def watched_kinds(settings: KubernetesSettings, cluster: ClusterSettings) -> list[WatchedKind]:
    """The kinds to watch in a cluster, owners before what they own."""
    selected = [
        kind
        for name, kind in BY_KIND.items()
        if name.removeprefix(PREFIX) in settings.kinds
        or (not settings.kinds and (kind.namespaced or cluster.everywhere))
    ]
    return [*selected, *map(custom_resource_kind, settings.custom)]


def custom_resource_kind(resource: CustomResource) -> WatchedKind:
    """The kind of a configured custom resource."""
    return custom_kind(
        group=resource.group, version=resource.version, plural=resource.plural,
        kind=resource.kind, namespaced=resource.namespaced, columns=resource.columns,
        status=resource.status,
    )  # fmt: skip
