"""Nothing of KubeRay is shown as healthy while its API server does not answer."""

from pathlib import Path

import pytest

from almenara.signals import Resource
from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_ray.kuberay_source import KubeRaySource
from almenara_ray.settings import KubeRaySettings, RaySettings
from support import dashboards
from support.api_server import ApiServer
from support.faulty_link import FaultyLink
from support.kuberay import install, make_object

pytestmark = pytest.mark.anyio

KUBERAY = {"apiGroups": ["ray.io"], "resources": ["*"], "verbs": ["list", "watch"]}
KINDS = ("ray.raycluster", "ray.rayjob", "ray.rayservice", "ray.cluster")
NODES = (
    b'{"result": true, "data": {"result": {"total": 1, "result":'
    b' [{"node_id": "a1", "state": "ALIVE", "is_head_node": true}]}}}'
)


def create(server: ApiServer, namespace: str) -> None:
    for kind, status in (
        ("RayCluster", {"state": "ready", "head": {"serviceName": "head"}}),
        ("RayJob", {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "jobId": "j"}),
        ("RayService", {"serviceStatus": "Running", "numServeEndpoints": 1,
                        "conditions": [{"type": "Ready", "status": "True"}]}),
    ):  # fmt: skip
        item = make_object(kind, namespace, "it")
        server.create(item)
        server.patch_status(item, status)


def statuses(run: SourceRun) -> dict[str, str]:
    """The last status of each kind."""
    return {each.kind: each.status for each in run.bus.signals if isinstance(each, Resource)}


async def test_custom_resources_are_unknown_while_the_api_server_is_silent(
    own_api_server: ApiServer, tmp_path: Path
) -> None:
    server = own_api_server
    install(server)
    server.namespace("ml")
    create(server, "ml")
    token = server.service_account("ml", "reader")
    server.allow("ml/reader", [KUBERAY], "ml", name="watch")
    known = {"/api/version": dashboards.VERSION, "/api/jobs/": b"[]", "/api/v0/nodes": NODES}
    answer = dashboards.respond_by_path(known, {}, [])
    with FaultyLink(server.port) as link:
        path = server.kubeconfig(token=token, server=f"https://127.0.0.1:{link.port}")
        async with dashboards.serve(answer) as url:
            kuberay = KubeRaySettings(kubeconfig=path, namespaces=["ml"], dashboard=url)
            settings = RaySettings(kuberay=[kuberay], cluster_interval=0.3)
            context = MemoryContext(tmp_path)

            def start() -> SourceRun:
                return SourceRun(KubeRaySource(kuberay, settings, context), bus=context.bus)

            async with start() as run:
                await run.until(lambda: set(KINDS) <= statuses(run).keys(), 30)
                await run.until(lambda: statuses(run).get("ray.node") == "alive", 30)
                healthy = statuses(run)
                assert "unknown" not in healthy.values()
                link.set("silent")
                await run.until(
                    lambda: all(statuses(run)[kind] == "unknown" for kind in KINDS[:3]), 30
                )
                # Its dashboard still answers.
                assert statuses(run)["ray.cluster"] == healthy["ray.cluster"]
                service = next(
                    each
                    for each in reversed(run.bus.signals)
                    if isinstance(each, Resource) and each.kind == "ray.rayservice"
                )
                assert service.state["last_status"] == healthy["ray.rayservice"]
                assert service.state["stale_since"] > 0
                link.set("pass")
                await run.until(lambda: statuses(run) == healthy, 60)
            link.set("refuse")
            async with start() as run:
                await run.until(
                    lambda: (
                        set(KINDS) <= statuses(run).keys()
                        and all(status in ("unknown", "stale") for status in statuses(run).values())
                    ),
                    30,
                )
                link.set("pass")
                await run.until(lambda: statuses(run) == healthy, 60)
