"""The Ray plugin against a real head of a real Ray, its token on."""

import asyncio
import collections
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from almenara.config import Secret
from almenara.sdk import NotFound
from almenara.signals import Severity
from almenara.testing.source_run import MemoryContext
from almenara_ray.client import DashboardClient
from almenara_ray.doctor import diagnose
from almenara_ray.errors import AccessDeniedError, DashboardError
from almenara_ray.logs import JobLogs
from almenara_ray.settings import ClusterSettings, RaySettings
from support.ray_head import RayHead
from support.ray_source import (
    find_job_event,
    list_events,
    list_job_events,
    make_settings,
    run_source,
    submit,
)

pytestmark = pytest.mark.anyio


async def test_each_end_of_a_job_has_its_reason_and_a_failure_its_log(
    head: RayHead, tmp_path: Path
) -> None:
    async with run_source(head, tmp_path) as run:
        await submit(
            head, "python -c 'print(6 * 7)'", submission_id="works",
            metadata={"team": "search"}, runtime_env={"env_vars": {"API_KEY": "w0rd-of-a-secret"}},
        )  # fmt: skip
        code = "print('epoch 3'); raise ValueError('loss is nan')"
        await submit(head, f'python -c "{code}" --token=w0rd-of-a-secret', submission_id="fails")
        await submit(head, "sleep 300", submission_id="stops")
        await run.until(lambda: "running" in list_job_events(run, "stops"), 60)
        await asyncio.to_thread(head.stop_job, "stops")
        await run.until(
            lambda: (
                {"succeeded", "failed", "stopped"}
                <= {event.type.rpartition(".")[2] for event in run.events}
            ),
            60,
        )
        assert list_job_events(run, "works") == ["submitted", "running", "succeeded"] or (
            list_job_events(run, "works") == ["submitted", "succeeded"]
        )
        assert list_job_events(run, "stops") == ["submitted", "running", "stopped"]
        failed = find_job_event(run, "fails", "failed")
        assert failed.severity is Severity.ERROR
        assert failed.data["reason"] == "ValueError: loss is nan (exit code 1)"
        assert "epoch 3" in failed.data["log"]
        assert "Traceback (most recent call last)" in failed.data["log"]
        # No text of Ray is between the lines: some versions mark the parts of a log.
        assert {"epoch 3", "Traceback (most recent call last):"} <= set(
            failed.data["log"].splitlines()
        )
        assert failed.data["exit_code"] == 1
        assert failed.data["snapshot"]["nodes"][0]["total"]["CPU"] == head.cpus
        works = find_job_event(run, "works", "succeeded")
        assert works.data["metadata"] == {"team": "search"}
        assert works.data["runtime_env"] == {"env_vars": {"API_KEY": "***"}}
        assert works.data["seconds"] > 0
        assert run.resources["works"].status == "SUCCEEDED"
        assert "w0rd-of-a-secret" not in repr(run.bus.signals)
        assert head.url not in repr(run.bus.signals)
    # A restart of Almenara repeats no event and misses none.
    context = MemoryContext(tmp_path)
    async with run_source(head, tmp_path, run.bus, context) as again:
        await again.until(
            lambda: any(resource.name == "works" for resource in again.resources.values()), 30
        )
        assert list_job_events(again, "works").count("succeeded") == 1


