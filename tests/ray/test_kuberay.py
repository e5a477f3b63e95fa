"""RayClusters and RayJobs on a real API server, their head a real Ray; the operator is the test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from almenara.settings import Secret
from almenara.signals import Event, Severity
from almenara.testing import SourceRun, render_panel
from almenara.testing.running import MemoryContext
from almenara_ray.kuberay import KubeRaySource
from almenara_ray.logs import JobLogs
from almenara_ray.settings import KubeRaySettings, RaySettings
from apiserver import ApiError, ApiServer
from ray_head import RayHead
from servers import wait_until

pytestmark = pytest.mark.anyio

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
TIME = {"type": "string", "format": "date-time"}
ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
STATUSES: dict[str, dict[str, Any]] = {
    "RayCluster": {
        "state": TEXT, "reason": TEXT, "desiredWorkerReplicas": NUMBER,
        "availableWorkerReplicas": NUMBER, "readyWorkerReplicas": NUMBER,
        "head": {"type": "object", "properties": {"serviceName": TEXT, "podName": TEXT,
                                                  "podIP": TEXT, "serviceIP": TEXT}},
        "conditions": {"type": "array", "items": ANY},
    },
    "RayJob": {
        "jobId": TEXT, "rayClusterName": TEXT, "dashboardURL": TEXT, "jobStatus": TEXT,
        "jobDeploymentStatus": TEXT, "reason": TEXT, "message": TEXT, "startTime": TIME,
        "endTime": TIME, "succeeded": NUMBER, "failed": NUMBER,
    },
    "RayService": {
        "serviceStatus": TEXT, "numServeEndpoints": NUMBER,
        "conditions": {"type": "array", "items": ANY},
    },
}  # fmt: skip
"""The fields of the statuses as KubeRay publishes them."""


def crd(kind: str) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    schema = {
        "type": "object",
        "properties": {"spec": ANY, "status": {"type": "object", "properties": STATUSES[kind]}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.ray.io"},
        "spec": {
            "group": "ray.io",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }  # fmt: skip


def thing(kind: str, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "ray.io/v1", "kind": kind,
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    }  # fmt: skip


@pytest.fixture
def kuberay(own_api_server: ApiServer) -> ApiServer:
    """A real API server with KubeRay's custom resources."""
    for kind in STATUSES:
        own_api_server.create(crd(kind))

    def served() -> bool:
        # A resource is served a moment after it is known.
        try:
            for kind in STATUSES:
                own_api_server.send("GET", f"/apis/ray.io/v1/{kind.lower()}s")
        except ApiError:
            return False
        return True

    wait_until(served, "the custom resources of KubeRay")
    return own_api_server


def settings(server: ApiServer, head: RayHead) -> RaySettings:
    asked = KubeRaySettings(
        kubeconfig=server.admin_kubeconfig, dashboard=head.url, token=Secret.of(head.token)
    )
    return RaySettings(kuberay=[asked], shape_every=1.0)


@contextlib.asynccontextmanager
async def watching(
    server: ApiServer,
    head: RayHead,
    folder: Path,
    context: MemoryContext | None = None,
    **more: Any,
) -> AsyncIterator[SourceRun]:
    chosen = settings(server, head)
    source = KubeRaySource(chosen.kuberay[0], chosen, context or MemoryContext(folder))
    async with SourceRun(source, **more) as run:
        yield run


