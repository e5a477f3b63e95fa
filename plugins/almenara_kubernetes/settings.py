"""The Kubernetes plugin's part of the configuration."""

import re
from pathlib import Path
from typing import Annotated, Final

import msgspec

from almenara_kube.kinds import WatchedKind
from almenara_kube.settings import ClientSettings, KubeContext, Positive
from almenara_kubernetes.watched import BY_KIND, CustomColumn, custom

NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
SECRETIVE: Final = frozenset({"secrets", "configmaps"})
"""Core kinds that may hold secrets in any field."""
PREFIX: Final = "kubernetes."


class CustomResource(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A custom resource that is watched as well."""

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
    """What of it is shown."""
    status: str = ""
    """Path of the word that is its status: `status.phase`."""

    def __post_init__(self) -> None:
        if self.group in ("", "core"):
            raise ValueError(
                f"custom takes the kinds of custom resources; {self.plural!r} has no group"
            )
        if self.plural in SECRETIVE:
            raise ValueError(f"custom does not take {self.plural}: what is secret is not watched")


class ClusterSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A cluster, and what of it is watched."""

    name: str = ""
    """How it is called here, in lower case; needed where there are several."""
    kubeconfig: Path | None = None
    """File to connect by; without one the ServiceAccount of the pod that Almenara runs in, and
    outside of a cluster what KUBECONFIG names or ~/.kube/config."""
    context: str = ""
    """Context of the kubeconfig; empty for its current one."""
    namespaces: list[str] = []
    """Namespaces to watch; empty for all. Each kind is watched in each namespace by itself: for
    more than some dozens watch all."""
    namespace_selector: str = ""
    """Watch the namespaces with these labels, `team=search,env!=test`, in place of a list."""

    def __post_init__(self) -> None:
        if self.name and not NAME.fullmatch(self.name):
            raise ValueError(
                f"name must be lower case letters, digits, . and - only; it is {self.name!r}"
            )
        for namespace in self.namespaces:
            if not NAME.fullmatch(namespace):
                raise ValueError(f"namespaces has {namespace!r}, which no namespace can be called")
        if self.namespaces and self.namespace_selector:
            raise ValueError("give namespaces or namespace_selector, not both")

    @property
    def kube_context(self) -> KubeContext:
        """What its credentials come from."""
        return KubeContext(self.kubeconfig, self.context)

    @property
    def everywhere(self) -> bool:
        """Whether all namespaces are watched."""
        return not self.namespaces and not self.namespace_selector


def source_name(cluster: ClusterSettings) -> str:
    """The name of the source that observes a cluster."""
    return f"kubernetes-{cluster.name}" if cluster.name else "kubernetes"


class KubernetesSettings(ClientSettings, kw_only=True, forbid_unknown_fields=True):
    """Which clusters are watched, and what of them."""

    clusters: list[ClusterSettings] = []
    """Clusters to watch; `[{}]` is the one that Almenara runs in, or that kubectl would talk to."""
    simulated: Annotated[int, msgspec.Meta(ge=0, le=20_000)] = 0
    """Pods of a simulated cluster, to look around without one of your own; 0 for none. Its pages
    say that nothing on them is real."""
    kinds: list[str] = []
    """Kinds to watch, `[pod, deployment, node]`; empty for all that Almenara knows. Kinds outside
    of namespaces, such as node, are watched where all namespaces are, or where named here."""
    custom: list[CustomResource] = []
    """Custom resources to watch besides."""
    usage: bool = True
    """Whether CPU and memory in use are asked for, of the metrics.k8s.io API where it is served."""
    usage_every: Positive = 15.0
    """Seconds between two such questions."""
    logs: bool = False
    """Whether people may read the logs of pods; it needs a rule more, and shows them whatever the
    programs write there."""
    yaml: bool = False
    """Whether people may read pods and workloads as YAML; it needs `get` of them. Values of
    environment variables, and whatever else looks like a secret, are masked."""

    def __post_init__(self) -> None:
        if self.simulated and self.clusters:
            raise ValueError("simulated stands alone: leave it out, or leave out clusters")
        names = [cluster.name for cluster in self.clusters]
        if len(names) > 1 and "" in names:
            raise ValueError("clusters has several; give each a name")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"clusters has two named {name!r}")
        known = [kind.removeprefix(PREFIX) for kind in BY_KIND]
        for kind in self.kinds:
            if kind not in known:
                raise ValueError(f"kinds has {kind!r}; the kinds are {', '.join(known)}")


def watched_kinds(settings: KubernetesSettings, cluster: ClusterSettings) -> list[WatchedKind]:
    """What is watched of a cluster, owners before what they own."""
    chosen = [
        it
        for kind, it in BY_KIND.items()
        if (not settings.kinds or kind.removeprefix(PREFIX) in settings.kinds)
        and (it.namespaced or cluster.everywhere or kind.removeprefix(PREFIX) in settings.kinds)
    ]
    return chosen + [
        custom(
            group=it.group, version=it.version, plural=it.plural, kind=it.kind,
            namespaced=it.namespaced, columns=it.columns, status=it.status,
        )
        for it in settings.custom
    ]  # fmt: skip
