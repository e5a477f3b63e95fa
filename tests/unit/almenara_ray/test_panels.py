"""The Ray panels, of clusters that exist and of clusters that were deleted long ago."""

import re
from typing import Any

import pytest

from almenara.config import ConfigError, decode_settings
from almenara.signals import Event, Resource, Sample, Severity, Signal, now
from almenara.testing import conformance, render_panel
from almenara.units import SECOND
from almenara_kube.objects import Metadata
from almenara_ray.cluster_state import ClusterState
from almenara_ray.kuberay_mapping import cluster_signals, job_signals
from almenara_ray.kuberay_models import (
    RayCluster,
    RayClusterStatus,
    RayJob,
    RayJobSpec,
    RayJobStatus,
)
from almenara_ray.kuberay_phases import PhaseLog
from almenara_ray.models import ClusterStatus, Demand, Job, Node, SavedState, Version
from almenara_ray.settings import RaySettings
from almenara_ray.views.timeline import lay_out

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


def make_signals(name: str, *jobs: Job) -> list[Signal]:
    """The signals of a cluster with a node and these jobs."""
    cluster = ClusterState(name, SavedState())
    cluster.update_version(Version(ray="2.60.0", session="s"), "a" * 56)
    cluster.status = ClusterStatus(
        usage={"CPU": (3.0, 4.0)}, demand=[Demand(resources={"GPU": 8.0}, count=2)]
    )
    node = Node(id="a" * 56, name="head-pod", head=True, total={"CPU": 4.0})
    signals = [*cluster.record_answer(), *cluster.update_nodes([node])]
    transitions = cluster.jobs.update(jobs)
    for transition in transitions:
        if transition.event == "failed":
            transition.log = f"epoch 1\n{HOSTILE}\nValueError: loss is nan"
    return [
        *signals,
        *cluster.job_signals(transitions),
        *cluster.cluster_signals(),
        *cluster.samples(),
    ]


async def render(panel: str, signals: list[Signal], **query: str) -> str:
    return await render_panel("ray", panel, signals, settings=SETTINGS, query=query)


pytestmark = pytest.mark.anyio


async def test_jobs_panel_has_running_jobs_first_with_median_and_reasons() -> None:
    done = [
        job(f"d{number}", "SUCCEEDED", ago=900, took=100, entrypoint="train") for number in range(3)
    ]
    failed = job("broken", "FAILED", ago=500, took=5, message="Job failed.\nmore",
                 reason="Job failed.")  # fmt: skip
    html = await render(
        "jobs", make_signals("lab", *done, failed, job("now", "RUNNING", entrypoint="train"))
    )
    assert html.index("now") < html.index("broken")
    assert "median 1 min 40 s" in html
    assert "Job failed." in html
    assert "namespace=lab&amp;name=broken" in html


async def test_overview_counts_failed_running_and_pending_jobs_and_unhealthy_clusters() -> None:
    signals = make_signals(
        "lab", job("now", "RUNNING"), job("next", "PENDING"), job("bad", "FAILED", ago=30, took=1),
        job("old", "FAILED", ago=7_200, took=1), job("ok", "SUCCEEDED", took=1),
    )  # fmt: skip
    html = await render("overview", signals)
    figures = re.findall(r'big">([\d+]+)</span><span class="label">([^<]+)<', html)
    assert figures == [
        ("1", "failed jobs, last hour"), ("1", "running jobs"), ("1", "pending jobs"),
        ("0", "unhealthy clusters (of 1)"),
    ]  # fmt: skip
    assert 'href="/dashboards/ray?status=PENDING"' in html
    assert 'href="/events?type=ray.job.failed&amp;since=' in html


async def test_jobs_panel_filters_ended_jobs_by_status_cluster_and_text() -> None:
    works = job("ok", "SUCCEEDED", took=1, entrypoint="embed documents")
    signals = make_signals("lab", works, job("bad", "FAILED", took=1))
    signals += make_signals("prod", job("far", "FAILED", took=1))
    html = await render("jobs", signals, status="FAILED")
    assert ">bad<" in html
    assert ">far<" in html
    assert ">ok<" not in html
    html = await render("jobs", signals, namespace="prod")
    assert ">far<" in html
    assert ">bad<" not in html
    html = await render("jobs", signals, text="embed")
    assert ">ok<" in html
    assert ">bad<" not in html


async def test_jobs_panel_pages_to_older_jobs() -> None:
    many = [job(f"j{number:02d}", "SUCCEEDED", ago=1000 - number, took=1) for number in range(40)]
    html = await render("jobs", make_signals("lab", *many))
    assert ">j39<" in html
    assert ">j05<" not in html
    assert "Older jobs" in html
    before = html.partition("before=")[2].partition('"')[0]
    older = await render("jobs", make_signals("lab", *many), before=before)
    assert ">j05<" in older
    assert ">j39<" not in older


LOG_TAIL = '<details class="ray-log-tail"'


