"""The Ray plugin against a real head of a real Ray, its token on."""

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from almenara.config import Secret
from almenara.sdk import NotFound
from almenara.signals import Event, Severity
from almenara.testing import SourceRun
from almenara.testing.source_run import MemoryBus, MemoryContext
from almenara_ray.dashboard import AskingError, Dashboard, RefusedError
from almenara_ray.diagnosis import diagnose
from almenara_ray.logs import JobLogs
from almenara_ray.settings import ClusterSettings, RaySettings
from almenara_ray.source import RaySource
from support.ray_head import RayHead

pytestmark = pytest.mark.anyio


def settings(head: RayHead, **more: Any) -> RaySettings:
    token = Secret.of(head.token) if head.token else None
    cluster = ClusterSettings(name="lab", url=head.url, token=token)
    return RaySettings(
        clusters=[cluster], **{"active": 0.3, "idle": 0.6, "shape_every": 1.0, **more}
    )


@contextlib.asynccontextmanager
async def following(
    head: RayHead,
    folder: Path,
    bus: MemoryBus | None = None,
    context: MemoryContext | None = None,
    **more: Any,
) -> AsyncIterator[SourceRun]:
    """The source of a head at work; the same context and bus are those of a restart."""
    chosen = settings(head, **more)
    source = RaySource(chosen.clusters[0], chosen, context or MemoryContext(folder))
    async with SourceRun(source, bus=bus) as run:
        yield run


def of_job(run: SourceRun, job: str) -> list[str]:
    """What was told of a job, in the order it was told."""
    found = [it for it in run.events if it.type.startswith("ray.job.") and it.subject == job]
    return [it.type.removeprefix("ray.job.") for it in found]


def event(run: SourceRun, job: str, what: str) -> Event:
    return next(it for it in run.events if (it.subject, it.type) == (job, f"ray.job.{what}"))


async def submit(head: RayHead, entrypoint: str, **more: Any) -> str:
    return await asyncio.to_thread(head.submit, entrypoint, **more)


async def test_each_end_of_a_job_is_told_with_its_reason_and_the_log_of_a_failure(
    head: RayHead, tmp_path: Path
) -> None:
    async with following(head, tmp_path) as run:
        await submit(
            head, "python -c 'print(6 * 7)'", submission_id="works",
            metadata={"team": "search"}, runtime_env={"env_vars": {"API_KEY": "w0rd-of-a-secret"}},
        )  # fmt: skip
        code = "print('epoch 3'); raise ValueError('loss is nan')"
        await submit(head, f'python -c "{code}" --token=w0rd-of-a-secret', submission_id="fails")
        await submit(head, "sleep 300", submission_id="stops")
        await run.until(lambda: "running" in of_job(run, "stops"), 60)
        await asyncio.to_thread(head.stop_job, "stops")
        await run.until(
            lambda: (
                {"succeeded", "failed", "stopped"}
                <= {it.type.rpartition(".")[2] for it in run.events}
            ),
            60,
        )
        assert of_job(run, "works") == ["submitted", "running", "succeeded"] or (
            of_job(run, "works") == ["submitted", "succeeded"]
        )
        assert of_job(run, "stops") == ["submitted", "running", "stopped"]
        failed = event(run, "fails", "failed")
        assert failed.severity is Severity.ERROR
        assert failed.data["reason"] == "ValueError: loss is nan (exit code 1)"
        assert "epoch 3" in failed.data["log"]
        assert "Traceback (most recent call last)" in failed.data["log"]
        # Nothing of Ray's own is between the lines: some versions mark the parts of a log.
        assert {"epoch 3", "Traceback (most recent call last):"} <= set(
            failed.data["log"].splitlines()
        )
        assert failed.data["exit_code"] == 1
        assert failed.data["shape"]["nodes"][0]["total"]["CPU"] == head.cpus
        works = event(run, "works", "succeeded")
        assert works.data["metadata"] == {"team": "search"}
        assert works.data["runtime_env"] == {"env_vars": {"API_KEY": "***"}}
        assert works.data["seconds"] > 0
        assert run.resources["works"].status == "SUCCEEDED"
        assert "w0rd-of-a-secret" not in repr(run.bus.signals)
        assert head.url not in repr(run.bus.signals)
        # What was told before a restart is not told again, and nothing is missed over it.
    context = MemoryContext(tmp_path)
    async with following(head, tmp_path, run.bus, context) as again:
        await again.until(lambda: any(it.name == "works" for it in again.resources.values()), 30)
        assert of_job(again, "works").count("succeeded") == 1


