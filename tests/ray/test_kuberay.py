"""RayClusters and RayJobs on a real API server and a real Ray head; the tests play the operator."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from almenara.bus import retention
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.writer_thread import DATABASE
from almenara.clock import CLOCK, SystemClock
from almenara.config import Secret, Settings, StorageSettings
from almenara.history import Filter, History
from almenara.plugins import PluginRegistry, find_plugin
from almenara.plugins.doctor import diagnose
from almenara.sdk import NotFound
from almenara.signals import Event, Resource, Severity, Signal
from almenara.testing import SourceRun, render_panel
from almenara.testing.source_run import MemoryContext
from almenara_kube.list_watch import Reflector, WatchStatus
from almenara_kube.roles import make_roles
from almenara_ray.kuberay_models import WATCHED
from almenara_ray.kuberay_source import KubeRaySource
from almenara_ray.logs import JobLogs
from almenara_ray.settings import KubeRaySettings, RaySettings
from support.api_server import ApiServer, programs, why_not
from support.kuberay import install, make_object
from support.ray_head import RayHead
from support.ray_source import list_events

pytestmark = pytest.mark.anyio
HOUR = 3_600


@pytest.fixture(scope="module")
def kuberay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server with KubeRay's custom resources; each test has a namespace of its own."""
    if programs() is None:
        pytest.skip(why_not())
    with ApiServer(tmp_path_factory.mktemp("apiserver")) as server:
        install(server)
        yield server


def make_settings(server: ApiServer, head: RayHead, *namespaces: str) -> RaySettings:
    kuberay = KubeRaySettings(
        kubeconfig=server.admin_kubeconfig, namespaces=list(namespaces), dashboard=head.url,
        token=Secret.of(head.token) if head.token else None,
    )  # fmt: skip
    return RaySettings(kuberay=[kuberay], cluster_interval=1.0)


@contextlib.asynccontextmanager
async def run_source(
    server: ApiServer,
    head: RayHead,
    folder: Path,
    context: MemoryContext | None = None,
    namespaces: Sequence[str] = (),
) -> AsyncIterator[SourceRun]:
    settings = make_settings(server, head, *namespaces)
    context = context or MemoryContext(folder)
    source = KubeRaySource(settings.kuberay[0], settings, context)
    async with SourceRun(source, bus=context.bus) as run:
        yield run


class LaterClock(SystemClock):
    """The time of the machine in an hour."""

    def now(self) -> int:
        return super().now() + HOUR * 1_000_000

    def monotonic(self) -> float:
        return super().monotonic() + HOUR


async def read_after_an_hour(signals: Sequence[Signal], folder: Path) -> list[Signal]:
    """What history has of these signals after a restart an hour later, where observations are
    deleted after a quarter of an hour."""
    settings = StorageSettings(dir=folder, sample_retention_age=900.0)
    async with EmbeddedBus(settings) as bus:
        await bus.publish(signals, "ray/kuberay")
    with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as database:
        while retention.remove_step(database, settings, LaterClock().now()):
            pass
        (left,) = database.execute("SELECT count(*) FROM observations").fetchone()
    assert left == 0
    async with EmbeddedBus(settings) as bus:
        return [entry.signal for entry in await History(bus).events(Filter(), limit=500)][::-1]


