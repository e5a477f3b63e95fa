"""CPU and memory in use, from a metrics.k8s.io that a real API server aggregates."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from almenara.signals import Resource, Sample
from almenara.testing.source_run import MemoryContext, SourceRun
from almenara_kubernetes.rbac import needed_rules, role_rule
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings
from almenara_kubernetes.source import ClusterSource
from support.api_server import ApiServer
from support.metrics_server import MetricsServer

pytestmark = pytest.mark.anyio

MEASURED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def metrics(api_server: ApiServer) -> Iterator[MetricsServer]:
    with MetricsServer(api_server) as server:
        yield server


def source(
    path: Path, context: MemoryContext, *namespaces: str, **more: Any
) -> tuple[ClusterSource, KubernetesSettings]:
    cluster = ClusterSettings(kubeconfig=path, namespaces=list(namespaces))
    chosen = KubernetesSettings(
        **{
            "clusters": [cluster], "kinds": ["pod", "node"], "usage_every": 0.2,
            "backoff_first": 0.1, "refused_every": 0.3, **more,
        }
    )  # fmt: skip
    return ClusterSource(cluster, chosen, context), chosen


def used(run: SourceRun, name: str) -> list[tuple[str, float, str]]:
    return [(each.metric, each.value, each.unit) for each in run.samples if each.name == name]


def last(run: SourceRun, kind: str, name: str = "") -> Resource | None:
    match = [
        each
        for each in run.bus.signals
        if isinstance(each, Resource) and each.kind == kind and name in ("", each.name)
    ]
    return match[-1] if match else None


async def test_usage_is_published_beside_requests(
    api_server: ApiServer, metrics: MetricsServer, namespace: str, tmp_path: Path
) -> None:
    node = f"node-{namespace}"
    capacity = {"cpu": "4", "memory": "8Gi"}
    made = {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
        "status": {"allocatable": capacity, "capacity": capacity},
    }  # fmt: skip
    api_server.create(made)
    resources = {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
    containers = [{"name": each, "image": "x", "resources": resources} for each in ("main", "side")]
    api_server.pod(namespace, "one", spec={"containers": containers})
    metrics.timestamp = MEASURED
    metrics.nodes = {node: {"cpu": "1500m", "memory": "2Gi"}, "unknown": {"cpu": "1"}}
    metrics.pods = {
        (namespace, "one"): {"main": {"cpu": "12345678n", "memory": "1Ki"},
                             "side": {"cpu": "1e-3", "memory": "1024"}},
        (namespace, "odd"): {"main": {"cpu": "1", "memory": "1"}},
    }  # fmt: skip
    api_server.pod(namespace, "odd")
    each, _ = source(api_server.admin_kubeconfig, MemoryContext(tmp_path), namespace)
    try:
        async with SourceRun(each) as run:
            await run.until(lambda: bool(used(run, node)) and bool(used(run, "one")), 15)
            assert used(run, node) == [("cpu", 1.5, ""), ("memory", 2.0**31, "By")]
            assert [(name, round(value, 9), unit) for name, value, unit in used(run, "one")] == [
                ("cpu", 0.013345678, ""), ("memory", 2048.0, "By"),
            ]  # fmt: skip
            pod = last(run, "kubernetes.pod", "one")
            assert pod is not None
            names = ("cpu_request", "memory_request", "memory_limit")
            assert [pod.state[name] for name in names] == [0.5, 2.0**27, 2.0**31]
            assert {each.time for each in run.samples} == {1_767_225_600_000_000}
            # What is not known otherwise, and what was measured once, is published no more.
            assert used(run, "unknown") == []
            rounds = len(metrics.requests)
            await run.until(lambda: len(metrics.requests) > rounds + 4)
            assert len(used(run, "one")) == 2
            # A malformed value is left out, and its neighbour is published.
            metrics.pods[namespace, "odd"] = {"main": {"cpu": "lots", "memory": "7"}}
            metrics.timestamp = MEASURED + timedelta(seconds=15)
            await run.until(lambda: ("memory", 7.0, "By") in used(run, "odd"))
            assert used(run, "odd")[2:] == [("memory", 7.0, "By")]
            assert not run.is_degraded
    finally:
        api_server.delete(made)


async def test_usage_may_be_unavailable_and_come_back(
    api_server: ApiServer, metrics: MetricsServer, namespace: str, tmp_path: Path
) -> None:
    api_server.pod(namespace, "one")
    metrics.pods = {(namespace, "one"): {"main": {"cpu": "1", "memory": "1Mi"}}}

    async def told_and_changes_are_seen(status: int) -> None:
        await run.until(
            lambda: (
                (each := last(run, "kubernetes.cluster")) is not None
                and (each.state.get("usage", "") != "") == (status != 200)
            ),
            15,
        )
        pod = await asyncio.to_thread(api_server.pod, namespace, f"with-{status}")
        await run.until(lambda: last(run, "kubernetes.pod", f"with-{status}") is not None)
        await asyncio.to_thread(api_server.delete, pod)
        assert not run.is_degraded

    each, _ = source(api_server.admin_kubeconfig, MemoryContext(tmp_path), namespace)
    async with SourceRun(each) as run:
        await run.until(lambda: bool(run.samples), 15)
        for status in (503, 200, 500, 404, 200):
            metrics.status = status
            await told_and_changes_are_seen(status)
        metrics.remove()
        await told_and_changes_are_seen(410)
        cluster = last(run, "kubernetes.cluster")
        assert cluster is not None
        assert cluster.status == "ok"


async def test_usage_reports_the_missing_rule(
    api_server: ApiServer, metrics: MetricsServer, namespace: str, tmp_path: Path
) -> None:
    token = api_server.service_account(namespace, "almenara")
    path = api_server.kubeconfig(token=token, path=tmp_path / "kubeconfig")
    each, chosen = source(path, MemoryContext(tmp_path), namespace, kinds=["pod"])
    printed = [role_rule(one) for one in needed_rules(chosen)]
    (rule,) = [one for one in printed if one["apiGroups"] == ["metrics.k8s.io"]]
    assert (rule["resources"], rule["verbs"]) == (["pods"], ["list"])
    others = [one for one in printed if one is not rule]
    api_server.allow(f"{namespace}/almenara", others, namespace)
    api_server.pod(namespace, "one")
    metrics.pods = {(namespace, "one"): {"main": {"cpu": "1", "memory": "1Mi"}}}
    async with SourceRun(each) as run:
        await run.until(lambda: last(run, "kubernetes.pod", "one") is not None, 15)
        await run.until(lambda: last(run, "kubernetes.access") is not None)
        access = last(run, "kubernetes.access")
        assert access is not None
        assert (access.name, access.status) == ("pod.usage", "forbidden")
        assert run.samples == list[Sample]()
        missing = yaml.safe_load(access.state["rule"])
        await asyncio.to_thread(
            api_server.allow, f"{namespace}/almenara", missing, namespace, "usage"
        )
        await run.until(lambda: bool(run.samples))
        await run.until(lambda: not run.is_degraded)
