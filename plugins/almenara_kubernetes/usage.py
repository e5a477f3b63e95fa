"""Measurements of metrics.k8s.io as samples."""

from collections.abc import Collection, Sequence

from almenara.sdk import now
from almenara.signals import Sample
from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import KubernetesObject
from almenara_kubernetes.mapping.owners import Key
from almenara_kubernetes.models import NodeMetrics, PodMetrics
from almenara_kubernetes.quantities import parse_quantity, parse_timestamp

UNITS = (("cpu", ""), ("memory", "By"))


class UsageSampler:
    """Makes samples of measurements, each measurement once."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Key], str] = {}
        """The timestamp of the last measurement, by kind and object."""

    def sample(
        self,
        kind: WatchedKind,
        objects: Sequence[KubernetesObject],
        known: Collection[Key],
        prefix: str,
    ) -> list[Sample]:
        """Samples of pods or nodes: `cpu` in cores and `memory` in bytes.

        Objects that are not in `known`, and those without a newer measurement, have none. `prefix`
        is the cluster's, in front of namespaces.
        """
        samples: list[Sample] = []
        for metrics in objects:
            key = metrics.metadata.namespace, metrics.metadata.name
            if key not in known or not isinstance(metrics, PodMetrics | NodeMetrics):
                continue
            if self._last.get((kind.kind, key)) == metrics.timestamp:
                continue
            self._last[kind.kind, key] = metrics.timestamp
            time = parse_timestamp(metrics.timestamp) or now()
            for metric, unit in UNITS:
                value = _total(metrics, metric)
                if value is not None:
                    samples.append(
                        Sample(
                            kind=kind.kind, namespace="/".join(filter(None, (prefix, key[0]))),
                            name=key[1], metric=metric, value=value, unit=unit, time=time,
                        )
                    )  # fmt: skip
        return samples

    def forget(self, kind: str, key: Key) -> None:
        """Forget an object that is deleted."""
        self._last.pop((kind, key), None)


def _total(metrics: PodMetrics | NodeMetrics, metric: str) -> float | None:
    """The usage of an object; None where that of a container is unknown."""
    usages = (
        [container.usage for container in metrics.containers]
        if isinstance(metrics, PodMetrics)
        else [metrics.usage]
    )
    amounts = [parse_quantity(usage.get(metric)) for usage in usages]
    if not amounts or None in amounts:
        return None
    return float(sum(filter(None, amounts)))
