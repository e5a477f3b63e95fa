"""The CPU, memory and devices that a pod requests and is limited to.

https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
"""

from collections.abc import Mapping
from typing import Any, Final

from almenara_kubernetes.mapping.kubectl_columns import is_sidecar
from almenara_kubernetes.models import Container, PodSpec
from almenara_kubernetes.quantities import parse_quantity

DOMAIN_SEPARATOR: Final = "/"
"""Extended resources, such as `nvidia.com/gpu`, have a domain; those of Kubernetes have none."""


def sum_resources(spec: PodSpec) -> dict[str, Any]:
    """The `cpu_request`, `cpu_limit`, `memory_request`, `memory_limit` and `devices` of a pod.

    As the scheduler sums them up: the resources of the pod itself, where it has any; otherwise the
    containers and sidecars together, or the largest init container with the sidecars started before
    it, whichever is more; the overhead on top. A limit counts only where the pod or every container
    has one.
    """
    resources: dict[str, Any] = {}
    for name in ("cpu", "memory"):
        if request := _sum(spec, name, "requests"):
            resources[f"{name}_request"] = request
        limits = [container.resources.limits.get(name) for container in spec.containers]
        if name in spec.resources.limits or (limits and None not in limits):
            resources[f"{name}_limit"] = _sum(spec, name, "limits")
    devices = {
        name: amount
        for name in dict.fromkeys(
            name
            for container in (*spec.init_containers, *spec.containers)
            for name in (*container.resources.requests, *container.resources.limits)
            if DOMAIN_SEPARATOR in name
        )
        if (amount := _sum(spec, name, "limits") or _sum(spec, name, "requests"))
    }
    if devices:
        resources["devices"] = devices
    return resources


def _sum(spec: PodSpec, name: str, which: str) -> float:
    overhead = parse_quantity(spec.overhead.get(name)) or 0.0
    of_pod: Mapping[str, str | int | float] = getattr(spec.resources, which)
    if name in of_pod:
        return (parse_quantity(of_pod[name]) or 0.0) + overhead

    def amount(container: Container) -> float:
        quantities: Mapping[str, str | int | float] = getattr(container.resources, which)
        return parse_quantity(quantities.get(name)) or 0.0

    sidecars, peak = 0.0, 0.0
    for container in spec.init_containers:
        if is_sidecar(container):
            sidecars += amount(container)
        peak = max(peak, sidecars if is_sidecar(container) else sidecars + amount(container))
    together = sidecars + sum(map(amount, spec.containers))
    return max(together, peak) + overhead