async def test_rayjob_whose_cluster_is_deleted_after_its_failure_stays_in_history(
    kuberay: ApiServer, head: RayHead, tmp_path: Path
) -> None:
    server, namespace = kuberay, kuberay.namespace("ml")
    cluster = make_object("RayCluster", namespace, "train-x7k2p")
    job = make_object("RayJob", namespace, "train", entrypoint="python train.py", backoffLimit=1)
    submission = "train-h9ztt"
    code = "print('epoch 3'); raise ValueError('loss is nan')"
    context = MemoryContext(tmp_path)
    async with run_source(server, head, tmp_path, context, [namespace]) as run:
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
        lines = JobLogs(make_settings(server, head, namespace), context).lines(
            {"namespace": name, "name": submission}
        )
        async with asyncio.timeout(20):
            async for batch in lines:
                if any("epoch 3" in line.text for line in batch):
                    break
        await asyncio.to_thread(server.patch_status, job, running)
        await run.until(lambda: any(event.type == "ray.rayjob.running" for event in run.events), 30)
        await asyncio.to_thread(head.wait_for, submission, "FAILED")
        # KubeRay reports the failure and deletes the cluster at once.
        failed = {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "reason": "AppFailed",
                  "message": "Job entrypoint command failed with exit code 1", "failed": 1,
                  "endTime": "2026-10-17T10:00:09Z"}  # fmt: skip
        await asyncio.to_thread(server.patch_status, job, {**running, **failed})
        await asyncio.to_thread(server.delete, cluster)
        await asyncio.to_thread(server.delete, job)
        await run.until(lambda: name not in run.resources and "train" not in run.resources, 30)
        events = {event.type: event for event in list_events(run)}
        assert not any(event.type == "ray.job.lost" for event in run.events)
    with pytest.raises(NotFound, match="does not exist"):
        async for _ in JobLogs(make_settings(server, head, namespace), context).lines(
            {"namespace": name, "name": submission}
        ):
            pass
    # Nothing of it exists any more: the page has only history.
    end = events["ray.job.failed"]
    assert end.data["reason"] == "ValueError: loss is nan (exit code 1)"
    assert "epoch 3" in end.data["log"]
    assert end.data["seconds"] >= 1
    assert end.data["snapshot"]["nodes"][0]["total"]["CPU"] == head.cpus
    rayjob_event = events["ray.rayjob.failed"]
    assert rayjob_event.severity is Severity.ERROR
    assert (
        rayjob_event.data["reason"] == "AppFailed: Job entrypoint command failed with exit code 1"
    )
    assert (
        rayjob_event.data["seconds"],
        rayjob_event.data["failed"],
        rayjob_event.data["retries"],
    ) == (9.0, 1, 1)
    assert rayjob_event.correlation == end.correlation
    history = await read_after_an_hour(run.bus.signals, tmp_path / "an-hour")
    assert all(isinstance(event, Event) for event in history)
    CLOCK.set(LaterClock())
    settings = {"kuberay": [{"kubeconfig": str(server.admin_kubeconfig)}]}
    query = {"namespace": name, "name": submission}
    panels = [
        await render_panel("ray", panel, history, settings=settings, query=query)
        for panel in ("job", "job-details")
    ]
    html = "".join(panels)
    node = end.data["snapshot"]["nodes"][0]["name"]
    took = f"{end.data['seconds']:.1f} s"
    for text in ("loss is nan (exit code 1)", "epoch 3", "AppFailed", "FAILED", took, node):
        assert text in html


def count_resources(run: SourceRun) -> int:
    return sum(isinstance(signal, Resource) for signal in run.bus.signals)


async def test_restart_of_almenara_repeats_no_rayjob_event(
    kuberay: ApiServer, head: RayHead, tmp_path: Path
) -> None:
    server, namespace = kuberay, kuberay.namespace("again")
    job = make_object("RayJob", namespace, "again", entrypoint="x")
    await asyncio.to_thread(server.create, job)
    status = {"jobId": "again-1", "rayClusterName": "deleted", "jobStatus": "SUCCEEDED",
              "jobDeploymentStatus": "Complete", "startTime": "2026-10-17T10:00:00Z",
              "endTime": "2026-10-17T10:00:09Z"}  # fmt: skip
    await asyncio.to_thread(server.patch_status, job, status)
    context = MemoryContext(tmp_path)
    async with run_source(server, head, tmp_path, context, [namespace]) as run:
        await run.until(
            lambda: any(event.type == "ray.rayjob.succeeded" for event in run.events), 30
        )
    async with run_source(server, head, tmp_path, context, [namespace]) as again:
        # The list has been read once its resource is published again.
        before = count_resources(again)
        await again.until(lambda: count_resources(again) > before, 30)
    assert [event.type for event in run.events] == ["ray.rayjob.succeeded"]
    # What was deleted while Almenara did not run is deleted now.
    await asyncio.to_thread(server.delete, job)
    async with run_source(server, head, tmp_path, context, [namespace]) as last:
        await last.until(lambda: "again" not in last.resources, 30)