async def test_burst_of_short_jobs_publishes_each_event_once(head: RayHead, tmp_path: Path) -> None:
    names = [f"burst-{number:03d}" for number in range(100)]
    context = MemoryContext(tmp_path)
    async with run_source(head, tmp_path, context=context) as run:
        slots = asyncio.Semaphore(8)

        async def one(name: str) -> None:
            async with slots:
                # A tenth fails.
                code = int(name.endswith("0"))
                await submit(head, f"sleep 0.05; exit {code}", submission_id=name,
                             entrypoint_num_cpus=0)  # fmt: skip

        await asyncio.gather(*(one(name) for name in names))
        ended = ("ray.job.succeeded", "ray.job.failed")
        await run.until(
            lambda: (
                sum(event.type in ended and event.subject in names for event in run.events) >= 100
            ),
            200,
        )
    counts = collections.Counter(
        (event.subject, event.type) for event in run.events if event.subject in names
    )
    assert set(counts.values()) == {1}
    assert sum(kind == "ray.job.submitted" for _, kind in counts) == 100
    assert sum(kind == "ray.job.failed" for _, kind in counts) == 10
    assert sum(kind == "ray.job.succeeded" for _, kind in counts) == 90
    assert not run.bus.repeats
    for name in names:
        assert list_job_events(run, name)[0] == "submitted"
        assert list_job_events(run, name)[-1] in ("succeeded", "failed")
    # A restart of Almenara publishes none of them again, not even as duplicates.
    async with run_source(head, tmp_path, run.bus, context) as again:
        await again.until(lambda: again.resources.get("lab") is not None)
        await again.until(
            lambda: any(resource.kind == "ray.node" for resource in again.resources.values()), 30
        )
    assert not run.bus.repeats


async def test_cluster_has_demand_actors_tasks_and_nodes(head: RayHead, tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import ray, time\nray.init()\n@ray.remote(num_cpus=64)\ndef f(): pass\n"
        "@ray.remote(num_cpus=0)\nclass A:\n    def x(self): return 1\n"
        "a = A.remote(); ray.get(a.x.remote()); f.remote(); time.sleep(300)\n"
    )
    async with run_source(head, tmp_path) as run:
        await submit(head, f"python {script}", submission_id="waits")

        def has_demand_and_actors() -> bool:
            cluster = run.resources.get("lab")
            return cluster is not None and bool(
                cluster.state["demand"] and cluster.state["actors"].get("ALIVE")
            )

        await run.until(has_demand_and_actors, 60)
        state = run.resources["lab"].state
        assert state["demand"][0]["resources"] == {"CPU": 64.0}
        assert state["tasks"]["PENDING_NODE_ASSIGNMENT"] == 1
        assert state["ray"].startswith("2.")
        assert run.resources["lab"].status == "up"
        nodes = [resource for resource in run.resources.values() if resource.kind == "ray.node"]
        assert [(node.status, node.state["head"]) for node in nodes] == [("alive", True)]
        expected = {("ray.cluster", "cpu"), ("ray.node", "memory"), ("ray.node", "cpu")}
        # A node reports its own use some seconds after it has started.
        await run.until(
            lambda: expected <= {(sample.kind, sample.metric) for sample in run.samples}, 60
        )
        await asyncio.to_thread(head.stop_job, "waits")
        await run.until(lambda: "stopped" in list_job_events(run, "waits"), 30)


