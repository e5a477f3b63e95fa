"""The rules that come with the core and the bundled plugins."""

from typing import Any

import msgspec
import pytest

from almenara.alerting.service import read_rules
from almenara.config import Settings, decode_settings
from almenara.plugins import load_plugins
from almenara.signals import Event, Resource, Sample, Severity, Signal
from support.alerting import START, Evaluation
from support.paths import ROOT

PLUGINS = {
    "kubernetes": {"clusters": [{"name": "prod", "simulated": True}]},
    "ray": {"clusters": [{"name": "prod", "url": "http://127.0.0.1:1"}]},
    "http": {"checks": [{"name": "site", "url": "http://127.0.0.1:1"}]},
    "agents": {"enabled": True},
    "valkey": {"deployments": [{"name": "cache", "urls": ["redis://127.0.0.1:1"]}]},
    "neo4j": {"deployments": [{"name": "context", "urls": ["bolt://127.0.0.1:1"]}]},
    "vllm": {"servers": [{"name": "chat", "url": "http://127.0.0.1:1"}]},
    "prometheus": {
        "targets": [{"name": "app", "url": "http://127.0.0.1:1", "presets": ["process"]}]
    },
}


@pytest.fixture(scope="module")
def rules() -> Any:
    settings = decode_settings(Settings, {"plugins": PLUGINS}, place="")
    plugins = load_plugins()
    match = read_rules(settings, plugins)
    assert not [info.error for info in plugins.infos() if info.state == "failed"]
    return match


def resource(kind: str, status: str, severity: str = "ERROR", **fields: Any) -> Resource:
    return Resource(
        kind=kind, name="a", status=status, severity=Severity[severity], time=START, origin="s",
        **fields,
    )  # fmt: skip


def event(kind: str, **data: Any) -> Event:
    return Event(id=kind, source="s", type=kind, subject="a", time=START, origin="s", data=data)


CASES: dict[str, Signal] = {
    "pushed-alert-firing": msgspec.structs.replace(
        event("grafana.alert.firing", annotations={"summary": "Disk full"}),
        origin="intake/alerts",
        correlation="f1",
    ),
    "source-blind": resource("almenara.source", "degraded", "WARN"),
    "kubernetes-pod-crash-looping": resource("kubernetes.pod", "CrashLoopBackOff", namespace="n"),
    "kubernetes-workload-stalled": resource("kubernetes.deployment", "Stalled", namespace="n"),
    "kubernetes-node-not-ready": resource("kubernetes.node", "NotReady,SchedulingDisabled"),
    "kubernetes-node-disk-full": resource(
        "kubernetes.node", "Ready", "WARN", state={"pressures": ["PIDPressure", "DiskPressure"]}
    ),
    "kubernetes-job-failed": event("kubernetes.job.failed"),
    "kubernetes-certificate-expires": resource("kubernetes.certificate", "Expires soon", "WARN"),
    "ray-job-failed": event("ray.job.failed", reason="exit code 1"),
    "ray-cluster-unreachable": resource("ray.cluster", "unreachable"),
    "ray-application-unhealthy": resource("ray.application", "UNHEALTHY"),
    "nats-consumer-stalled": resource("nats.consumer", "stalled", "WARN", namespace="ORDERS"),
    "nats-stream-offline": resource("nats.stream", "offline"),
    "http-check-down": resource("http.check", "down", state={"reason": "refused"}),
    "http-host-down": resource("http.host", "down", state={"checks": 2, "down": 2}),
    "http-certificate-expires": resource(
        "http.check", "up", "INFO", state={"certificate": "expires soon", "expires": START}
    ),
    "prometheus-target-down": resource("prometheus.target", "down"),
    "valkey-deployment-down": resource("valkey.deployment", "no primary"),
    "valkey-server-failing": resource("valkey.server", "persistence failing", namespace="cache"),
    "valkey-memory-full": resource("valkey.server", "memory full", namespace="cache"),
    "valkey-stream-group-stalled": resource(
        "valkey.stream_group", "stalled", "WARN", namespace="c"
    ),
    "neo4j-server-unreachable": resource("neo4j.server", "unreachable", namespace="context"),
    "neo4j-database-failing": resource("neo4j.database", "offline", namespace="context"),
    "neo4j-query-blocked": resource("neo4j.query", "blocked", "WARN", namespace="context"),
    "vllm-server-failing": resource("vllm.server", "unhealthy"),
    "vllm-server-saturated": resource("vllm.server", "preempting", "WARN"),
    "agents-agent-stuck": resource("agents.agent", "stuck", "WARN"),
    "agents-agent-looping": event("agents.agent.looping", reason="5 equal calls of search"),
    "agents-budget-exceeded": event("agents.budget.exceeded", reason="it has cost 2.00 USD"),
    "agents-deliberation-stalled": resource("agents.deliberation", "stuck", "WARN"),
    "agents-deliberation-uncertain": resource("agents.deliberation", "uncertain", "WARN"),
    "agents-deliberation-failed": event("agents.deliberation.failed", reason="no end"),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_default_rule_fires_with_a_summary(rules: Any, name: str) -> None:
    run = Evaluation(rules)
    run.feed(CASES[name])
    for _ in range(3):
        run.advance(1_300)
    assert f"{name}/" in [event.subject[: len(name) + 1] for event in run.alert_events]
    fired = next(event for event in run.alert_events if event.type == "almenara.alert.firing")
    summary = fired.data["annotations"]["summary"]
    assert summary
    assert "{{" not in summary
    assert not [name for name, health in run.health.items() if health.error]


def test_every_default_rule_has_a_case_and_is_documented(rules: Any) -> None:
    assert set(rules.rules) == {*CASES, "rule-failing"}
    page = (ROOT / "docs" / "operations" / "alerts.md").read_text("utf-8")
    assert all(f"| `{name}` |" in page for name in rules.rules)


def test_checks_of_a_host_that_is_down_are_inhibited(rules: Any) -> None:
    run = Evaluation(rules)
    run.feed(resource("http.host", "down", state={"checks": 2, "down": 2}))
    run.feed(resource("http.check", "down", state={"host": "a"}))
    assert run.statuses == ["firing", "inhibited"]


def test_series_depend_on_their_target(rules: Any) -> None:
    sample = Sample(kind="process", namespace="app", name="x", metric="cpu", value=1.0, origin="s")
    assert rules.parents(sample) == [("s", "prometheus.target", "", "app")]


@pytest.mark.parametrize(
    ("cluster", "other", "status"),
    [("", "", "inhibited"), ("eu", "eu", "inhibited"), ("eu", "us", "firing")],
)
def test_pods_of_a_broken_node_are_inhibited(
    rules: Any, cluster: str, other: str, status: str
) -> None:
    run = Evaluation(rules)
    run.feed(resource("kubernetes.node", "NotReady", namespace=cluster))
    state = {"node": "a", "cluster": other}
    run.feed(resource("kubernetes.pod", "CrashLoopBackOff", namespace=f"{other}/n", state=state))
    run.advance(61)
    assert run.statuses[-2:] == ["firing", status]