async def render_job(signals: list[Signal]) -> str:
    """The panels of the page of the job `broken`."""
    panels = [
        await render(panel, signals, namespace="lab", name="broken")
        for panel in ("job", "job-details")
    ]
    return "".join(panels)


async def test_failed_job_looks_the_same_after_its_cluster_was_deleted() -> None:
    failed = job("broken", "FAILED", took=30, exit_code=1, entrypoint="train",
                 message="failed, last available logs (x):\nValueError: loss is nan\n",
                 reason="ValueError: loss is nan (exit code 1)",
                 metadata={"team": "search"})  # fmt: skip
    live = make_signals("lab", failed)
    history = [event for event in live if isinstance(event, Event)]
    shown = await render_job(live)
    past = await render_job(history)
    for html in (shown, past):
        assert "ValueError: loss is nan (exit code 1)" in html
        assert "epoch 1" in html
        assert "head-pod" in html
        assert "search" in html
        assert "<script>" not in html
        assert "30.0 s" in html
    # The stored log is open where the live log of the deleted cluster is not available.
    assert past.count(LOG_TAIL + " open>") == 1
    assert shown == past.replace(LOG_TAIL + " open>", LOG_TAIL + ">")


async def test_job_links_to_its_pod_where_kubernetes_is_watched() -> None:
    signals = make_signals("lab", job("broken", "FAILED", took=3, node_id="a" * 56))
    pod = Resource(kind="kubernetes.pod", namespace="ray", name="head-pod", status="Running")
    without = await render("job", signals, namespace="lab", name="broken")
    assert "kubernetes.pod" not in without
    html = await render("job", [*signals, pod], namespace="lab", name="broken")
    assert "/dashboards/kubernetes.pod?namespace=ray&amp;name=head-pod" in html


async def test_job_of_kuberay_links_to_the_pods_of_its_cluster_only() -> None:
    def pod(name: str, cluster: str, part: str) -> Resource:
        labels = {"ray.io/cluster": cluster, "ray.io/node-type": part}
        return Resource(
            kind="kubernetes.pod", namespace="ml", name=name, status="Running",
            state={"labels": labels},
        )  # fmt: skip

    signals = [
        *make_signals("ml.train", job("runs", "RUNNING")),
        pod("a-worker", "train", "worker"), pod("the-head", "train", "head"),
        pod("another", "other", "head"),
    ]  # fmt: skip
    html = await render_panel(
        "ray", "job-details", signals, settings={"kuberay": [{}]},
        query={"namespace": "ml.train", "name": "runs"},
    )  # fmt: skip
    assert html.index("name=the-head") < html.index("name=a-worker")
    assert "another" not in html


async def test_simulated_cluster_is_marked() -> None:
    cluster = ClusterState("made-up", SavedState())
    cluster.is_simulated = True
    settings = {"clusters": [{"name": "made-up", "url": "http://127.0.0.1:1", "simulated": True}]}
    html = await render_panel("ray", "clusters", cluster.record_answer(), settings=settings)
    assert "<b>Simulated data.</b>" in html
    html = await render_panel(
        "ray", "job", make_signals("made-up", job("a", "SUCCEEDED", took=3)), settings=settings,
        query={"namespace": "made-up", "name": "a"},
    )  # fmt: skip
    assert "<b>Simulated data</b>" in html
    assert "imulated" not in await render(
        "clusters", make_signals("lab", job("a", "SUCCEEDED", took=3))
    )


async def test_slow_job_has_its_ratio_to_the_median() -> None:
    done = [job(f"d{number}", "SUCCEEDED", ago=9_000, took=100, entrypoint="train")
            for number in range(3)]  # fmt: skip
    slow = job("slow", "SUCCEEDED", ago=500, took=210, entrypoint="train")
    html = await render("jobs", make_signals("lab", *done, slow))
    assert '<span class="warn">\u00d72.1 of median</span>' in html
    assert html.count("of median") == 1


async def test_unknown_job_is_reported() -> None:
    html = await render("job", [], namespace="lab", name="x")
    assert "No job x of the cluster lab is known" in html


async def test_clusters_panel_has_usage_demand_and_outage() -> None:
    html = await render("clusters", make_signals("lab"))
    assert "75 %" in html
    assert "2 \u00d7 8 GPU" in html
    cluster = ClusterState("lab", SavedState())
    cluster.record_failure("no answer within 4 s")
    html = await render("clusters", cluster.record_failure("no answer within 4 s"))
    assert "down" in html
    assert "no answer within 4 s" in html
    assert "127.0.0.1" not in html


async def test_parts_that_cannot_be_read_are_unknown_and_not_zero() -> None:
    cluster = ClusterState("lab", SavedState())
    signals = [*cluster.record_answer()]
    signals += cluster.job_signals(cluster.jobs.update([job("a", "RUNNING")]))
    cluster.jobs.is_current = False
    cluster.failing_parts["jobs"] = "no complete answer within 4 s"
    signals += cluster.cluster_signals()
    html = await render("clusters", signals)
    assert html.count(">unknown<") == 3
    assert "Usage and pending demand: unknown" in html
    assert "jobs: no complete answer within 4 s" in html
    html = await render("overview", signals)
    assert "running jobs (1 cluster unknown)" in html
    html = await render("jobs", signals)
    assert "unknown since" in html
    assert "data-stale" in html