async def test_a_hundred_short_jobs_in_a_burst_are_a_hundred_submissions_and_outcomes_once_each(
    head: RayHead, tmp_path: Path
) -> None:
    names = [f"burst-{number:03d}" for number in range(100)]
    context = MemoryContext(tmp_path)
    async with following(head, tmp_path, context=context) as run:
        room = asyncio.Semaphore(8)

        async def one(name: str) -> None:
            async with room:
                # A tenth fails.
                code = int(name.endswith("0"))
                await submit(head, f"sleep 0.05; exit {code}", submission_id=name,
                             entrypoint_num_cpus=0)  # fmt: skip

        await asyncio.gather(*(one(name) for name in names))
        ended = ("ray.job.succeeded", "ray.job.failed")
        await run.until(
            lambda: sum(it.type in ended and it.subject in names for it in run.events) >= 100, 200
        )
    told = collections.Counter((it.subject, it.type) for it in run.events if it.subject in names)
    assert set(told.values()) == {1}
    assert sum(kind == "ray.job.submitted" for _, kind in told) == 100
    assert sum(kind == "ray.job.failed" for _, kind in told) == 10
    assert sum(kind == "ray.job.succeeded" for _, kind in told) == 90
    assert not run.bus.repeats
    for name in names:
        assert of_job(run, name)[0] == "submitted"
        assert of_job(run, name)[-1] in ("succeeded", "failed")
    # A restart of Almenara tells none of them again, not even to be dropped.
    async with following(head, tmp_path, run.bus, context) as again:
        await again.until(lambda: again.resources.get("lab") is not None)
        await again.until(lambda: any(it.kind == "ray.node" for it in again.resources.values()), 30)
    assert not run.bus.repeats


async def test_what_waits_for_resources_and_the_shape_of_the_cluster_are_shown(
    head: RayHead, tmp_path: Path
) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import ray, time\nray.init()\n@ray.remote(num_cpus=64)\ndef f(): pass\n"
        "@ray.remote(num_cpus=0)\nclass A:\n    def x(self): return 1\n"
        "a = A.remote(); ray.get(a.x.remote()); f.remote(); time.sleep(300)\n"
    )
    async with following(head, tmp_path) as run:
        await submit(head, f"python {script}", submission_id="waits")

        def seen() -> bool:
            cluster = run.resources.get("lab")
            return cluster is not None and bool(
                cluster.state["demand"] and cluster.state["actors"].get("ALIVE")
            )

        await run.until(seen, 60)
        state = run.resources["lab"].state
        assert state["demand"][0]["resources"] == {"CPU": 64.0}
        assert state["tasks"]["PENDING_NODE_ASSIGNMENT"] == 1
        assert state["ray"].startswith("2.")
        assert run.resources["lab"].status == "up"
        nodes = [it for it in run.resources.values() if it.kind == "ray.node"]
        assert [(it.status, it.state["head"]) for it in nodes] == [("alive", True)]
        metrics = {(it.kind, it.metric) for it in run.samples}
        assert {("ray.cluster", "cpu"), ("ray.node", "memory"), ("ray.node", "cpu")} <= metrics
        await asyncio.to_thread(head.stop_job, "waits")
        await run.until(lambda: "stopped" in of_job(run, "waits"), 30)


