"""The Ray plugin against dashboards that hang, lie, break off, never end, or redirect."""

import asyncio
import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from almenara.hookspecs import Publish, SourceReport
from almenara.signals import Event, Resource
from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryContext
from almenara_demo.ray_cluster import run_simulated_cluster
from almenara_ray.client import PATHS, DashboardClient
from almenara_ray.doctor import diagnose
from almenara_ray.errors import AnswerTooLargeError, DashboardError
from almenara_ray.settings import ClusterSettings, RaySettings
from almenara_ray.source import RaySource
from support.certificates import issue_self_signed
from support.dashboards import (
    VERSION,
    Handler,
    dripping,
    endless,
    garbage,
    make_settings,
    respond,
    respond_by_path,
    run_in_thread,
    serve,
    silent,
)
from support.paths import FIXTURES
from support.servers import free_port

pytestmark = pytest.mark.anyio


FAULTS: list[tuple[Handler, str]] = [
    (silent, "answer within 0.8 s"),
    (dripping, "no complete answer within 0.8 s"),
    (endless, "longer than 1,000,000 bytes"),
    (garbage, "illegal"),
    (respond(b"oh no", "500 Internal Server Error"), "answers 500, expected 200"),
    (respond(b'[{"submission_id": "a"', length=5000), "closed"),
    (respond(b"<html>sign in</html>"), "its answer is HTML"),
    (respond(b"[1, 2"), "not JSON"),
    (respond(b"{}"), "its job list is not a list"),
    (respond(b"17"), "its job list is not a list"),
    (respond(b"", "302 Found", "location: http://127.0.0.1:1/\r\n"), "a redirect"),
    (respond(b"", "401 Unauthorized"), "the token, or a header, is missing or wrong"),
    (respond(gzip.compress(b"[]"), headers="content-encoding: gzip\r\n"), "compressed"),
]


@pytest.mark.parametrize(("handler", "reason"), FAULTS)
async def test_misbehaving_dashboard_is_reported_in_time(
    handler: Handler, reason: str, tmp_path: Path
) -> None:
    async with asyncio.timeout(15), serve(handler) as url:
        settings = make_settings(url, body_limit=1_000_000)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: "c0" in run.resources and run.resources["c0"].status == "down")
            assert reason in run.resources["c0"].state["reason"]
            assert run.is_degraded
            assert reason in run.degraded_for[-1]
            assert [event.type for event in run.events] == ["ray.cluster.down"]
            published = repr(run.bus.signals) + repr(run.degraded_for)
            assert "t0ken-word" not in published
            assert url.removeprefix("http://") not in published


async def test_doctor_warns_of_a_job_list_that_fails_alone() -> None:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        is_jobs = head.split(" ")[1] == "/api/jobs/"
        await respond(b"x" * 2_000 if is_jobs else VERSION)(head, writer)

    async with serve(answer) as url:
        (finding,) = await diagnose(make_settings(url, body_limit=1_000))
    assert finding.verdict == "warning"
    assert "Ray 2.60.0; its job list cannot be read: its answer is longer" in finding.message
    assert "body_limit" in finding.remedy


async def test_redirect_is_not_followed_and_receives_no_token() -> None:
    requests: list[str] = []

    async def keep(head: str, writer: asyncio.StreamWriter) -> None:
        requests.append(head)
        await respond(b"[]")(head, writer)

    async with serve(keep) as elsewhere:
        redirect = respond(b"", "307 Temporary Redirect", f"location: {elsewhere}/\r\n")
        async with serve(redirect) as url:
            settings = make_settings(url)
            async with DashboardClient(settings.clusters[0], settings) as client:
                for endpoint in PATHS:
                    with pytest.raises(DashboardError, match="a redirect"):
                        await client.get(endpoint, job="a")
    assert requests == []


async def test_client_only_gets_known_paths(tmp_path: Path) -> None:
    heads: list[str] = []

    async def keep(head: str, writer: asyncio.StreamWriter) -> None:
        heads.append(head)
        path = head.split(" ")[1]
        body = [{"submission_id": "a/b", "status": "RUNNING", "start_time": 1_790_000_000_000}]
        await respond(json.dumps(body if path == "/api/jobs/" else {}).encode())(head, writer)

    async with serve(keep) as url:
        settings = make_settings(url)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: len(heads) > 20)
    assert {head.split(" ")[0] for head in heads} == {"GET"}
    paths = {head.split(" ")[1].partition("?")[0].lstrip("/") for head in heads}
    assert paths <= set(PATHS.values())
    assert all("authorization: bearer t0ken-word" in head.lower() for head in heads)
    assert not any("mozilla" in head.lower() for head in heads)


