"""What the Ray panels show, of clusters that live and of those long gone."""

import re
from typing import Any

import pytest

from almenara.config import ConfigError, decode_settings
from almenara.signals import Event, Resource, Sample, Signal, now
from almenara.testing import conformance, render_panel
from almenara_kube.objects import Metadata
from almenara_ray.answers import Demand, Job, Node, Status, Version
from almenara_ray.custom_resources import (
    RayCluster,
    RayClusterStatus,
    RayJob,
    RayJobSpec,
    RayJobStatus,
    cluster_signals,
    job_signals,
)
from almenara_ray.following import Cluster
from almenara_ray.jobs import Known
from almenara_ray.panels import laid_out
from almenara_ray.settings import RaySettings

SECOND = 1_000_000
SETTINGS = {
    "clusters": [
        {"name": "lab", "url": "http://127.0.0.1:1", "kubernetes_namespace": "ray"},
        {"name": "prod", "url": "http://127.0.0.1:2"},
    ]
}
HOSTILE = "<script>alert(1)</script>"

test_conformance = conformance("ray", SETTINGS)


def job(
    name: str, status: str, *, ago: float = 60.0, took: float | None = None, **more: Any
) -> Job:
    begin = now() - int(ago * SECOND)
    ended = None if took is None else begin + int(took * SECOND)
    return Job(id=name, status=status, submitted=begin, ended=ended, **more)


def story(name: str, *jobs: Job) -> list[Signal]:
    """The signals of a cluster with a node and these jobs."""
    cluster = Cluster(name, Known())
    cluster.started(Version(ray="2.60.0", session="s"), "a" * 56)
    cluster.use = Status(
        usage={"CPU": (3.0, 4.0)}, demand=[Demand(resources={"GPU": 8.0}, count=2)]
    )
    node = Node(id="a" * 56, name="head-pod", head=True, total={"CPU": 4.0})
    signals = [*cluster.answered(), *cluster.shaped([node])]
    transitions = cluster.jobs.transitions(jobs)
    for it in transitions:
        if it.what == "failed":
            it.log = f"epoch 1\n{HOSTILE}\nValueError: loss is nan"
    return [*signals, *cluster.told(transitions), *cluster.resource(), *cluster.samples()]


async def drawn(panel: str, signals: list[Signal], **query: str) -> str:
    return await render_panel("ray", panel, signals, settings=SETTINGS, query=query)


pytestmark = pytest.mark.anyio


async def test_jobs_are_shown_running_first_with_the_usual_time_and_reasons_in_place() -> None:
    done = [job(f"d{it}", "SUCCEEDED", ago=900, took=100, entrypoint="train") for it in range(3)]
    failed = job("broken", "FAILED", ago=500, took=5, message="Job failed.\nmore")
    html = await drawn(
        "jobs", story("lab", *done, failed, job("now", "RUNNING", entrypoint="train"))
    )
    assert html.index("now") < html.index("broken")
    assert "usually 1 min 40 s" in html
    assert "Job failed." in html
    assert "namespace=lab&amp;name=broken" in html


async def test_the_overview_counts_failures_of_the_hour_what_runs_and_clusters_in_trouble() -> None:
    signals = story(
        "lab", job("now", "RUNNING"), job("next", "PENDING"), job("bad", "FAILED", ago=30, took=1),
        job("old", "FAILED", ago=7_200, took=1), job("ok", "SUCCEEDED", took=1),
    )  # fmt: skip
    html = await drawn("glance", signals)
    figures = re.findall(r'big">([\d+]+)</span><span class="label">([^<]+)<', html)
    assert figures == [
        ("1", "failed, last hour"), ("1", "running"), ("1", "waiting"),
        ("0", "of 1 cluster in trouble"),
    ]  # fmt: skip
    assert 'href="/dashboards/ray?status=PENDING"' in html
    assert 'href="/events?type=ray.job.failed&amp;since=' in html


