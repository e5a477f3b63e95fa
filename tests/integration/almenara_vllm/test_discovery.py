"""Servers in the pods of a real API server, and on the nodes that a Ray dashboard lists."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from almenara.config import Secret
from almenara.signals import Resource
from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_demo.simulated_vllm import SimulatedVllm
from almenara_vllm.client import ServerError
from almenara_vllm.doctor import diagnose
from almenara_vllm.permissions import list_rules
from almenara_vllm.settings import KubernetesSettings, RaySettings, VllmSettings
from almenara_vllm.source import VllmSource
from almenara_vllm.targets import KubernetesTargets, parse_addresses, read_endpoints, read_pods
from support.api_server import ApiServer, container
from support.server_process import PatientRun
from support.servers import free_port

pytestmark = pytest.mark.anyio
QUICK = {"every": 0.1, "discover_every": 0.1, "timeout": 5.0}


def make_pod(api_server: ApiServer, namespace: str, name: str, ready: str = "True") -> None:
    api_server.pod(
        namespace, name, metadata={"labels": {"app": "vllm"}},
        status={
            "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [container("main")],
        },
    )  # fmt: skip


def grant(api_server: ApiServer, namespace: str, settings: VllmSettings, folder: Path) -> Path:
    """A kubeconfig with exactly the rights that the plugin names."""
    rules = [
        {"apiGroups": [rule.group], "resources": list(rule.resources), "verbs": list(rule.verbs)}
        for rule in list_rules(settings)
    ]
    token = api_server.service_account(namespace, "almenara")
    api_server.allow(f"{namespace}/almenara", rules, namespace)
    return api_server.kubeconfig(token=token, path=folder / "kubeconfig")


async def test_pods_are_observed_while_they_exist(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    matches = KubernetesSettings(
        name="chat", pods="app=vllm", namespaces=[namespace], port=1,
        kubeconfig=tmp_path / "kubeconfig", **QUICK,
    )  # fmt: skip
    grant(api_server, namespace, VllmSettings(kubernetes=[matches]), tmp_path)
    make_pod(api_server, namespace, "one")
    make_pod(api_server, namespace, "loading", ready="False")
    api_server.pod(namespace, "other")
    with SimulatedVllm() as server:
        matches.port = server.port
        settings, context = VllmSettings(kubernetes=[matches]), MemoryContext(tmp_path / "context")
        async with PatientRun(VllmSource(settings, context), bus=context.bus) as run:
            name = f"chat/{namespace}/one"
            await run.until(lambda: name in run.resources and run.resources[name].status == "idle")
            assert {each for each in run.resources if each.startswith("chat/")} == {name}
            (finding,) = await diagnose(settings)
            assert (finding.verdict, "tiny" in finding.message) == ("ok", True)
            make_pod(api_server, namespace, "two")
            await run.until(lambda: f"chat/{namespace}/two" in run.resources)
            api_server.send(
                "DELETE", f"/api/v1/namespaces/{namespace}/pods/one?gracePeriodSeconds=0"
            )
            await run.until(lambda: name not in run.resources)
            assert not run.is_degraded


async def test_endpoints_of_services_are_listed_and_missing_rights_named(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    pods = KubernetesSettings(name="a", pods="app=embed", namespaces=[namespace])
    kubeconfig = grant(api_server, namespace, VllmSettings(kubernetes=[pods]), tmp_path)
    matches = KubernetesSettings(
        name="embed", services="app=embed", namespaces=[namespace], kubeconfig=kubeconfig,
        port=9000, discover_every=0.001,
    )  # fmt: skip
    api_server.create(
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
         "metadata": {"namespace": namespace, "name": "embed-x", "labels": {"app": "embed"}},
         "endpoints": [
             {"addresses": ["10.0.0.7"], "targetRef": {"kind": "Pod", "name": "embed-0"}},
             {"addresses": ["10.0.0.8"], "conditions": {"ready": False}}]}
    )  # fmt: skip
    targets = KubernetesTargets(matches)
    with pytest.raises(ServerError, match="endpointslices"):
        await targets.list_urls()
    api_server.disallow(namespace)
    api_server.allow(
        f"{namespace}/almenara",
        [{"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]}],
        namespace,
    )
    urls: dict[str, str] = {}
    while not urls:
        try:
            urls = await targets.list_urls()
        except ServerError as error:
            # The authorizer notices a new Role after a moment.
            assert "endpointslices" in str(error)
    await targets.close()
    assert urls == {f"embed/{namespace}/embed-0": "http://10.0.0.7:9000"}


@contextmanager
def dashboard(answer: tuple[int, Any], seen: list[str]) -> Iterator[str]:
    """A dashboard that lists targets, as Ray 2.60 does in `reporter_head.py`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.path} {self.headers.get('x-key', '')}")
            self.send_response(answer[0])
            self.end_headers()
            self.wfile.write(json.dumps(answer[1]).encode())

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


