"""The Kubernetes permissions that the plugin needs where it watches KubeRay.

Naming them needs no Kubernetes client.
"""

from collections.abc import Sequence
from typing import Final

from almenara_kube.rules import KubernetesRule
from almenara_ray.settings import RaySettings

RESOURCES: Final = ("rayclusters", "raycronjobs", "rayjobs", "rayservices")


def list_rules(settings: RaySettings) -> Sequence[KubernetesRule]:
    """Return a rule for each Kubernetes cluster that is watched."""
    rules = [
        KubernetesRule(
            group="ray.io", resources=RESOURCES, verbs=("list", "watch"), optional=True,
            namespaces=tuple(kuberay.namespaces), cluster=kuberay.name,
            kubeconfig=kuberay.kubeconfig, context=kuberay.context,
        )
        for kuberay in settings.kuberay
    ]  # fmt: skip
    return rules + [
        KubernetesRule(
            group="", resources=("secrets",), verbs=("get",),
            namespaces=tuple(kuberay.namespaces), cluster=kuberay.name,
            kubeconfig=kuberay.kubeconfig, context=kuberay.context,
        )
        for kuberay in settings.kuberay
        if kuberay.cluster_tokens
    ]  # fmt: skip