async def test_a_filter_by_status_by_cluster_and_by_words_narrows_the_jobs_of_the_past() -> None:
    works = job("ok", "SUCCEEDED", took=1, entrypoint="embed documents")
    signals = story("lab", works, job("bad", "FAILED", took=1))
    signals += story("prod", job("far", "FAILED", took=1))
    html = await drawn("jobs", signals, status="FAILED")
    assert ">bad<" in html
    assert ">far<" in html
    assert ">ok<" not in html
    html = await drawn("jobs", signals, namespace="prod")
    assert ">far<" in html
    assert ">bad<" not in html
    html = await drawn("jobs", signals, text="embed")
    assert ">ok<" in html
    assert ">bad<" not in html


async def test_older_jobs_are_a_page_further_on() -> None:
    many = [job(f"j{it:02d}", "SUCCEEDED", ago=1000 - it, took=1) for it in range(40)]
    html = await drawn("jobs", story("lab", *many))
    assert ">j39<" in html
    assert ">j05<" not in html
    assert "Older jobs" in html
    before = html.partition("before=")[2].partition('"')[0]
    older = await drawn("jobs", story("lab", *many), before=before)
    assert ">j05<" in older
    assert ">j39<" not in older


async def test_a_failed_job_is_shown_the_same_when_its_cluster_is_gone() -> None:
    failed = job("broken", "FAILED", took=30, exit_code=1, entrypoint="train",
                 message="failed, last available logs (x):\nValueError: loss is nan\n",
                 metadata={"team": "search"})  # fmt: skip
    live = story("lab", failed)
    gone = [it for it in live if isinstance(it, Event)]
    shown = await drawn("job", live, namespace="lab", name="broken")
    past = await drawn("job", gone, namespace="lab", name="broken")
    for html in (shown, past):
        assert "ValueError: loss is nan (exit code 1)" in html
        assert "epoch 1" in html
        assert "head-pod" in html
        assert "search" in html
        assert "<script>" not in html
        assert "30.0 s" in html
    assert shown == past


async def test_a_job_leads_to_its_pod_where_kubernetes_knows_it() -> None:
    signals = story("lab", job("broken", "FAILED", took=3, node_id="a" * 56))
    pod = Resource(kind="kubernetes.pod", namespace="ray", name="head-pod", status="Running")
    without = await drawn("job", signals, namespace="lab", name="broken")
    assert "kubernetes.pod" not in without
    html = await drawn("job", [*signals, pod], namespace="lab", name="broken")
    assert "/dashboards/kubernetes.pod?namespace=ray&amp;name=head-pod" in html


async def test_a_job_of_kuberay_leads_to_the_pods_of_its_cluster_and_to_no_others() -> None:
    def pod(name: str, cluster: str, part: str) -> Resource:
        labels = {"ray.io/cluster": cluster, "ray.io/node-type": part}
        return Resource(
            kind="kubernetes.pod", namespace="ml", name=name, status="Running",
            state={"labels": labels},
        )  # fmt: skip

    signals = [
        *story("ml.train", job("runs", "RUNNING")),
        pod("a-worker", "train", "worker"), pod("the-head", "train", "head"),
        pod("another", "other", "head"),
    ]  # fmt: skip
    html = await render_panel(
        "ray", "job", signals, settings={"kuberay": [{}]},
        query={"namespace": "ml.train", "name": "runs"},
    )  # fmt: skip
    assert html.index("name=the-head") < html.index("name=a-worker")
    assert "another" not in html


async def test_a_simulated_cluster_says_that_nothing_of_it_is_real() -> None:
    cluster = Cluster("made-up", Known())
    cluster.simulated = True
    settings = {"clusters": [{"name": "made-up", "url": "http://127.0.0.1:1", "simulated": True}]}
    html = await render_panel("ray", "clusters", cluster.answered(), settings=settings)
    assert "Simulated cluster.</b> No job and no node here is real." in html
    html = await render_panel(
        "ray", "job", story("made-up", job("a", "SUCCEEDED", took=3)), settings=settings,
        query={"namespace": "made-up", "name": "a"},
    )  # fmt: skip
    assert "This job is not real" in html
    assert "imulated" not in await drawn("clusters", story("lab", job("a", "SUCCEEDED", took=3)))