async def test_jobs_of_a_raycluster_deleted_during_downtime_are_lost(
    kuberay: ApiServer, head: RayHead, tmp_path: Path
) -> None:
    server, namespace = kuberay, kuberay.namespace("short")
    cluster = make_object("RayCluster", namespace, "short")
    await asyncio.to_thread(server.create, cluster)
    await asyncio.to_thread(server.patch_status, cluster, {"state": "ready"})
    await asyncio.to_thread(head.submit, "sleep 300", submission_id="interrupted")
    context = MemoryContext(tmp_path)

    def list_types(run: SourceRun) -> list[str]:
        return [event.type for event in run.events if event.subject == "interrupted"]

    async with run_source(server, head, tmp_path, context, [namespace]) as run:
        await run.until(lambda: "ray.job.running" in list_types(run), 60)
    await asyncio.to_thread(server.delete, cluster)
    async with run_source(server, head, tmp_path, context, [namespace]) as again:
        await again.until(lambda: list_types(again)[-1] == "ray.job.lost", 30)
        # Neither the RayCluster nor its jobs and nodes exist any more.
        await again.until(lambda: not again.resources, 30)
    await asyncio.to_thread(head.stop_job, "interrupted")
    assert list_types(again) == ["ray.job.submitted", "ray.job.running", "ray.job.lost"]


async def test_raycluster_beyond_the_limit_is_followed_later(
    kuberay: ApiServer, head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("almenara_ray.kuberay_source.CLUSTER_LIMIT", 1)
    server, namespace = kuberay, kuberay.namespace("many")
    clusters = [make_object("RayCluster", namespace, name) for name in ("one", "two")]
    async with run_source(server, head, tmp_path, None, [namespace]) as run:
        ready = {"state": "ready", "head": {"serviceName": "a-head-svc", "podName": "a-head"}}

        def up(name: str) -> bool:
            return name in run.resources and run.resources[name].status == "up"

        await asyncio.to_thread(server.create, clusters[0])
        await asyncio.to_thread(server.patch_status, clusters[0], ready)
        await run.until(lambda: up("many.one"), 30)
        await asyncio.to_thread(server.create, clusters[1])
        await asyncio.to_thread(server.patch_status, clusters[1], ready)
        await run.until(lambda: run.is_degraded, 30)
        assert "1 RayClusters exceed the limit of 1" in run.degraded_for[-1]
        await asyncio.to_thread(server.delete, clusters[0])
        await run.until(lambda: up("many.two") and not run.is_degraded, 30)


async def test_cluster_without_kuberay_is_healthy(
    own_api_server: ApiServer, head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent: set[str] = set()

    class RecordingReflector(Reflector):
        def __init__(
            self, api: Any, kind: Any, namespace: str, accept: Any, on_status: Any
        ) -> None:
            def record(status: WatchStatus, reason: str) -> None:
                on_status(status, reason)
                if status == "absent":
                    absent.add(kind.plural)

            super().__init__(api, kind, namespace, accept, record)

    monkeypatch.setattr("almenara_ray.kuberay_source.Reflector", RecordingReflector)
    async with run_source(own_api_server, head, tmp_path) as run:
        await run.until(lambda: len(absent) == len(WATCHED), 30)
    assert run.degraded_for == []
    assert run.bus.signals == []


async def test_doctor_names_missing_permissions_and_the_printed_roles_grant_them(
    kuberay: ApiServer, tmp_path: Path
) -> None:
    server, namespace = kuberay, kuberay.namespace("doctor")
    token = server.service_account(namespace, "almenara")
    path = server.kubeconfig(token=token, path=tmp_path / "kubeconfig")
    plugins = PluginRegistry()
    # The Kubernetes plugin itself is not active here.
    plugins.load(find_plugin("ray"))
    place = {"kubeconfig": str(path), "namespaces": [namespace]}
    settings = Settings(plugins={"ray": {"kuberay": [place]}})
    (finding,) = await diagnose(plugins, settings)
    assert (finding.check, finding.verdict) == ("Kubernetes permissions", "warning")
    assert finding.message == (
        "not granted: list, watch of rayclusters.ray.io, raycronjobs.ray.io, rayjobs.ray.io,"
        f" rayservices.ray.io in the namespace {namespace}"
    )
    assert "almenara kubernetes rbac" in finding.remedy
    needed = plugins.requirements(settings)
    for role in make_roles(needed, f"{namespace}/almenara"):
        await asyncio.to_thread(server.create, role)
    (finding,) = await diagnose(plugins, settings)
    assert (finding.verdict, finding.message) == ("ok", "all 8 permissions are granted")