async def test_a_rayjob_whose_cluster_is_deleted_right_after_it_failed_keeps_everything(
    kuberay: ApiServer, head: RayHead, tmp_path: Path
) -> None:
    server, namespace = kuberay, kuberay.namespace("ml")
    cluster = thing("RayCluster", namespace, "train-x7k2p")
    job = thing("RayJob", namespace, "train", entrypoint="python train.py", backoffLimit=1)
    submission = "train-h9ztt"
    code = "print('epoch 3'); raise ValueError('loss is nan')"
    context = MemoryContext(tmp_path)
    async with watching(server, head, tmp_path, context) as run:
        await asyncio.to_thread(server.create, cluster)
        await asyncio.to_thread(server.create, job)
        await asyncio.to_thread(
            server.patch_status, cluster,
            {"state": "ready", "desiredWorkerReplicas": 1, "availableWorkerReplicas": 1,
             "head": {"serviceName": "train-x7k2p-head-svc", "podName": "train-x7k2p-head"}},
        )  # fmt: skip
        name = "ml.train-x7k2p"
        await run.until(lambda: name in run.resources and run.resources[name].status == "up", 30)
        await run.until(lambda: bool(run.resources[name].state["nodes"]), 30)
        running = {
            "jobId": submission, "rayClusterName": "train-x7k2p", "jobStatus": "RUNNING",
            "jobDeploymentStatus": "Running", "startTime": "2026-10-17T10:00:00Z",
        }  # fmt: skip
        await asyncio.to_thread(
            head.submit, f'sleep 1; python -c "{code}"', submission_id=submission
        )
        lines = JobLogs(settings(server, head), context).lines(
            {"namespace": name, "name": submission}
        )
        async with asyncio.timeout(20):
            async for batch in lines:
                if any("epoch 3" in it.text for it in batch):
                    break
        await asyncio.to_thread(server.patch_status, job, running)
        await run.until(lambda: any(it.type == "ray.rayjob.running" for it in run.events), 30)
        await asyncio.to_thread(head.wait_for, submission, "FAILED")
        # What KubeRay does of a failed job: told, and its cluster deleted at once.
        failed = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "reason": "AppFailed",
                  "message": "Job entrypoint command failed with exit code 1", "failed": 1,
                  "endTime": "2026-10-17T10:00:09Z"}  # fmt: skip
        await asyncio.to_thread(server.patch_status, job, {**running, **failed})
        await asyncio.to_thread(server.delete, cluster)
        await asyncio.to_thread(server.delete, job)
        await run.until(lambda: name not in run.resources and "train" not in run.resources, 30)
        events = {it.type: it for it in run.events}
        assert not any(it.type == "ray.job.lost" for it in run.events)
    with pytest.raises(LookupError, match="no cluster"):
        async for _ in JobLogs(settings(server, head), context).lines(
            {"namespace": name, "name": submission}
        ):
            pass
    # Nothing of it exists any more: what is shown now is of history alone.
    end = events["ray.job.failed"]
    assert end.data["reason"] == "ValueError: loss is nan (exit code 1)"
    assert "epoch 3" in end.data["log"]
    assert end.data["seconds"] >= 1
    assert end.data["shape"]["nodes"][0]["total"]["CPU"] == head.cpus
    told = events["ray.rayjob.failed"]
    assert told.severity is Severity.ERROR
    assert told.data["reason"] == "AppFailed: Job entrypoint command failed with exit code 1"
    assert (told.data["seconds"], told.data["failed"], told.data["retries"]) == (9.0, 1, 1)
    assert told.correlation == end.correlation
    history = [it for it in run.bus.signals if isinstance(it, Event)]
    html = await render_panel(
        "ray", "job", history,
        settings={"kuberay": [{"kubeconfig": str(server.admin_kubeconfig)}]},
        query={"namespace": name, "name": submission},
    )  # fmt: skip
    for text in ("loss is nan (exit code 1)", "epoch 3", "AppFailed", "FAILED"):
        assert text in html


async def test_a_restart_of_almenara_tells_of_no_rayjob_twice(
    kuberay: ApiServer, head: RayHead, tmp_path: Path
) -> None:
    server, namespace = kuberay, kuberay.namespace("ml")
    job = thing("RayJob", namespace, "again", entrypoint="x")
    await asyncio.to_thread(server.create, job)
    status = {"jobId": "again-1", "rayClusterName": "gone", "jobStatus": "SUCCEEDED",
              "jobDeploymentStatus": "Complete", "startTime": "2026-10-17T10:00:00Z",
              "endTime": "2026-10-17T10:00:09Z"}  # fmt: skip
    await asyncio.to_thread(server.patch_status, job, status)
    context = MemoryContext(tmp_path)
    async with watching(server, head, tmp_path, context) as run:
        await run.until(lambda: any(it.type == "ray.rayjob.succeeded" for it in run.events), 30)
    async with watching(server, head, tmp_path, context, bus=run.bus) as again:
        await again.until(lambda: len(again.bus.repeats) > 0, 30)
    assert [it.type for it in run.events] == ["ray.rayjob.succeeded"]


async def test_a_raycluster_deleted_while_almenara_was_away_takes_its_running_jobs_along(
    kuberay: ApiServer, head: RayHead, tmp_path: Path
) -> None:
    server, namespace = kuberay, kuberay.namespace("ml")
    cluster = thing("RayCluster", namespace, "short")
    await asyncio.to_thread(server.create, cluster)
    await asyncio.to_thread(server.patch_status, cluster, {"state": "ready"})
    await asyncio.to_thread(head.submit, "sleep 300", submission_id="interrupted")
    context = MemoryContext(tmp_path)

    def told(run: SourceRun) -> list[str]:
        return [it.type for it in run.events if it.subject == "interrupted"]

    async with watching(server, head, tmp_path, context) as run:
        await run.until(lambda: "ray.job.running" in told(run), 60)
    await asyncio.to_thread(server.delete, cluster)
    async with watching(server, head, tmp_path, context, bus=run.bus) as again:
        await again.until(lambda: told(again)[-1] == "ray.job.lost", 30)
    await asyncio.to_thread(head.stop_job, "interrupted")
    assert told(again) == ["ray.job.submitted", "ray.job.running", "ray.job.lost"]


async def test_without_kuberay_there_is_nothing_to_watch_and_no_trouble(
    own_api_server: ApiServer, head: RayHead, tmp_path: Path
) -> None:
    async with watching(own_api_server, head, tmp_path) as run:
        heard: list[bool] = []
        run.recovered = lambda: heard.append(True)  # type: ignore[method-assign]
        # The API server answers, and each of the three kinds is absent.
        await run.until(lambda: len(heard) >= 4, 30)
    assert run.degraded_for == []
    assert run.bus.signals == []
