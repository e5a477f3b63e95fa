"""Rules: what a plugin must be permitted to do in a Kubernetes cluster, as RBAC names it."""

from pathlib import Path
from typing import ClassVar

from almenara.hookspecs import Requirement
from almenara_kube.settings import KubeContext


class KubernetesRule(Requirement, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plugin, as it is configured, must be permitted to do in one Kubernetes cluster."""

    system: ClassVar[str] = "Kubernetes"

    resources: tuple[str, ...]
    """Resources by their names in the API: `pods`, `pods/log`."""
    verbs: tuple[str, ...]
    """Verbs on them: `list`, `watch`."""
    group: str = ""
    """Their API group; empty for the core group."""
    namespaces: tuple[str, ...] = ()
    """Namespaces; empty for all of them and for cluster-scoped resources."""
    optional: bool = False
    """Whether the cluster may lack this group, in which case nothing is needed."""
    cluster: str = ""
    """The cluster's name in the configuration; may be empty."""
    kubeconfig: Path | None = None
    """The kubeconfig file it is reached by; without one it is the cluster that Almenara runs in,
    or the one that KUBECONFIG names."""
    context: str = ""
    """The context of the kubeconfig; empty for its current one."""

    @property
    def kube_context(self) -> KubeContext:
        """What the cluster is reached by; the same for all rules of one cluster."""
        return KubeContext(self.kubeconfig, self.context)