async def test_jobs_of_a_cluster_that_is_down_stay_in_the_list_as_unknown() -> None:
    cluster = ClusterState("lab", SavedState())
    signals = [*cluster.record_answer()]
    signals += cluster.job_signals(cluster.jobs.update([job("a", "RUNNING", entrypoint="train")]))
    for _ in range(2):
        signals += cluster.record_failure("no answer")
    html = await render("jobs", signals)
    assert ">a<" in html
    assert "unknown since" in html
    assert re.search(r"running <b[^>]*>0</b>\s*<span[^>]*>1 cluster unknown<", html)
    html = await render("overview", signals)
    assert '>0</span><span class="label">running jobs (1 cluster unknown)<' in html
    assert ">train<" in await render("timeline", signals)


async def test_timeline_has_a_row_for_each_entrypoint() -> None:
    html = await render(
        "timeline",
        make_signals("lab", job("a", "SUCCEEDED", took=20, entrypoint="train"),
              job("b", "FAILED", took=20, entrypoint="train"), job("c", "RUNNING", entrypoint="x")),
    )  # fmt: skip
    assert html.count('class="ray-run"') == 3
    assert html.count('class="ray-lane"') == 2


def test_lay_out_avoids_overlapping_bars() -> None:
    records = [
        ({"id": f"j{start}", "cluster": "lab", "entrypoint": "x", "submitted": start * SECOND,
          "ended": (start + 15) * SECOND}, "SUCCEEDED")
        for start in range(10, 90, 10)
    ]  # fmt: skip
    (row,) = lay_out(records, 0, 100 * SECOND)
    for one in row["bars"]:
        for other in row["bars"]:
            if one is not other and one["y"] == other["y"]:
                assert (
                    one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
                )
    assert all(0 <= bar["x"] <= 1000 and bar["x"] + bar["width"] <= 1000.1 for bar in row["bars"])


def test_cluster_samples_are_shares() -> None:
    samples = {
        sample.metric: sample.value for sample in make_signals("lab") if isinstance(sample, Sample)
    }
    assert samples["cpu"] == 0.75
    assert samples["waiting"] == 2.0


async def test_running_jobs_are_listed_after_any_number_of_finished_ones() -> None:
    finished = [
        Resource(kind="ray.job", namespace=f"lab{number // 100:02}", name=f"d{number}",
                 status="SUCCEEDED")
        for number in range(2_100)
    ]  # fmt: skip
    running = Resource(
        kind="ray.job", namespace="prod", name="last", status="RUNNING",
        state={"id": "last", "cluster": "prod", "status": "RUNNING", "submitted": now()},
    )  # fmt: skip
    html = await render("jobs", [*finished, running])
    assert "namespace=prod&amp;name=last" in html


async def test_of_many_custom_resources_the_newest_and_the_unhealthy_are_shown() -> None:
    settings = {"kuberay": [{"namespaces": ["ml"]}]}
    jobs = [
        Resource(kind="ray.rayjob", namespace="ml", name=f"j{number:03}",
                 state={"submitted": 1_000 + number})
        for number in range(505)
    ]  # fmt: skip
    html = await render_panel("ray", "rayjobs", jobs, settings=settings)
    assert "j504" in html
    assert "j004" not in html
    assert "5 older RayJobs are not shown" in html
    clusters = [
        Resource(kind="ray.raycluster", namespace="ml", name=f"c{number:03}")
        for number in range(505)
    ]
    failing = Resource(
        kind="ray.raycluster", namespace="ml", name="z", status="failed", severity=Severity.ERROR
    )
    html = await render_panel("ray", "rayclusters", [*clusters, failing], settings=settings)
    assert ">z<" in html
    assert "6 more RayClusters are not shown" in html


async def test_kuberay_panels_have_reasons_and_workers() -> None:
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
    signals = [
        *job_signals(job_object, "ray/kuberay", PhaseLog(), None),
        *cluster_signals(cluster_object, "ray/kuberay", PhaseLog()),
    ]
    settings = {"kuberay": [{"namespaces": ["ml"]}]}
    html = await render_panel("ray", "rayjobs", signals, settings=settings)
    for text in ("train", "Failed", "DeadlineExceeded: too late", "1 min 40 s", "ml.c"):
        assert text in html
    html = await render_panel("ray", "rayclusters", signals, settings=settings)
    for text in (">c<", "ready", ">2 <", "of 3"):
        assert text in html
    assert "s3cret-word" not in repr(signals)


def test_invalid_kuberay_dashboard_address_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"\{service\} and \{namespace\}"):
        decode_settings(
            RaySettings, {"kuberay": [{"dashboard": "http://{srv}:8265"}]}, place="plugins.ray"
        )