async def test_spilling_and_a_driver_without_submission_are_published(
    head: RayHead, tmp_path: Path
) -> None:
    script = tmp_path / "spills.py"
    script.write_text(
        "import ray, time\nray.init(address='auto')\n"
        "objects = [ray.put(bytes(40_000_000)) for _ in range(4)]\ntime.sleep(20)\n"
    )
    async with run_source(head, tmp_path) as run:
        # The amount before must be known; Ray 2.9 reports it every 15 s.
        await run.until(
            lambda: any(
                sample.metric == "object_store" and sample.kind == "ray.node"
                for sample in run.samples
            ),
            60,
        )
        variables = {**head.variables(), "RAY_ADDRESS": f"127.0.0.2:{head.port}"}
        driver = await asyncio.create_subprocess_exec(
            str(head.python), str(script), env=variables, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await run.until(lambda: any(event.type == "ray.node.spilling" for event in run.events), 60)
        assert await driver.wait() == 0
        drivers = [event for event in list_events(run) if event.data.get("driver")]
        await run.until(
            lambda: any(
                event.type == "ray.job.succeeded" and event.data.get("driver")
                for event in list_events(run)
            ),
            30,
        )
        assert drivers[0].data["entrypoint"].endswith("spills.py")
        assert sum(event.type == "ray.node.spilling" for event in run.events) == 1


async def test_job_that_cannot_start_is_stuck_once(head: RayHead, tmp_path: Path) -> None:
    async with run_source(head, tmp_path, pending_after=2.0) as run:
        await submit(head, "sleep 300", submission_id="holds", entrypoint_num_cpus=head.cpus)
        await run.until(lambda: "running" in list_job_events(run, "holds"), 30)
        await submit(head, "true", submission_id="stuck", entrypoint_num_cpus=1)
        await run.until(lambda: "pending" in list_job_events(run, "stuck"), 30)
        stuck = find_job_event(run, "stuck", "pending")
        assert stuck.severity is Severity.WARN
        assert "waiting for resources" in stuck.data["reason"]
        await asyncio.to_thread(head.stop_job, "holds")
        await run.until(lambda: list_job_events(run, "stuck")[-1] == "succeeded", 60)
        assert list_job_events(run, "stuck").count("pending") == 1


EXPECTED_LINES = [f"line {number}" for number in range(1, 7)]


def filter_numbered(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("line ")]


async def read_lines(head: RayHead, job: str) -> AsyncIterator[str]:
    filters = {"namespace": "lab", "name": job}
    async for batch in JobLogs(make_settings(head), MemoryContext(Path())).lines(filters):
        for line in batch:
            yield line.text


async def test_log_is_followed_until_the_job_ends(head: RayHead) -> None:
    await submit(
        head, "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done", submission_id="talks"
    )
    await asyncio.to_thread(head.wait_for, "talks", "RUNNING", "SUCCEEDED")
    lines: list[str] = []
    async with asyncio.timeout(30):
        async for text in read_lines(head, "talks"):
            lines.append(text)
            if text == "line 6":
                break
    assert filter_numbered(lines) == EXPECTED_LINES
    await asyncio.to_thread(head.wait_for, "talks", "SUCCEEDED")
    async with asyncio.timeout(10):
        lines = [line async for line in read_lines(head, "talks")]
    assert lines[-1] == "line 6"
    assert filter_numbered(lines) == EXPECTED_LINES


async def test_log_of_an_unknown_job_or_cluster_is_not_found(
    head: RayHead,
) -> None:
    with pytest.raises(NotFound, match="no longer knows this job"):
        async for _ in read_lines(head, "unknown"):
            pass
    with pytest.raises(NotFound, match="cluster 'elsewhere' does not exist"):
        async for _ in JobLogs(make_settings(head), MemoryContext(Path())).lines(
            {"namespace": "elsewhere", "name": "x"}
        ):
            pass


async def test_wrong_or_missing_token_is_reported_and_not_shown(
    head: RayHead, tmp_path: Path
) -> None:
    if not head.token:
        pytest.skip("this Ray has no tokens")
    for token in (None, Secret.of("wr0ng-token-word")):
        cluster = ClusterSettings(name="lab", url=head.url, token=token)
        settings = RaySettings(clusters=[cluster])
        async with DashboardClient(cluster, settings) as client:
            with pytest.raises(
                AccessDeniedError, match="the token, or a header, is missing or wrong"
            ):
                await client.get("jobs")
        (finding,) = await diagnose(settings)
        assert finding.verdict == "failed"
        assert "ray get-auth-token" in finding.remedy
        assert "wr0ng-token-word" not in repr(finding)
    (finding,) = await diagnose(make_settings(head))
    assert finding.verdict == "ok"


async def test_job_id_cannot_escape_its_path(head: RayHead) -> None:
    async with DashboardClient(make_settings(head).clusters[0], make_settings(head)) as client:
        for name in ("..", "../version", "a/../../version", "x?y", "x#y", "x\ny"):
            with pytest.raises(DashboardError):
                await client.get("job", job=name)