async def test_an_unknown_job_is_told_so() -> None:
    html = await drawn("job", [], namespace="lab", name="x")
    assert "Nothing is known of a job x of lab" in html


async def test_a_cluster_shows_use_demand_and_that_it_is_down() -> None:
    html = await drawn("clusters", story("lab"))
    assert "75 %" in html
    assert "2 \u00d7 8 GPU" in html
    cluster = Cluster("lab", Known())
    cluster.failed("no answer within 4 s")
    html = await drawn("clusters", cluster.failed("no answer within 4 s"))
    assert "down" in html
    assert "no answer within 4 s" in html
    assert "127.0.0.1" not in html


async def test_the_timeline_holds_a_row_for_each_entrypoint() -> None:
    html = await drawn(
        "timeline",
        story("lab", job("a", "SUCCEEDED", took=20, entrypoint="train"),
              job("b", "FAILED", took=20, entrypoint="train"), job("c", "RUNNING", entrypoint="x")),
    )  # fmt: skip
    assert html.count('class="ray-run"') == 3
    assert html.count('class="ray-lane"') == 2


def test_bars_of_one_row_do_not_overlap_while_there_is_room() -> None:
    records = [
        ({"id": f"j{it}", "cluster": "lab", "entrypoint": "x", "submitted": it * 10 * SECOND,
          "ended": (it * 10 + 15) * SECOND}, "SUCCEEDED")
        for it in range(1, 9)
    ]  # fmt: skip
    (row,) = laid_out(records, 0, 100 * SECOND)
    for one in row["bars"]:
        for other in row["bars"]:
            if one is not other and one["y"] == other["y"]:
                assert (
                    one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
                )
    assert all(0 <= it["x"] <= 1000 and it["x"] + it["width"] <= 1000.1 for it in row["bars"])


def test_samples_of_a_cluster_are_shares() -> None:
    found = {it.metric: it.value for it in story("lab") if isinstance(it, Sample)}
    assert found["cpu"] == 0.75
    assert found["waiting"] == 2.0


async def test_rayjobs_and_rayclusters_of_kuberay_are_shown_with_reason_and_workers() -> None:
    job_object = RayJob(
        metadata=Metadata(namespace="ml", name="train", uid="u"),
        spec=RayJobSpec(entrypoint="python train.py --token=s3cret-word", backoff_limit=2),
        status=RayJobStatus(
            job_id="j", ray_cluster_name="c", job_status="FAILED", job_deployment_status="Failed",
            reason="DeadlineExceeded", message="too late", failed=1,
            start_time="2026-10-17T10:00:00Z", end_time="2026-10-17T10:01:40Z",
        ),
    )  # fmt: skip
    cluster_object = RayCluster(
        metadata=Metadata(namespace="ml", name="c", uid="v"),
        status=RayClusterStatus(
            state="ready", desired_worker_replicas=3, available_worker_replicas=2
        ),
    )
    signals = [*job_signals(job_object, "ray/kuberay", None), *cluster_signals(cluster_object)]
    settings = {"kuberay": [{"namespaces": ["ml"]}]}
    html = await render_panel("ray", "rayjobs", signals, settings=settings)
    for text in ("train", "Failed", "DeadlineExceeded: too late", "1 min 40 s", "ml.c"):
        assert text in html
    html = await render_panel("ray", "rayclusters", signals, settings=settings)
    for text in (">c<", "ready", ">2 <", "of 3"):
        assert text in html
    assert "s3cret-word" not in repr(signals)


def test_a_dashboard_address_for_kuberay_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\{service\} and \{namespace\}"):
        decode_settings(
            RaySettings, {"kuberay": [{"dashboard": "http://{srv}:8265"}]}, place="plugins.ray"
        )