SERVE = "/api/serve/applications/"


async def test_ray_without_some_endpoints_is_up(tmp_path: Path) -> None:
    """Ray 2.1 without Serve has no State API for nodes and answers 501 for applications; an empty
    job list is an object."""
    requested: list[str] = []
    known = {
        "/api/jobs/": b"{}",
        "/api/version": b'{"version": "4", "ray_version": "2.1.0"}',
        "/nodes": json.dumps(
            {"result": True, "data": {"summary": [
                {"hostname": "old", "raylet": {"nodeId": "a" * 56, "state": "ALIVE"}}]}}
        ).encode(),
    }  # fmt: skip
    async with serve(respond_by_path(known, {SERVE: "501 Not Implemented"}, requested)) as url:
        settings = make_settings(url)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: requested.count("/api/version") > 3)
            await run.until(lambda: run.resources["c0"].status == "up")
            assert run.resources["c0"].state["ray"] == "2.1.0"
            assert run.resources["a" * 12].state["host"] == "old"
    # A missing endpoint is not requested every time.
    assert requested.count(SERVE) == 1


async def test_failed_serve_request_deletes_no_application(tmp_path: Path) -> None:
    requested: list[str] = []
    statuses = {SERVE: "200 OK"}
    known = {
        "/api/jobs/": b"[]",
        "/api/version": b'{"version": "4", "ray_version": "2.60.0"}',
        SERVE: b'{"applications": {"chat": {"status": "RUNNING"}}}',
    }
    async with serve(respond_by_path(known, statuses, requested)) as url:
        settings = make_settings(url)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: "chat" in run.resources)
            statuses[SERVE] = "500 Internal Server Error"
            await run.until(lambda: "serve" in str(run.resources["c0"].state))
            requests = requested.count(SERVE)
            await run.until(lambda: requested.count(SERVE) > requests + 1)
            assert "chat" in run.resources
            assert run.resources["c0"].state["applications"] == {"chat": "unknown"}
            statuses[SERVE] = "404 Not Found"
            await run.until(lambda: "chat" not in run.resources)


async def test_certificate_is_verified_with_the_ca_of_the_cluster(
    tmp_path: Path,
) -> None:
    tls = issue_self_signed(tmp_path, days=5)
    async with serve(respond(b"[]"), tls) as url:
        settings = RaySettings(clusters=[ClusterSettings(name="a", url=url)])
        async with DashboardClient(settings.clusters[0], settings) as client:
            with pytest.raises(DashboardError, match="the certificate is not valid: self-signed"):
                await client.get("jobs")
        trusting = ClusterSettings(name="a", url=url, ca=tmp_path / "cert.pem")
        async with DashboardClient(trusting, settings) as client:
            assert await client.get("jobs") == b"[]"


async def test_oversized_job_list_falls_back_to_unfinished_jobs(
    tmp_path: Path,
) -> None:
    status = "RUNNING"

    def job() -> dict[str, Any]:
        ended = 1_790_000_060_000 if status == "FAILED" else None
        return {"submission_id": "a", "status": status, "start_time": 1_790_000_000_000,
                "end_time": ended, "message": "Job failed."}  # fmt: skip

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1]
        if path == "/api/jobs/":
            body = b"[" + b" " * 200_000 + b"]"
        elif path.startswith("/api/v0/jobs?"):
            rows = [job()] if f"filter_values={status}" in path else []
            body = json.dumps({"result": True, "data": {"result": {"result": rows}}}).encode()
        elif path == "/api/jobs/a":
            body = json.dumps(job()).encode()
        else:
            body = b"{}"
        await respond(body)(head, writer)

    async with serve(answer) as url:
        settings = make_settings(url, body_limit=100_000)
        async with DashboardClient(settings.clusters[0], settings) as client:
            with pytest.raises(AnswerTooLargeError):
                await client.get("jobs")
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: any(event.type == "ray.job.running" for event in run.events))
            status = "FAILED"
            await run.until(lambda: any(event.type == "ray.job.failed" for event in run.events))
            assert run.resources["c0"].status == "partial"
            assert "short jobs may be missed" in run.resources["c0"].state["reason"]


