"""Pending and failing pods by namespace, as samples for charts."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from almenara.signals import Resource, Sample
from almenara_kubernetes.charts import TONE_OF

NAMESPACE: Final = "kubernetes.namespace"
NAME: Final = "pods"
METRICS: Final = {"pending": "wait", "failing": "bad"}
"""The metrics, and the tone of the pods that each counts."""


class PodCounts:
    """Counts pods; a namespace whose last pod is deleted is counted once more, with zero."""

    def __init__(self) -> None:
        self._namespaces: set[str] = set()

    def sample(self, pods: Iterable[Resource]) -> list[Sample]:
        """Return the samples of all namespaces with pods."""
        counts: Counter[tuple[str, str]] = Counter()
        namespaces: set[str] = set()
        for pod in pods:
            namespaces.add(pod.namespace)
            counts[pod.namespace, TONE_OF.get(pod.severity, "bad")] += 1
        listed, self._namespaces = sorted(namespaces | self._namespaces), namespaces
        return [
            Sample(
                kind=NAMESPACE, namespace=namespace, name=NAME, metric=metric,
                value=float(counts[namespace, tone]),
            )
            for namespace in listed for metric, tone in METRICS.items()
        ]  # fmt: skip
