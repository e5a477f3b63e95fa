"""The texts of the alerts about clusters."""

from typing import Any

import pytest

from almenara.alerting.rules import VARIABLES
from almenara.alerting.sandbox import Template
from almenara_kubernetes.alert_rules import RULES


@pytest.mark.parametrize(
    ("rule", "values", "summary"),
    [
        (
            "kubernetes-pod-crash-looping",
            {"namespace": "shop", "name": "web-0", "state": {"restarts": 1}},
            "Pod shop/web-0 is crash-looping after 1 restart",
        ),
        (
            "kubernetes-pod-crash-looping",
            {"namespace": "shop", "name": "web-0", "state": {"restarts": 7}},
            "Pod shop/web-0 is crash-looping after 7 restarts",
        ),
        (
            "kubernetes-node-not-ready",
            {"namespace": "", "name": "worker-1", "status": "NotReady"},
            "Node worker-1 is NotReady",
        ),
        (
            "kubernetes-node-not-ready",
            {"namespace": "eu", "name": "worker-1", "status": "NotReady"},
            "Node eu/worker-1 is NotReady",
        ),
        (
            "kubernetes-node-disk-full",
            {"namespace": "eu", "name": "worker-1"},
            "The disk of node eu/worker-1 is almost full (DiskPressure)",
        ),
        ("kubernetes-job-failed", {"subject": "job/shop/backup-1"}, "Job/shop/backup-1 failed"),
    ],
)
def test_summary_of_a_rule_reads_as_a_sentence(
    rule: str, values: dict[str, Any], summary: str
) -> None:
    source = next(each for each in RULES if each.name == rule).annotations["summary"]
    assert Template(source, VARIABLES, limit=200, has_loops=False).render(values) == summary