@pytest.mark.parametrize(
    ("jobs", "reason"),
    [
        (silent, "no complete answer within"),
        (endless, "no complete answer within"),
        (respond(b"oh no", "500 Internal Server Error"), "answers 500"),
        (respond(b"<html>busy</html>"), "its answer is HTML"),
        (respond(b"{}"), "its job list is not a list"),
    ],
)
async def test_failing_job_list_alone_makes_jobs_unknown_and_not_the_cluster_down(
    jobs: Handler, reason: str, tmp_path: Path
) -> None:
    nodes = (FIXTURES / "ray-2.60" / "nodes.json").read_bytes()
    is_failing = False

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1]
        if path == "/api/jobs/" and is_failing:
            await jobs(head, writer)
        elif path == "/api/jobs/":
            job = {"submission_id": "a", "status": "RUNNING", "start_time": 1_790_000_000_000}
            await respond(json.dumps([job]).encode())(head, writer)
        else:
            await respond(VERSION if path == "/api/version" else nodes)(head, writer)

    async with serve(answer) as url:
        settings = make_settings(url, body_limit=10_000_000_000)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: "c0" in run.resources and "a" in run.resources)
            await run.until(lambda: run.resources["c0"].state["jobs"] == {"RUNNING": 1})
            is_failing = True
            await run.until(lambda: run.resources["c0"].state["jobs"] is None, patience=10)
            turns = count_turns(run)
            await run.until(lambda: count_turns(run) > turns + 1, patience=10)
            cluster = run.resources["c0"]
            assert cluster.status == "partial"
            assert reason in cluster.state["reason"]
            assert reason in run.degraded_for[-1]
            assert run.samples[-1].metric == "nodes"
            assert not any(event.type == "ray.cluster.down" for event in run.events)
            is_failing = False
            await run.until(lambda: run.resources["c0"].state["jobs"] is not None, patience=20)


async def test_many_large_unfinished_jobs_are_listed_without_their_details(tmp_path: Path) -> None:
    """900 pending jobs with 10 kB of metadata: neither list of them fits into the limit."""
    started = 1_790_000_000_000
    ids = [f"job-{number:03d}" for number in range(900)]

    def describe(job: str, detail: bool) -> dict[str, Any]:
        details = {"start_time": started, "metadata": {"note": "x" * 10_000}}
        return {"submission_id": job, "status": "PENDING", **(details if detail else {})}

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1]
        if path == "/api/jobs/":
            body = json.dumps([describe(job, True) for job in ids]).encode()
        elif path.startswith("/api/v0/jobs?"):
            listed = ids if "filter_values=PENDING" in path else []
            rows = [describe(job, "detail=1" in path) for job in listed]
            body = json.dumps({"result": True, "data": {"result": {"result": rows}}}).encode()
        elif path.startswith("/api/jobs/"):
            body = json.dumps(describe(path.removeprefix("/api/jobs/"), True)).encode()
        else:
            body = VERSION
        await respond(body)(head, writer)

    async with serve(answer) as url:
        settings = make_settings(url, body_limit=1_000_000, timeout=4.0)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(
                lambda: "c0" in run.resources and bool(run.resources["c0"].state["jobs"]), 20
            )
            assert run.resources["c0"].status == "partial"
            assert "short jobs may be missed" in run.resources["c0"].state["reason"]
            submitted = {event.subject for event in run.events if event.type == "ray.job.submitted"}
            assert submitted
            assert submitted <= set(ids)


async def test_logs_that_hang_delay_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("almenara_ray.logs.LOG_BUDGET", 0.5)
    jobs = [
        {"submission_id": f"job-{number}", "status": "FAILED", "start_time": 1_790_000_000_000,
         "end_time": 1_790_000_001_000, "driver_node_id": "n"}
        for number in range(40)
    ]  # fmt: skip

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1]
        if path == "/api/jobs/":
            await respond(json.dumps(jobs).encode())(head, writer)
        elif "log" in path:
            await silent(head, writer)
        else:
            await respond(VERSION)(head, writer)

    async with serve(answer) as url:
        # Without a budget the logs take 80 times the timeout, four at a time.
        settings = make_settings(url, timeout=3.0)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(
                lambda: sum(event.type == "ray.job.failed" for event in run.events) == 40, 10
            )
            assert b"could not be read within 0.5 s" in bytes(run.events[-1].data)


async def test_endpoint_that_fails_alone_is_unknown_and_not_zero(tmp_path: Path) -> None:
    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        path = head.split(" ")[1].partition("?")[0]
        body = {"/api/jobs/": b"[]", "/api/version": VERSION}.get(path)
        if body is not None:
            await respond(body)(head, writer)
        else:
            await respond(b"no", "500 Internal Server Error")(head, writer)

    async with serve(answer) as url:
        settings = make_settings(url)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: len(run.samples) > 4)
            cluster = run.resources["c0"]
            assert cluster.status == "partial"
            for part in ("nodes", "waiting", "usage", "actors", "tasks"):
                assert cluster.state[part] is None, part
            assert {sample.metric for sample in run.samples} == {"running", "pending"}


