"""Lists of an API server that do not come as promised: without end, too long, or not at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from almenara.signals import Resource
from almenara.testing.source_run import MemoryContext, SourceRun
from almenara_demo.kubernetes_cluster import SimulatedCluster, make_app, write_kubeconfig
from almenara_kube import list_watch, transport
from almenara_kubernetes.settings import ClusterSettings, KubernetesSettings
from almenara_kubernetes.source import ClusterSource

pytestmark = pytest.mark.anyio

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fault = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


class FaultyServer:
    """A simulated API server whose answers go through `fault`."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.fault: Fault = lambda request, handler: handler(request)
        self.pods = 0

    @contextlib.asynccontextmanager
    async def run(self, folder: Path) -> AsyncIterator[Path]:
        cluster = SimulatedCluster(100)
        self.pods = len(cluster.world.objects["Pod"])
        app = make_app(cluster)

        @web.middleware
        async def intercept(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.requests.append(request.path_qs)
            return await self.fault(request, handler)

        app.middlewares.append(intercept)  # type: ignore[arg-type]
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            await asyncio.to_thread(write_kubeconfig, folder / "kubeconfig", port)
            yield folder / "kubeconfig"
        finally:
            await runner.cleanup()


@contextlib.asynccontextmanager
async def observing(server: FaultyServer, folder: Path, **more: Any) -> AsyncIterator[SourceRun]:
    async with server.run(folder) as kubeconfig:
        cluster = ClusterSettings(kubeconfig=kubeconfig)
        settings = KubernetesSettings(
            **{"clusters": [cluster], "usage": False, "backoff_first": 0.1, **more}
        )
        run = SourceRun(ClusterSource(cluster, settings, MemoryContext(folder))).start()
        try:
            yield run
        finally:
            # The server's tasks are in this loop too, and not left behind by the source.
            await run.stop()


def count(run: SourceRun, kind: str) -> int:
    return len(
        {
            (signal.namespace, signal.name)
            for signal in run.bus.signals
            if isinstance(signal, Resource) and signal.kind == kind and not signal.deleted
        }
    )


def cluster_status(run: SourceRun) -> str:
    statuses = [
        signal.status
        for signal in run.bus.signals
        if isinstance(signal, Resource) and signal.kind == "kubernetes.cluster"
    ]
    return statuses[-1] if statuses else ""


async def never_ending(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A streamed list of pods without anything in it, and without an end."""
    if request.path.endswith("/pods") and "sendInitialEvents" in request.query:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.Event().wait()
    return await handler(request)


async def without_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The same, and pages of pods do not come either."""
    if request.path.endswith("/pods") and "limit" in request.query:
        await asyncio.Event().wait()
    return await never_ending(request, handler)


async def test_streamed_list_without_end_is_replaced_by_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_watch, "LIST_SILENCE", 1.0)
    server = FaultyServer()
    server.fault = never_ending
    async with observing(server, tmp_path) as run:
        await run.until(lambda: count(run, "kubernetes.service") > 0, 15)
        # Until the pods are listed, nothing says that all is well.
        if count(run, "kubernetes.pod") == 0:
            assert cluster_status(run) == "syncing"
        await run.until(lambda: count(run, "kubernetes.pod") == server.pods, 15)
        await run.until(lambda: cluster_status(run) == "ok", 15)


async def test_list_that_hangs_holds_up_no_other_kind_and_is_never_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_watch, "LIST_SILENCE", 1.0)
    server = FaultyServer()
    server.fault = without_pages
    async with observing(server, tmp_path, answer_timeout=5.0) as run:
        await run.until(lambda: count(run, "kubernetes.service") > 0, 10)
        await run.until(lambda: count(run, "kubernetes.node") > 0, 10)
        await run.until(lambda: cluster_status(run) == "partial", 15)
        assert run.is_degraded
        assert "pods" in run.degraded_for[-1]
        assert "ok" not in {
            signal.status
            for signal in run.bus.signals
            if isinstance(signal, Resource) and signal.kind == "kubernetes.cluster"
        }


