"""A suspended RayCluster is not polled: its head does not exist, though its service does."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from almenara.hookspecs import Publish, SourceReport
from almenara.sdk import HealthAggregator
from almenara.signals import Resource
from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_kube.client import ApiClient
from almenara_ray.cluster_state_store import ClusterStateStore
from almenara_ray.kuberay_models import RayCluster
from almenara_ray.kuberay_source import ClusterFollowers, KubeRaySource
from almenara_ray.settings import KubeRaySettings, RaySettings
from support import dashboards

pytestmark = pytest.mark.anyio
NAME = "ml.train"
READY: dict[str, Any] = {"state": "ready", "head": {"serviceName": "head", "podName": "head-pod"}}
SUSPENSIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "requested": ({"suspend": True}, READY),
    "state": ({}, {"state": "suspended", "head": {"serviceName": "head"}}),
    "suspending": ({}, {**READY, "conditions": [
        {"type": "RayClusterSuspending", "status": "True"},
    ]}),
    "suspended": ({}, {"head": {"serviceName": "head"}, "conditions": [
        {"type": "RayClusterSuspending", "status": "False"},
        {"type": "RayClusterSuspended", "status": "True"},
    ]}),
}  # fmt: skip
"""The spec and the status of a suspended RayCluster; KubeRay keeps the name of its service."""


def make_cluster(spec: dict[str, Any], status: dict[str, Any]) -> RayCluster:
    metadata = {"namespace": "ml", "name": "train", "uid": "u"}
    return msgspec.convert({"metadata": metadata, "spec": spec, "status": status}, RayCluster)


def make_job_list() -> bytes:
    started = int(time.time() * 1000)
    job = {"submission_id": "j", "type": "SUBMISSION", "status": "RUNNING", "start_time": started}
    return json.dumps([job]).encode()


class Watched:
    """A source of one RayCluster, whose states come from the test instead of an API server."""

    name = "ray/kuberay"

    def __init__(self, url: str, context: MemoryContext) -> None:
        kuberay = KubeRaySettings(dashboard=url)
        settings = RaySettings(
            kuberay=[kuberay], active_interval=0.1, idle_interval=0.1, cluster_interval=0.3
        )
        self.source = KubeRaySource(kuberay, settings, context)
        self.name = self.source.name
        self.states = asyncio.Queue[RayCluster]()

    async def run(self, publish: Publish, report: SourceReport) -> None:
        store = ClusterStateStore(self.source.context, self.source.name)
        await store.restore()
        async with asyncio.TaskGroup() as group:
            followers = ClusterFollowers(
                self.source, publish, report, HealthAggregator(report), store, group,
                cast("ApiClient", None),
            )  # fmt: skip
            await followers.restore()
            while True:
                await followers.update(await self.states.get())


def status_of(run: SourceRun, kind: str, namespace: str, name: str) -> str:
    """The last status of a resource; empty for one that does not exist."""
    resources = [
        each
        for each in run.bus.signals
        if isinstance(each, Resource) and each.key == (kind, namespace, name)
    ]
    return resources[-1].status if resources and not resources[-1].deleted else ""


@pytest.mark.parametrize("suspension", SUSPENSIONS)
async def test_suspended_cluster_is_closed_and_followed_again_when_it_is_resumed(
    tmp_path: Path, suspension: str
) -> None:
    ready, suspended = make_cluster({}, READY), make_cluster(*SUSPENSIONS[suspension])
    known = {"/api/version": dashboards.VERSION, "/api/jobs/": make_job_list()}
    statuses: dict[str, str] = {}
    requested: list[str] = []
    context = MemoryContext(tmp_path)
    async with dashboards.serve(dashboards.respond_by_path(known, statuses, requested)) as url:

        @asynccontextmanager
        async def start() -> AsyncIterator[tuple[SourceRun, "asyncio.Queue[RayCluster]"]]:
            source = Watched(url, context)
            async with SourceRun(source, bus=context.bus) as run:
                yield run, source.states

        def is_up() -> bool:
            return status_of(run, "ray.job", NAME, "j") == "RUNNING"

        def is_closed() -> bool:
            return status_of(run, "ray.cluster", "", NAME) == ""

        async with start() as (run, states):
            states.put_nowait(ready)
            await run.until(is_up)
            states.put_nowait(suspended)
            await run.until(is_closed)
            (lost,) = [event for event in run.events if event.type == "ray.job.lost"]
            assert b"its RayCluster was suspended" in bytes(lost.data)
            statuses.update(dict.fromkeys(known, "503 Service Unavailable"))
            requested.clear()
            states.put_nowait(suspended)
            await run.until(states.empty)
            statuses.clear()
            assert requested == []
            known["/api/jobs/"] = make_job_list()
            states.put_nowait(ready)
            await run.until(is_up)
        # It is suspended while Almenara does not run.
        async with start() as (run, states):
            states.put_nowait(suspended)
            await run.until(is_closed)
    types = [event.type for event in run.events]
    assert types.count("ray.job.lost") == 2
    assert "ray.cluster.down" not in types
