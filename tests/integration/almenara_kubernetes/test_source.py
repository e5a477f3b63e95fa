"""The Kubernetes source against a real API server: RBAC on, real tokens."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from almenara.signals import Resource
from almenara.testing.source_run import MemoryContext, SourceRun
from almenara_kube import credentials, session as session_module
from almenara_kube.access_review import review
from almenara_kube.roles import make_roles
from almenara_kubernetes.doctor import diagnose
from almenara_kubernetes.rbac import needed_rules
from almenara_kubernetes.settings import ClusterSettings, CustomResource, KubernetesSettings
from almenara_kubernetes.source import ClusterSource
from support.api_server import ApiServer

pytestmark = pytest.mark.anyio

LABEL = "almenara-test"
WATCH_PODS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]


@pytest.fixture
def context(tmp_path: Path) -> MemoryContext:
    return MemoryContext(tmp_path)


def settings(cluster: ClusterSettings, **more: Any) -> KubernetesSettings:
    return KubernetesSettings(
        **{
            "clusters": [cluster],
            "backoff_first": 0.1,
            "refused_every": 0.3,
            "usage": False,
            **more,
        }
    )


def source(chosen: KubernetesSettings, context: MemoryContext) -> ClusterSource:
    return ClusterSource(chosen.clusters[0], chosen, context)


def of(run: SourceRun, kind: str, name: str) -> Resource | None:
    """A resource as it was last published, deleted or not."""
    match = [
        each
        for each in run.bus.signals
        if isinstance(each, Resource) and each.kind == f"kubernetes.{kind}" and each.name == name
    ]
    return match[-1] if match else None


def says(run: SourceRun, kind: str, name: str, status: str) -> Callable[[], bool]:
    return lambda: (each := of(run, kind, name)) is not None and each.status == status


def gone(run: SourceRun, kind: str, name: str) -> Callable[[], bool]:
    return lambda: (each := of(run, kind, name)) is not None and each.deleted


async def test_source_publishes_a_pod_through_its_life(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    cluster = ClusterSettings(kubeconfig=api_server.admin_kubeconfig, namespaces=[namespace])
    api_server.pod(namespace, "before")
    async with SourceRun(source(settings(cluster), context)) as run:
        await run.until(says(run, "pod", "before", "Running"), 15)
        pod = await asyncio.to_thread(api_server.pod, namespace, "after")
        await run.until(says(run, "pod", "after", "Running"))
        failed = {"phase": "Failed", "reason": "Evicted"}
        await asyncio.to_thread(api_server.patch_status, pod, failed)
        await run.until(says(run, "pod", "after", "Evicted"))
        await asyncio.to_thread(api_server.delete, pod)
        await run.until(gone(run, "pod", "after"))
        await run.until(says(run, "cluster", "cluster", "ok"), 15)
        assert not run.is_degraded
        cluster_told = of(run, "cluster", "cluster")
        assert cluster_told is not None
        assert (cluster_told.status, cluster_told.state["version"]) == ("ok", "1.37")


async def test_source_works_with_exactly_the_printed_role(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    token = api_server.service_account(namespace, "almenara")
    path = api_server.kubeconfig(token=token, path=context.data_dir / "kubeconfig")
    chosen = settings(ClusterSettings(kubeconfig=path, namespaces=[namespace]), usage=True)
    for each in make_roles(needed_rules(chosen), f"{namespace}/almenara"):
        api_server.create(each)
    api_server.pod(namespace, "one")
    async with SourceRun(source(chosen, context)) as run:
        await run.until(says(run, "pod", "one", "Running"), 15)
        await run.until(says(run, "cluster", "cluster", "ok"))
        # Nothing stands in the way of any kind: every one has been listed.
        assert not [each for each in run.resources.values() if each.kind == "kubernetes.access"]
        findings = [*await diagnose(chosen), *(await review(needed_rules(chosen)) or ())]
    assert [each.verdict for each in findings] == ["ok", "ok"]
    assert "permissions are granted" in findings[-1].message


async def test_source_works_with_exactly_the_printed_cluster_role(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    token = api_server.service_account(namespace, "almenara")
    path = api_server.kubeconfig(token=token, path=context.data_dir / "kubeconfig")
    labelled = {"metadata": {"labels": {LABEL: namespace}}}
    api_server.patch(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, labelled
    )
    cluster = ClusterSettings(kubeconfig=path, namespace_selector=f"{LABEL}={namespace}")
    chosen = settings(cluster, kinds=["pod", "deployment", "node"])
    made = make_roles(needed_rules(chosen), f"{namespace}/almenara")
    assert [each["kind"] for each in made] == ["ClusterRole", "ClusterRoleBinding"]
    try:
        for each in made:
            api_server.create(each)
        api_server.pod(namespace, "one")
        async with SourceRun(source(chosen, context), bus=context.bus) as run:
            await run.until(says(run, "pod", "one", "Running"), 15)
            await run.until(lambda: not run.is_degraded, 15)
            unlabelled = {"metadata": {"labels": {LABEL: None}}}
            each = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            await asyncio.to_thread(api_server.patch, each, unlabelled)
            await run.until(gone(run, "pod", "one"))
            await asyncio.to_thread(api_server.patch, each, labelled)
            await run.until(says(run, "pod", "one", "Running"))
        # What lost its labels meanwhile is deleted as well.
        await asyncio.to_thread(api_server.patch, each, unlabelled)
        async with SourceRun(source(chosen, context), bus=context.bus) as run:
            await run.until(gone(run, "pod", "one"), 15)
    finally:
        api_server.disallow(name="almenara-kubernetes")


async def test_source_reports_forbidden_kinds_with_the_missing_rule(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    token = api_server.service_account(namespace, "almenara")
    api_server.allow(f"{namespace}/almenara", WATCH_PODS, namespace)
    path = api_server.kubeconfig(token=token, path=context.data_dir / "kubeconfig")
    cluster = ClusterSettings(kubeconfig=path, namespaces=[namespace])
    chosen = settings(cluster, kinds=["pod", "service"])
    api_server.pod(namespace, "one")
    async with SourceRun(source(chosen, context)) as run:
        await run.until(says(run, "pod", "one", "Running"), 15)
        await run.until(says(run, "access", "service", "forbidden"))
        await run.until(lambda: run.is_degraded)
        assert f"RBAC forbids service in {namespace}" in run.degraded_for[-1]
        access = of(run, "access", "service")
        assert access is not None
        (rule,) = yaml.safe_load(access.state["rule"])
        assert f"a Role in the namespace {namespace}" in access.state["rule"]
        findings = [*await diagnose(chosen), *(await review(needed_rules(chosen)) or ())]
        assert [each.verdict for each in findings] == ["ok", "warning"]
        missing = f"not granted: list, watch of services in the namespace {namespace}"
        assert findings[-1].message == missing
        # Granting what was named, and nothing else, mends it.
        await asyncio.to_thread(
            api_server.allow, f"{namespace}/almenara", [rule], namespace, "more"
        )
        await run.until(gone(run, "access", "service"))
        await run.until(lambda: not run.is_degraded)
        # Taken away again, it is published again.
        await asyncio.to_thread(api_server.disallow, namespace, "more")
        await asyncio.to_thread(api_server.pod, namespace, "two")
        await run.until(says(run, "pod", "two", "Running"))


async def test_source_restart_publishes_deletions_and_repeats_nothing(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    cluster = ClusterSettings(kubeconfig=api_server.admin_kubeconfig, namespaces=[namespace])
    chosen, bus = settings(cluster), context.bus
    staying, going = (api_server.pod(namespace, name) for name in ("staying", "going"))
    async with SourceRun(source(chosen, context), bus=bus) as run:
        await run.until(says(run, "pod", "going", "Running"), 15)
        await asyncio.to_thread(api_server.patch_status, staying, {"phase": "Failed"})
        await run.until(lambda: of(run, "pod", "staying").status != "Running")  # type: ignore[union-attr]
    api_server.delete(going)
    events = len(run.events)
    async with SourceRun(source(chosen, context), bus=bus) as again:
        await again.until(gone(again, "pod", "going"), 15)
    assert len(again.events) == events


async def test_source_watches_custom_resources(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    group = f"{namespace}.example.org"
    cluster = ClusterSettings(kubeconfig=api_server.admin_kubeconfig, namespaces=[namespace])
    lamp = CustomResource(
        group=group, version="v1", plural="lamps", kind="Lamp", status="status.light"
    )
    chosen = settings(cluster, kinds=["pod"], custom=[lamp])
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    async with SourceRun(source(chosen, context)) as run:
        # The kind comes into being while we run, as when an operator is installed.
        await run.until(says(run, "cluster", "cluster", "ok"), 15)
        await asyncio.to_thread(
            api_server.create,
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"lamps.{group}"},
                "spec": {
                    "group": group, "scope": "Namespaced",
                    "names": {"plural": "lamps", "kind": "Lamp"},
                    "versions": [{"name": "v1", "served": True, "storage": True,
                                  "schema": {"openAPIV3Schema": schema}}],
                },
            },
        )  # fmt: skip
        thing = {
            "apiVersion": f"{group}/v1", "kind": "Lamp", "status": {"light": "green"},
            "metadata": {"namespace": namespace, "name": "one"},
        }  # fmt: skip

        async def lit() -> bool:
            try:
                path = api_server.path(f"{group}/v1", "Lamp", namespace)
                await asyncio.to_thread(api_server.send, "POST", path, thing)
            except Exception:
                return False
            return True

        async with asyncio.timeout(20):
            while not await lit():
                await asyncio.sleep(0.1)
        await run.until(says(run, f"custom.lamps.{group}", "one", "green"), 15)


async def test_source_reloads_replaced_token_files(
    api_server: ApiServer,
    namespace: str,
    context: MemoryContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account = context.data_dir / "account"
    account.mkdir()
    (account / "ca.crt").write_bytes(api_server.ca.read_bytes())
    (account / "token").write_text(api_server.service_account(namespace, "first"))
    api_server.allow(f"{namespace}/first", WATCH_PODS, namespace, "first")
    api_server.service_account(namespace, "second")
    api_server.allow(f"{namespace}/second", WATCH_PODS, namespace, "second")
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", account)
    monkeypatch.setattr(session_module, "REFUSED_PAUSE", 0.1)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api_server.port))
    cluster = ClusterSettings(namespaces=[namespace])
    async with SourceRun(source(settings(cluster, kinds=["pod"], watch_seconds=1), context)) as run:
        await asyncio.to_thread(api_server.pod, namespace, "one")
        await run.until(says(run, "pod", "one", "Running"), 15)
        # The first account is deleted, which ends its tokens at once: the API server says 401.
        (account / "token").write_text(api_server.token(namespace, "second"))
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/first"
        await asyncio.to_thread(api_server.send, "DELETE", path)
        await asyncio.to_thread(api_server.pod, namespace, "two")
        await run.until(says(run, "pod", "two", "Running"), 20)
        await asyncio.sleep(0)
        await run.until(lambda: not run.is_degraded)


async def test_source_uses_an_exec_plugin_and_reports_its_failure(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    token = api_server.service_account(namespace, "almenara")
    api_server.allow(f"{namespace}/almenara", WATCH_PODS, namespace)
    plugin = context.data_dir / "plugin.py"
    plugin.write_text(
        "import json\nprint(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1',"
        f" 'kind': 'ExecCredential', 'status': {{'token': '{token}'}}}}))"
    )
    path = api_server.kubeconfig(
        exec_plugin=[sys.executable, str(plugin)], path=context.data_dir / "kubeconfig"
    )
    cluster = ClusterSettings(kubeconfig=path, context="tests", namespaces=[namespace])
    api_server.pod(namespace, "one")
    async with SourceRun(source(settings(cluster, kinds=["pod"]), context)) as run:
        await run.until(says(run, "pod", "one", "Running"), 15)
    plugin.write_text("import sys; sys.exit('no such profile')")
    async with SourceRun(source(settings(cluster, kinds=["pod"]), context)) as run:
        await run.until(lambda: run.is_degraded, 15)
        await run.until(lambda: any("no such profile" in each for each in run.degraded_for), 15)
    assert token not in f"{run.degraded_for} {run.bus.signals}"


@pytest.mark.parametrize("by", ["token file", "exec plugin"])
async def test_source_reloads_credentials_that_are_refused(
    api_server: ApiServer,
    namespace: str,
    context: MemoryContext,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    written, plugin = context.data_dir / "token", context.data_dir / "plugin.py"
    written.write_text(api_server.service_account(namespace, "first"))
    plugin.write_text(
        "import json, pathlib\nprint(json.dumps({'apiVersion':"
        " 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential', 'status': {'token':"
        f" pathlib.Path({str(written)!r}).read_text()}}}}))"
    )
    leads: dict[str, Any] = (
        {"token_file": written}
        if by == "token file"
        else {"exec_plugin": [sys.executable, str(plugin)]}
    )
    path = api_server.kubeconfig(path=context.data_dir / "kubeconfig", **leads)
    second = api_server.service_account(namespace, "second")
    for name in ("first", "second"):
        api_server.allow(f"{namespace}/{name}", WATCH_PODS, namespace, name)
    monkeypatch.setattr(session_module, "REFUSED_PAUSE", 0.1)
    cluster = ClusterSettings(kubeconfig=path, namespaces=[namespace])
    async with SourceRun(source(settings(cluster, kinds=["pod"], watch_seconds=1), context)) as run:
        await asyncio.to_thread(api_server.pod, namespace, "one")
        await run.until(says(run, "pod", "one", "Running"), 15)
        written.write_text(second)
        account = f"/api/v1/namespaces/{namespace}/serviceaccounts/first"
        await asyncio.to_thread(api_server.send, "DELETE", account)
        await asyncio.to_thread(api_server.pod, namespace, "two")
        await run.until(says(run, "pod", "two", "Running"), 20)
        await run.until(lambda: not run.is_degraded)


async def test_source_names_a_missing_or_wrong_kubeconfig(
    api_server: ApiServer, context: MemoryContext
) -> None:
    path = context.data_dir / "kubeconfig"
    chosen = settings(ClusterSettings(kubeconfig=path))
    (finding,) = await diagnose(chosen)
    assert finding.verdict == "failed"
    assert f"the kubeconfig {path} does not exist" in finding.message
    path.write_text("clusters: nonsense")
    async with SourceRun(source(chosen, context)) as run:
        await run.until(lambda: any(str(path) in each for each in run.degraded_for), 15)
        # Once it is there it is used, without a restart.
        path.write_text(api_server.admin_kubeconfig.read_text())
        await run.until(lambda: not run.is_degraded, 15)


async def test_source_names_resources_by_cluster(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    named = [
        ClusterSettings(name=name, kubeconfig=api_server.admin_kubeconfig, namespaces=[namespace])
        for name in ("east", "west")
    ]
    chosen = KubernetesSettings(clusters=named, kinds=["pod"], usage=False)
    api_server.pod(namespace, "one")
    for cluster in named:
        each = ClusterSource(cluster, chosen, context)
        assert each.name == f"kubernetes-{cluster.name}"
        async with SourceRun(each) as run:
            await run.until(says(run, "pod", "one", "Running"), 15)
        published = of(run, "pod", "one")
        assert published is not None
        assert published.namespace == f"{cluster.name}/{namespace}"


async def test_source_restart_keeps_nodes_of_a_named_cluster(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{namespace}"}}
    api_server.create(node)
    cluster = ClusterSettings(
        name="east", kubeconfig=api_server.admin_kubeconfig, namespaces=[namespace]
    )
    chosen = settings(cluster, kinds=["pod", "node"])
    name = f"node-{namespace}"
    for number in range(2):
        async with SourceRun(source(chosen, context), bus=context.bus) as run:
            # A pod that is new each time, so that its being published is of this run.
            pod = await asyncio.to_thread(api_server.pod, namespace, f"pod-{number}")
            await run.until(says(run, "pod", f"pod-{number}", "Running"), 15)
            await run.until(lambda: of(run, "node", name) is not None)
            await asyncio.to_thread(api_server.delete, pod)
    published = [
        each for each in context.bus.signals if isinstance(each, Resource) and each.name == name
    ]
    assert not [each for each in published if each.deleted]
    await asyncio.to_thread(api_server.delete, node)


async def test_source_forgets_problems_of_a_namespace_without_labels(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    token = api_server.service_account(namespace, "almenara")
    watch = [{"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]}]
    api_server.allow(f"{namespace}/almenara", watch, name=f"watch-{namespace}")
    path = api_server.kubeconfig(token=token, path=context.data_dir / "kubeconfig")
    each = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    api_server.patch(each, {"metadata": {"labels": {LABEL: namespace}}})
    cluster = ClusterSettings(kubeconfig=path, namespace_selector=f"{LABEL}={namespace}")
    chosen = settings(cluster, kinds=["pod"], usage=True, usage_every=0.2)
    async with SourceRun(source(chosen, context)) as run:
        await run.until(says(run, "access", "pod.usage", "forbidden"), 15)
        await run.until(lambda: run.is_degraded)
        await asyncio.to_thread(api_server.patch, each, {"metadata": {"labels": {LABEL: None}}})
        await run.until(gone(run, "access", "pod.usage"))
        await run.until(lambda: not run.is_degraded)
        await run.until(lambda: "usage" not in run.resources["cluster"].state)
    api_server.disallow(name=f"watch-{namespace}")


async def test_source_publishes_no_secret_of_a_pod(
    api_server: ApiServer, namespace: str, context: MemoryContext
) -> None:
    cluster = ClusterSettings(kubeconfig=api_server.admin_kubeconfig, namespaces=[namespace])
    env = [{"name": "PASSWORD", "value": "sw0rdfish"}]
    api_server.pod(
        namespace, "one", spec={"containers": [{"name": "main", "image": "x", "env": env}]}
    )
    secret = {
        "apiVersion": "v1", "kind": "Secret", "stringData": {"password": "sw0rdfish"},
        "metadata": {"namespace": namespace, "name": "keys"},
    }  # fmt: skip
    api_server.create(secret)
    async with SourceRun(source(settings(cluster), context)) as run:
        await run.until(says(run, "pod", "one", "Running"), 15)
    assert "sw0rdfish" not in repr(run.bus.signals)
    assert "managedFields" not in repr(run.bus.signals)
