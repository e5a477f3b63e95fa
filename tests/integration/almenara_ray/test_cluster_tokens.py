"""RayClusters with a token of their own, which KubeRay stores in a Secret."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from almenara.signals import Resource
from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_ray.kuberay_source import KubeRaySource
from almenara_ray.logs import JobLogs
from almenara_ray.settings import KubeRaySettings, RaySettings
from support import dashboards
from support.api_server import ApiServer
from support.kuberay import install, make_object

pytestmark = pytest.mark.anyio

SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
KUBERAY = {"apiGroups": ["ray.io"], "resources": ["*"], "verbs": ["list", "watch"]}


class Dashboard:
    """A dashboard that answers requests with its token, and counts the others."""

    def __init__(self, token: str) -> None:
        self.token, self.refused = token, 0

    async def __call__(self, head: str, writer: asyncio.StreamWriter) -> None:
        if f"authorization: bearer {self.token}\r\n".lower() not in head.lower() + "\r\n":
            self.refused += 1
            await dashboards.respond(b"", "401 Unauthorized")(head, writer)
            return
        path = head.split(" ")[1].partition("?")[0]
        known = {"/api/version": dashboards.VERSION, "/api/jobs/": b"[]"}
        status = "200 OK" if path in known else "404 Not Found"
        await dashboards.respond(known.get(path, b"no"), status)(head, writer)


def write_secret(server: ApiServer, namespace: str, name: str, token: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/secrets"
    data = {"auth_token": base64.b64encode(token.encode()).decode()}
    secret = {
        "apiVersion": "v1", "kind": "Secret", "data": data,
        "metadata": {"namespace": namespace, "name": name},
    }  # fmt: skip
    with contextlib.suppress(Exception):
        server.send("DELETE", f"{path}/{name}")
    server.send("POST", path, secret)


def create_cluster(server: ApiServer, namespace: str, name: str, **options: Any) -> None:
    cluster = make_object("RayCluster", namespace, name, authOptions=options)
    server.create(cluster)
    server.patch_status(cluster, {"state": "ready", "head": {"serviceName": "head"}})


@contextlib.asynccontextmanager
async def run_source(
    kubeconfig: Path, url: str, folder: Path, **more: Any
) -> AsyncIterator[tuple[SourceRun, RaySettings, MemoryContext]]:
    kuberay = KubeRaySettings(kubeconfig=kubeconfig, namespaces=["ml"], dashboard=url, **more)
    settings = RaySettings(
        kuberay=[kuberay], active_interval=0.1, idle_interval=0.1, cluster_interval=0.3
    )
    context = MemoryContext(folder)
    async with SourceRun(
        KubeRaySource(settings.kuberay[0], settings, context), bus=context.bus
    ) as run:
        yield run, settings, context


def cluster(run: SourceRun, name: str) -> Resource | None:
    key = ("ray.cluster", "", name)
    return next(
        (
            signal
            for signal in reversed(run.bus.signals)
            if isinstance(signal, Resource) and signal.key == key
        ),
        None,
    )


async def until_status(run: SourceRun, name: str, status: str) -> Resource:
    async with asyncio.timeout(30):
        while (latest := cluster(run, name)) is None or latest.status != status:
            await asyncio.sleep(0.05)
    return latest


async def test_token_of_a_raycluster_is_read_and_renewed(
    own_api_server: ApiServer, tmp_path: Path
) -> None:
    server = own_api_server
    install(server)
    server.namespace("ml")
    kubeconfig = server.kubeconfig(token=server.service_account("ml", "reader"))
    server.allow("ml/reader", [KUBERAY], "ml", name="watch")
    write_secret(server, "ml", "demo", "first-token")
    write_secret(server, "ml", "named", "first-token")
    create_cluster(server, "ml", "demo", mode="token")
    create_cluster(server, "ml", "other", mode="token", secretName="named")
    dashboard = Dashboard("first-token")
    async with dashboards.serve(dashboard) as url:
        async with run_source(kubeconfig, url, tmp_path) as (run, _, _):
            down = await until_status(run, "ml.demo", "down")
            assert "set cluster_tokens of plugins.ray.kuberay to true" in down.state["reason"]
        async with run_source(kubeconfig, url, tmp_path, cluster_tokens=True) as (run, _, _):
            down = await until_status(run, "ml.demo", "down")
            assert "RBAC forbids the Secret 'demo' in namespace 'ml'" in down.state["reason"]
        server.allow("ml/reader", [SECRETS], "ml", name="tokens")
        dashboard.refused = 0
        async with run_source(kubeconfig, url, tmp_path, cluster_tokens=True) as (
            run, settings, context,
        ):  # fmt: skip
            for name in ("ml.demo", "ml.other"):
                await until_status(run, name, "up")
            assert dashboard.refused == 0
            logs = JobLogs(settings, context)
            read = await logs._find_cluster("ml.other")
            assert read is not None
            assert read.token is not None
            assert read.token.reveal() == "first-token"
            # KubeRay creates another token with another cluster.
            for name in ("demo", "named"):
                write_secret(server, "ml", name, "second-token")
            dashboard.token = "second-token"
            async with asyncio.timeout(30):
                while dashboard.refused == 0:
                    await asyncio.sleep(0.02)
            for name in ("ml.demo", "ml.other"):
                await until_status(run, name, "up")
            refused = dashboard.refused
            async with asyncio.timeout(30):
                while dashboard.refused > refused:
                    refused = dashboard.refused
                    await asyncio.sleep(1)
        everything = repr(context.bus.signals)
        assert "first-token" not in everything
        assert "second-token" not in everything