async def test_page_that_is_too_long_is_requested_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LONGEST_ANSWER", 60_000)
    server = FaultyServer()

    async def pages_alone(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            raise web.HTTPBadRequest
        if request.path.endswith("/pods") and int(request.query.get("limit", "0")) > 40:
            return web.Response(body=b" " * 70_000)
        if request.path.endswith("/pods") and "limit" in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})
        return await handler(request)

    server.fault = pages_alone
    async with observing(server, tmp_path, kinds=["pod"]) as run:
        await run.until(lambda: cluster_status(run) == "ok", 15)
    limits = [path for path in server.requests if "/pods?limit=" in path]
    assert [path.partition("limit=")[2] for path in limits][:5] == [
        "500", "250", "125", "62", "31",
    ]  # fmt: skip


def service_statuses(run: SourceRun) -> dict[str, str]:
    """The last status of each service."""
    return {
        f"{signal.namespace}/{signal.name}": signal.status
        for signal in run.bus.signals
        if isinstance(signal, Resource) and signal.kind == "kubernetes.service"
    }


@pytest.mark.parametrize("status", [403, 404])
async def test_endpoints_of_services_are_unknown_while_slices_are_refused(
    tmp_path: Path, status: int
) -> None:
    server = FaultyServer()
    is_refused = True

    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_refused and request.path.endswith("/endpointslices"):
            return web.json_response({"kind": "Status", "code": status}, status=status)
        return await handler(request)

    server.fault = refuse
    settings = {"refused_every": 0.2, "watch_seconds": 1.0, "kinds": ["service", "endpointslice"]}
    async with observing(server, tmp_path, **settings) as run:

        def has_only(*statuses: str) -> bool:
            return set(service_statuses(run).values()) == {*statuses}

        await run.until(lambda: len(service_statuses(run)) > 0, 15)
        # Refused twice, so that the kind counts as not served.
        await run.until(lambda: sum("/endpointslices" in path for path in server.requests) > 3, 15)
        assert has_only("Unknown")
        is_refused = False
        await run.until(lambda: has_only("Serving"), 15)
        is_refused = True
        await run.until(lambda: has_only("Unknown"), 15)
    assert {signal.status for signal in run.bus.signals if isinstance(signal, Resource)
            and signal.kind == "kubernetes.service"} == {"Unknown", "Serving"}  # fmt: skip


async def test_endpoints_of_services_are_unknown_without_slices(tmp_path: Path) -> None:
    async with observing(FaultyServer(), tmp_path, kinds=["pod", "service"]) as run:
        await run.until(lambda: cluster_status(run) == "ok", 15)
    statuses = service_statuses(run)
    assert statuses
    assert set(statuses.values()) == {"Unknown"}


async def test_endpoints_are_listed_before_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_watch.ListTurn, "LIMIT", 60.0)
    async with observing(FaultyServer(), tmp_path) as run:
        await run.until(lambda: cluster_status(run) == "ok", 15)
    assert {signal.status for signal in run.bus.signals if isinstance(signal, Resource)
            and signal.kind == "kubernetes.service"} == {"Serving"}  # fmt: skip


@pytest.mark.parametrize("answer", ["redirect", "page", "refused page"])
async def test_sign_in_page_in_front_of_a_cluster_is_not_an_api_server(
    tmp_path: Path, answer: str
) -> None:
    server = FaultyServer()

    async def sign_in(_: web.Request, __: Handler) -> web.StreamResponse:
        if answer == "redirect":
            return web.Response(status=302, headers={"location": "https://sso.example.org/"})
        status = 200 if answer == "page" else 403
        return web.Response(
            status=status, text="<html><body>Sign in</body></html>", content_type="text/html"
        )

    server.fault = sign_in
    async with observing(server, tmp_path) as run:
        reason = "not as a Kubernetes API server"
        await run.until(lambda: any(reason in each for each in run.degraded_for), 15)
        await run.until(lambda: cluster_status(run) == "unreachable", 15)
        assert "<html" not in str(run.degraded_for)