async def test_an_object_store_that_spills_and_a_driver_that_nobody_submitted_are_told(
    head: RayHead, tmp_path: Path
) -> None:
    script = tmp_path / "spills.py"
    script.write_text(
        "import ray, time\nray.init(address='auto')\n"
        "kept = [ray.put(bytes(40_000_000)) for _ in range(4)]\ntime.sleep(8)\n"
    )
    async with following(head, tmp_path) as run:
        # What was there before has to be known; Ray 2.9 says it every 15 s.
        await run.until(
            lambda: any(
                it.metric == "object_store" and it.kind == "ray.node" for it in run.samples
            ),
            60,
        )
        variables = {**head.variables(), "RAY_ADDRESS": f"127.0.0.2:{head.port}"}
        driver = await asyncio.create_subprocess_exec(
            str(head.python), str(script), env=variables, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await run.until(lambda: any(it.type == "ray.node.spilling" for it in run.events), 60)
        assert await driver.wait() == 0
        drivers = [it for it in run.events if it.data.get("driver")]
        await run.until(
            lambda: any(
                it.type == "ray.job.succeeded" and it.data.get("driver") for it in run.events
            ),
            30,
        )
        assert drivers[0].data["entrypoint"].endswith("spills.py")
        assert sum(it.type == "ray.node.spilling" for it in run.events) == 1


async def test_a_job_that_cannot_begin_is_told_as_stuck_once(head: RayHead, tmp_path: Path) -> None:
    async with following(head, tmp_path, pending_after=2.0) as run:
        await submit(head, "sleep 300", submission_id="holds", entrypoint_num_cpus=head.cpus)
        await run.until(lambda: "running" in of_job(run, "holds"), 30)
        await submit(head, "true", submission_id="stuck", entrypoint_num_cpus=1)
        await run.until(lambda: "pending" in of_job(run, "stuck"), 30)
        stuck = event(run, "stuck", "pending")
        assert stuck.severity is Severity.WARN
        assert "waiting for resources" in stuck.data["reason"]
        await asyncio.to_thread(head.stop_job, "holds")
        await run.until(lambda: of_job(run, "stuck")[-1] == "succeeded", 60)
        assert of_job(run, "stuck").count("pending") == 1


async def lines_of(head: RayHead, job: str) -> AsyncIterator[str]:
    asked = {"namespace": "lab", "name": job}
    async for batch in JobLogs(settings(head), MemoryContext(Path())).lines(asked):
        for it in batch:
            yield it.text


async def test_a_log_is_followed_while_the_job_writes_and_ends_with_it(head: RayHead) -> None:
    await submit(
        head, "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done", submission_id="talks"
    )
    await asyncio.to_thread(head.wait_for, "talks", "RUNNING", "SUCCEEDED")
    found: list[str] = []
    async with asyncio.timeout(30):
        async for text in lines_of(head, "talks"):
            found.append(text)
            if text == "line 6":
                break
    assert [it for it in found if it.startswith("line ")] == [f"line {it}" for it in range(1, 7)]
    await asyncio.to_thread(head.wait_for, "talks", "SUCCEEDED")
    async with asyncio.timeout(10):
        whole = [it async for it in lines_of(head, "talks")]
    assert whole[-1] == "line 6"
    assert [it for it in whole if it.startswith("line ")] == [f"line {it}" for it in range(1, 7)]


async def test_the_log_of_an_unknown_job_and_of_an_unknown_cluster_is_refused_in_words(
    head: RayHead,
) -> None:
    with pytest.raises(NotFound, match="does not know this job"):
        async for _ in lines_of(head, "nobody"):
            pass
    with pytest.raises(NotFound, match="no cluster 'elsewhere'"):
        async for _ in JobLogs(settings(head), MemoryContext(Path())).lines(
            {"namespace": "elsewhere", "name": "x"}
        ):
            pass


async def test_a_wrong_or_missing_token_is_told_and_shown_nowhere(
    head: RayHead, tmp_path: Path
) -> None:
    if not head.token:
        pytest.skip("this Ray knows no tokens")
    for token in (None, Secret.of("wr0ng-token-word")):
        cluster = ClusterSettings(name="lab", url=head.url, token=token)
        chosen = RaySettings(clusters=[cluster])
        async with Dashboard(cluster, chosen) as dashboard:
            with pytest.raises(RefusedError, match="the token, or a header, is missing or wrong"):
                await dashboard.get("jobs")
        (finding,) = await diagnose(chosen)
        assert finding.verdict == "failed"
        assert "ray get-auth-token" in finding.remedy
        assert "wr0ng-token-word" not in repr(finding)
    (finding,) = await diagnose(settings(head))
    assert finding.verdict == "ok"


async def test_an_id_that_is_a_path_does_not_lead_elsewhere(head: RayHead) -> None:
    async with Dashboard(settings(head).clusters[0], settings(head)) as dashboard:
        for name in ("..", "../version", "a/../../version", "x?y", "x#y", "x\ny"):
            with pytest.raises(AskingError):
                await dashboard.get("job", job=name)
