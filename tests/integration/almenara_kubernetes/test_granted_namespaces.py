"""A Role in one namespace is enough: the source finds the namespaces that it may watch."""

import asyncio
from pathlib import Path

import pytest
import yaml

from almenara.signals import Resource
from almenara.testing.source_run import MemoryContext, SourceRun
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings
from almenara_kubernetes.source import ClusterSource
from support.api_server import ApiServer

pytestmark = pytest.mark.anyio
WATCH_PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]


@pytest.fixture
def context(tmp_path: Path) -> MemoryContext:
    return MemoryContext(tmp_path)


def status_of(run: SourceRun, kind: str, name: str) -> str:
    """The last status of a resource, `deleted` once it is; empty for an unknown one."""
    for signal in reversed(run.bus.signals):
        if isinstance(signal, Resource) and (signal.kind, signal.name) == (
            f"kubernetes.{kind}", name,
        ):  # fmt: skip
            return "deleted" if signal.deleted else signal.status
    return ""


def make_source(
    api_server: ApiServer, namespace: str, context: MemoryContext, *kinds: str
) -> ClusterSource:
    token = api_server.service_account(namespace, "almenara")
    path = api_server.kubeconfig(token=token, path=context.data_dir / "kubeconfig")
    tree = yaml.safe_load(path.read_text())
    tree["contexts"][0]["context"]["namespace"] = namespace
    path.write_text(yaml.safe_dump(tree))
    cluster = ClusterSettings(kubeconfig=path)
    chosen = KubernetesSettings(
        clusters=[cluster], kinds=list(kinds), backoff_first=0.1, refused_every=0.3, usage=False
    )
    return ClusterSource(cluster, chosen, context)


async def test_role_in_one_namespace_is_found_and_replaced_by_a_cluster_role(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    account = f"{namespace}/almenara"
    source = make_source(api_server, namespace, context, "pod", "service")
    api_server.allow(account, WATCH_PODS, namespace)
    api_server.pod(namespace, "one")
    async with SourceRun(source) as run:
        await run.until(lambda: status_of(run, "pod", "one") == "Running", 20)
        # Services are forbidden everywhere, which is reported; pods are not.
        await run.until(lambda: status_of(run, "access", "service") == "forbidden", 20)
        await run.until(lambda: status_of(run, "access", "pod") in ("", "deleted"), 20)
        await asyncio.to_thread(api_server.allow, account, WATCH_PODS, None, "everywhere")
        try:
            other = await asyncio.to_thread(api_server.pod, "default", "elsewhere")
            await run.until(lambda: status_of(run, "pod", "elsewhere") == "Running", 20)
            await asyncio.to_thread(api_server.delete, other)
        finally:
            await asyncio.to_thread(api_server.disallow, None, "everywhere")
        published = [
            signal.deleted
            for signal in run.bus.signals
            if isinstance(signal, Resource) and signal.name == "one"
        ]
        assert not any(published)


async def test_kinds_without_namespaces_are_no_problem_beside_a_role(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    source = make_source(api_server, namespace, context)
    everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["list", "watch"]}]
    api_server.allow(f"{namespace}/almenara", everything, namespace)
    api_server.pod(namespace, "one")
    async with SourceRun(source) as run:
        await run.until(lambda: status_of(run, "pod", "one") == "Running", 20)
        await run.until(lambda: status_of(run, "cluster", "cluster") == "ok", 20)
        assert not run.is_degraded
