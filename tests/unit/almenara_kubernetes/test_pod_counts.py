"""Pending and failing pods by namespace."""

from almenara.signals import Resource, Severity
from almenara_kubernetes.pod_counts import PodCounts


def pod(namespace: str, name: str, severity: Severity) -> Resource:
    return Resource(kind="kubernetes.pod", namespace=namespace, name=name, severity=severity)


def test_pods_are_counted_until_a_namespace_has_none() -> None:
    counts = PodCounts()

    def count(*pods: Resource) -> dict[tuple[str, str], float]:
        return {(each.namespace, each.metric): each.value for each in counts.sample(pods)}

    waiting = [pod("shop", name, Severity.WARN) for name in ("a", "b")]
    broken = pod("shop", "c", Severity.ERROR)
    ready = pod("stock", "d", Severity.INFO)
    assert count(*waiting, broken, ready) == {
        ("shop", "pending"): 2, ("shop", "failing"): 1,
        ("stock", "pending"): 0, ("stock", "failing"): 0,
    }  # fmt: skip
    assert count(ready)["shop", "pending"] == 0
    assert ("shop", "pending") not in count(ready)
