"""Almenara's own figures: each replica publishes those of what it runs."""

from types import SimpleNamespace
from typing import Any

import pytest

from almenara.bus import BusCounters
from almenara.signals import Sample
from almenara.supervisor import SourceState
from almenara.web.metrics import collect_sources
from almenara.web.self_monitor import SOURCE, SelfMonitor

STATES = [
    SourceState(name="nats", plugin="nats", status="running", events=7, lag=2, replica="a"),
    SourceState(name="ray", plugin="ray", status="degraded", events=9, is_reported=True),
    SourceState(name="vllm", plugin="vllm", status="standby", events=3, replica="b"),
    SourceState(name="intake/app", plugin="intake", status="running", events=5),
]


@pytest.mark.parametrize("replica", ["a", ""])
def test_samples_of_sources_are_those_of_this_replica(replica: str) -> None:
    figures: Any = SimpleNamespace(
        counters=SimpleNamespace(renders=0), clients=0, last=0.0,
        report=SimpleNamespace(bytes_used=0, series=0),
    )  # fmt: skip
    bus: Any = SimpleNamespace(counters=BusCounters())
    supervisor: Any = SimpleNamespace(
        states=lambda: STATES, leases=SimpleNamespace(replica=replica)
    )
    monitor = SelfMonitor(bus, supervisor, figures, figures, figures, "host-a")
    samples = [
        (one.namespace, one.name, one.metric, one.value)
        for one in monitor.measure()
        if isinstance(one, Sample) and one.kind == SOURCE
    ]
    assert samples == [
        ("", "nats", "events", 7.0),
        ("", "nats", "lag", 2.0),
        # A sender pushes to all replicas, and each counts what it has received.
        ("host-a" if replica else "", "intake/app", "events", 5.0),
    ]


def test_metrics_of_sources_leave_out_what_another_replica_counts() -> None:
    metrics = {
        (metric.name, sample.labels["source"]): sample.value
        for metric in collect_sources(STATES)
        for sample in metric.samples
    }
    assert metrics["almenara_source_events", "nats"] == 7
    assert metrics["almenara_source_up", "nats"] == 1
    assert metrics["almenara_source_events", "intake/app"] == 5
    assert not any(source == "ray" for _, source in metrics)
    assert ("almenara_source_up", "vllm") not in metrics
