"""Logs through a real API server, from a kubelet that the test plays."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from almenara.hookspecs import Line
from almenara.sdk import NotFound
from almenara_kubernetes.logs import PodLogs
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings
from support.api_server import ApiServer, container
from support.kubelet import Kubelet, node_of
from support.servers import free_port

pytestmark = pytest.mark.anyio

RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
]


async def test_logs_continue_after_a_break_and_repeat_no_line(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    stamp = b"2026-01-01T00:00:0%d.00000000%dZ %s\n"
    first = stamp % (1, 1, b"hello") + stamp % (1, 2, b"ERROR broken")
    second = first + stamp % (2, 3, b"<b>again</b>")
    kubelet = Kubelet(api_server)
    kubelet.answers = [first, second]
    async with kubelet.running() as port:
        node = node_of(namespace, port)
        await asyncio.to_thread(api_server.create, node)
        spec: dict[str, Any] = {
            "nodeName": f"node-{namespace}", "containers": [{"name": "main", "image": "x"}],
        }  # fmt: skip
        await asyncio.to_thread(api_server.pod, namespace, "one", spec=spec)
        token = await asyncio.to_thread(api_server.service_account, namespace, "almenara")
        await asyncio.to_thread(api_server.allow, f"{namespace}/almenara", RULES, namespace)
        path = api_server.kubeconfig(token=token, path=tmp_path / "kubeconfig")
        chosen = KubernetesSettings(clusters=[ClusterSettings(kubeconfig=path)], logs=True)
        matches: list[Line] = []
        async with asyncio.timeout(20):
            async for batch in PodLogs(chosen).lines({"namespace": namespace, "name": "one"}):
                matches += batch
        await asyncio.to_thread(api_server.delete, node)
    assert [each.text for each in matches] == ["hello", "ERROR broken", "<b>again</b>"]
    assert matches[1].severity.name == "ERROR"
    assert matches[0].time == 1_767_225_601_000_000
    assert "sinceTime" in kubelet.requests[-1]


async def test_logs_of_any_container_or_the_default_ones(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    kubelet = Kubelet(api_server)
    kubelet.answers = [b"2026-01-01T00:00:01.5Z hello\n"]
    path = api_server.kubeconfig(client=api_server.admin_certificate, path=tmp_path / "kubeconfig")
    chosen = KubernetesSettings(clusters=[ClusterSettings(kubeconfig=path)], logs=True)

    async def read(pod: str, **filters: str) -> tuple[set[str], set[str]]:
        """The containers whose log the kubelet served, and those with lines."""
        kubelet.requests.clear()
        matches: list[Line] = []
        async with asyncio.timeout(20):
            selection = {"namespace": namespace, "name": pod, **filters}
            async for batch in PodLogs(chosen).lines(selection):
                matches += batch
        assert all(each.text == "hello" for each in matches)
        return (
            {each.partition("?")[0].rpartition("/")[2] for each in kubelet.requests},
            {each.source for each in matches},
        )

    async with kubelet.running() as port:
        node = node_of(namespace, port)
        await asyncio.to_thread(api_server.create, node)
        spec = {
            "nodeName": f"node-{namespace}",
            "initContainers": [{"name": "prepare", "image": "x"}],
            "containers": [{"name": "main", "image": "x"}, {"name": "side", "image": "x"}],
        }  # fmt: skip
        waiting = {"waiting": {"reason": "PodInitializing"}}
        initial = {
            "phase": "Pending",
            "containerStatuses": [
                container(name, ready=False, state=waiting) for name in ("main", "side")
            ],
        }
        pod = await asyncio.to_thread(api_server.pod, namespace, "one", spec=spec, status=initial)
        debugging = {
            "metadata": pod["metadata"],
            "spec": {**pod["spec"], "ephemeralContainers": [{
                "name": "debugger", "image": "x", "terminationMessagePolicy": "File",
                "imagePullPolicy": "Always",
            }]},
        }  # fmt: skip
        address = f"/api/v1/namespaces/{namespace}/pods/one"
        await asyncio.to_thread(
            api_server.send, "PUT", f"{address}/ephemeralcontainers",
            {"apiVersion": "v1", "kind": "Pod", **debugging},
        )  # fmt: skip
        for name in ("prepare", "main", "debugger"):
            assert await read("one", container=name) == ({name}, {""})
        assert await read("one") == (
            {"prepare", "main", "side"}, {"prepare", "main", "side"}
        )  # fmt: skip
        running = {"phase": "Running", "containerStatuses": [container("main"), container("side")]}
        await asyncio.to_thread(api_server.patch_status, pod, running)
        assert await read("one") == ({"main", "side"}, {"main", "side"})
        named = {"annotations": {"kubectl.kubernetes.io/default-container": "side"}}
        await asyncio.to_thread(api_server.patch, pod, {"metadata": named})
        assert await read("one") == ({"side"}, {""})
        with pytest.raises(NotFound, match="container nobody is not valid for pod one"):
            await read("one", container="nobody")
        # What has yet to start is waited for.
        starting = b'container "side" in pod "one" is waiting to start: ContainerCreating'
        kubelet.refusals = [starting, starting]
        assert await read("one") == ({"side"}, {""})
        assert len(kubelet.requests) >= 3
        await asyncio.to_thread(api_server.delete, node)


async def test_logs_need_to_be_enabled(tmp_path: Path) -> None:
    chosen = KubernetesSettings(clusters=[ClusterSettings(kubeconfig=tmp_path / "none")])
    with pytest.raises(NotFound, match="logs are switched off"):
        async for _ in PodLogs(chosen).lines({"namespace": "a", "name": "b"}):
            pass
    chosen = KubernetesSettings(
        clusters=[ClusterSettings(kubeconfig=tmp_path / "none", namespaces=["a"])], logs=True
    )
    for namespace, name in (("a", "../secrets/x"), ("a/../b", "c"), ("b", "c"), ("", "")):
        with pytest.raises(NotFound):
            async for _ in PodLogs(chosen).lines({"namespace": namespace, "name": name}):
                pass


async def test_logs_report_why_the_node_does_not_send_them_and_continue(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    kubelet = Kubelet(api_server)
    kubelet.answers = [b"2026-01-01T00:00:01.5Z hello\n"]
    path = api_server.kubeconfig(client=api_server.admin_certificate, path=tmp_path / "kubeconfig")
    settings = KubernetesSettings(clusters=[ClusterSettings(kubeconfig=path)], logs=True)
    port = free_port()
    node = node_of(namespace, port)
    await asyncio.to_thread(api_server.create, node)
    spec: dict[str, Any] = {
        "nodeName": f"node-{namespace}", "containers": [{"name": "main", "image": "x"}],
    }  # fmt: skip
    await asyncio.to_thread(api_server.pod, namespace, "one", spec=spec)
    matches: list[Line] = []
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(30):
        async for batch in PodLogs(settings).lines({"namespace": namespace, "name": "one"}):
            if not matches:
                await stack.enter_async_context(kubelet.running(port))
            matches += batch
    await asyncio.to_thread(api_server.delete, node)

    assert "connection refused" in matches[0].text
    assert matches[0].severity.name == "WARN"
    assert [line.text for line in matches[1:]] == ["hello"]