async def test_dashboard_that_answers_again_is_up_and_complete_soon(tmp_path: Path) -> None:
    is_silent = False
    nodes = (FIXTURES / "ray-2.60" / "nodes.json").read_bytes()

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        if is_silent:
            writer.close()
            return
        path = head.split(" ")[1].partition("?")[0]
        bodies = {"/api/jobs/": b"[]", "/api/version": VERSION, "/api/v0/nodes": nodes}
        body = bodies.get(path)
        await respond(body or b"", "200 OK" if body else "404 Not Found")(head, writer)

    async with serve(answer) as url:
        settings = make_settings(url)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: "c0" in run.resources and run.resources["c0"].state["nodes"])
            is_silent = True
            await run.until(lambda: run.resources["c0"].status == "down", patience=10)
            is_silent = False
            await run.until(lambda: run.resources["c0"].status == "up", patience=10)
            turns = count_turns(run)
            await run.until(lambda: count_turns(run) > turns, patience=10)
            node = next(item for item in run.resources.values() if item.kind == "ray.node")
            assert node.status == "alive"
            statuses = [
                signal.status
                for signal in run.bus.signals
                if isinstance(signal, Resource) and signal.name == "c0"
            ]
            # When it stops answering within a round of requests, a part has been answered.
            assert "partial" not in statuses[statuses.index("down") :]


def count_turns(run: SourceRun) -> int:
    """How many rounds of requests for everything besides the jobs are complete."""
    return sum(sample.metric == "nodes" for sample in run.samples)


async def test_dashboard_that_stops_answering_between_two_job_lists_is_stale(
    tmp_path: Path,
) -> None:
    is_silent = False

    async def answer(head: str, writer: asyncio.StreamWriter) -> None:
        if is_silent:
            await silent(head, writer)
        path = head.split(" ")[1]
        await respond(b"[]" if path == "/api/jobs/" else VERSION)(head, writer)

    async with serve(answer) as url:
        settings = make_settings(url, active_interval=600.0, idle_interval=600.0)
        source = RaySource(settings.clusters[0], settings, MemoryContext(tmp_path))
        async with SourceRun(source) as run:
            await run.until(lambda: "c0" in run.resources and bool(run.samples))
            is_silent = True
            await run.until(lambda: run.resources["c0"].status == "stale", patience=10)
            assert run.is_degraded


class CombinedSource:
    """Several sources on one event loop; the supervisor gives each its own."""

    def __init__(self, settings: RaySettings, context: MemoryContext) -> None:
        self.sources = [RaySource(cluster, settings, context) for cluster in settings.clusters]

    async def run(self, publish: Publish, report: SourceReport) -> None:
        async with asyncio.TaskGroup() as group:
            for source in self.sources:
                group.create_task(source.run(publish, report))


async def test_dead_and_hanging_clusters_delay_no_other(
    tmp_path: Path,
) -> None:
    """The intervals and limits are the defaults; only the simulated jobs come faster."""
    ports = [free_port() for _ in range(7)]
    async with contextlib.AsyncExitStack() as stack:
        clusters = []
        for number, port in enumerate(ports):
            clusters.append(
                await stack.enter_async_context(
                    run_in_thread(run_simulated_cluster(port, seed=number))
                )
            )
        hanging = await stack.enter_async_context(serve(silent))
        never_ending = await stack.enter_async_context(serve(endless))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        urls += [hanging, never_ending, f"http://127.0.0.1:{free_port()}"]
        settings = RaySettings(
            clusters=[ClusterSettings(name=f"c{at}", url=url) for at, url in enumerate(urls)]
        )
        run = await stack.enter_async_context(
            SourceRun(CombinedSource(settings, MemoryContext(tmp_path)))
        )
        clock = asyncio.get_running_loop().time
        await run.until(lambda: all(f"c{at}" in run.resources for at in range(10)), patience=15)
        # From here on each job submitted to a healthy cluster is published in time.
        worst = 0.0
        for at, cluster in enumerate(clusters):
            cluster.next_submission = cluster.clock()
            cluster.advance()
            name, started = cluster.jobs[-1].name, clock()

            def is_published(name: str = name, source: str = f"ray/c{at}") -> bool:
                return any(
                    event.subject == name and event.source == source
                    for event in run.bus.signals
                    if isinstance(event, Event)
                )

            await run.until(is_published, patience=10)
            worst = max(worst, clock() - started)
        states = {name: run.resources[name].status for name in (f"c{at}" for at in range(10))}
        assert {states[f"c{at}"] for at in range(7)} == {"up"}
        assert {states[f"c{at}"] for at in range(7, 10)} <= {"stale", "down"}
        print(f"the slowest submission was published after {worst:.2f} s")
