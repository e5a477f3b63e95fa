"""The Kubernetes permissions that the plugin needs where it searches for servers.

Naming them needs no Kubernetes client.
"""

from collections.abc import Sequence

from almenara_kube.rules import KubernetesRule
from almenara_vllm.settings import VllmSettings


def list_rules(settings: VllmSettings) -> Sequence[KubernetesRule]:
    """A rule for each Kubernetes cluster in which servers are searched for."""
    return [
        KubernetesRule(
            group="discovery.k8s.io" if cluster.services else "",
            resources=("endpointslices",) if cluster.services else ("pods",),
            verbs=("list",), namespaces=tuple(cluster.namespaces), cluster=cluster.name,
            kubeconfig=cluster.kubeconfig, context=cluster.context,
        )
        for cluster in settings.kubernetes
    ]  # fmt: skip