async def test_nodes_of_ray_with_a_model_are_observed(tmp_path: Path) -> None:
    with SimulatedVllm(prefix="ray_vllm_") as node, SimulatedVllm() as idle:
        idle.page = b"ray_node_mem_used 5\n"
        targets = [f"127.0.0.1:{port}" for port in (node.port, idle.port)]
        targets += ["evil.example:80", "127.0.0.1:x", "127.0.0.1"]
        seen: list[str] = []
        listed = [{"labels": {"job": "ray"}, "targets": targets}]
        with dashboard((200, listed), seen) as url:
            ray = RaySettings(
                name="serve", url=url, headers={"x-key": Secret.of("for the dashboard")}, **QUICK
            )
            settings, context = VllmSettings(ray=[ray]), MemoryContext(tmp_path)
            async with PatientRun(VllmSource(settings, context), bus=context.bus) as run:
                name = f"serve/127.0.0.1:{node.port}"
                await run.until(lambda: name in run.resources)
                assert {each for each in run.resources if each.startswith("serve")} == {name}
                assert not run.is_degraded
    assert seen[0] == "/api/prometheus/sd for the dashboard"
    assert set(node.seen) == {"/metrics"}


def has_status(run: SourceRun, server: str, status: str) -> bool:
    """Whether a server, its models and its engines have a status."""
    statuses = {
        each.status for each in run.resources.values() if server in (each.name, each.namespace)
    }
    return statuses == {status}


async def test_servers_of_an_earlier_run_are_unknown_while_they_cannot_be_listed(
    tmp_path: Path,
) -> None:
    context = MemoryContext(tmp_path)
    with SimulatedVllm(prefix="ray_vllm_") as node:
        name = f"serve/127.0.0.1:{node.port}"
        for answer, status in (
            ((200, [{"targets": [f"127.0.0.1:{node.port}"]}]), "idle"),
            ((503, []), "unknown"),
            ((200, [{"targets": [f"127.0.0.1:{node.port}"]}]), "idle"),
        ):
            with dashboard(answer, []) as url:
                settings = VllmSettings(ray=[RaySettings(name="serve", url=url, **QUICK)])
                async with PatientRun(VllmSource(settings, context), bus=context.bus) as run:
                    await run.until(partial(has_status, run, name, status))
        assert not any(
            isinstance(signal, Resource) and signal.deleted and name in signal.key
            for signal in context.bus.signals
        )


async def test_older_ray_and_missing_dashboard_are_named(tmp_path: Path) -> None:
    with dashboard((404, {}), []) as url:
        (old, silent) = await diagnose(
            VllmSettings(
                ray=[
                    RaySettings(name="old", url=url),
                    RaySettings(name="silent", url=f"http://127.0.0.1:{free_port()}"),
                ]
            )
        )
    assert "older than Ray 2.60" in old.message
    assert "refused" in silent.message


def test_addresses_need_a_valid_port() -> None:
    ports = ("8000", "0", "65536", "9" * 5_000, "")
    body = json.dumps([{"targets": [f"10.0.0.1:{port}" for port in ports]}]).encode()
    assert parse_addresses(body) == ["10.0.0.1:8000"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(
        st.sampled_from(["items", "metadata", "status", "podIP", "name", "namespace", "phase",
                         "conditions", "endpoints", "addresses", "targets"]), children),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_any_list_is_read(reply: Any) -> None:
    assert len(list(read_pods(reply))) >= 0
    assert len(list(read_endpoints(reply))) >= 0
    try:
        assert isinstance(parse_addresses(json.dumps(reply).encode()), list)
    except ServerError as error:
        assert "cannot be read" in str(error)
