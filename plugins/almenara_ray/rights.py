"""What the plugin needs of Kubernetes, where it watches KubeRay.

The libraries of the Kubernetes plugin are not needed to say so.
"""

from collections.abc import Sequence
from typing import Final

from almenara_kube.rules import KubernetesRule
from almenara_ray.settings import RaySettings

RESOURCES: Final = ("rayclusters", "rayjobs", "rayservices")


def rules(settings: RaySettings) -> Sequence[KubernetesRule]:
    """A rule for each Kubernetes cluster that is watched."""
    return [
        KubernetesRule(
            group="ray.io", resources=RESOURCES, verbs=("list", "watch"), optional=True,
            namespaces=tuple(it.namespaces), cluster=it.name, kubeconfig=it.kubeconfig,
            context=it.context,
        )
        for it in settings.kuberay
    ]  # fmt: skip
