"""KubeRay's custom resources on the Ray page: from a real API server to a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from support.api_server import ApiServer, programs, why_not
from support.application import Almenara
from support.kuberay import install, make_object

PHONE = {"width": 390, "height": 844}
QUOTA = 'pods "eval-gpu-worker-" is forbidden: exceeded quota: requests.nvidia.com/gpu=16'
FAILED = {
    "jobId": "train-h9ztt", "rayClusterName": "train-x7k2p", "jobStatus": "FAILED",
    "jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "it exited with 1",
    "startTime": "2026-10-17T10:00:00Z", "endTime": "2026-10-17T10:01:40Z", "failed": 1,
}  # fmt: skip


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    if programs() is None:
        pytest.skip(why_not())
    with ApiServer(tmp_path / "apiserver") as server:
        install(server)
        server.namespace("ml")
        yield server


@pytest.fixture
def almenara(server: ApiServer, tmp_path: Path) -> Iterator[Almenara]:
    place = {"kubeconfig": str(server.admin_kubeconfig)}
    # No dashboard answers: the custom resources are all there is.
    kuberay = {**place, "dashboard": "http://127.0.0.1:1"}
    running = Almenara(
        tmp_path / "almenara", "nats://127.0.0.1:1", plugins__disabled="[nats]",
        plugins__ray__kuberay=json.dumps([kuberay]),
        plugins__kubernetes__clusters=json.dumps([place]),
    )  # fmt: skip
    with running:
        yield running


def make(server: ApiServer, kind: str, name: str, **status: object) -> dict[str, object]:
    item = make_object(kind, "ml", name, entrypoint="python train.py", backoffLimit=2)
    server.create(item)
    server.patch_status(item, status)
    return item


def test_kuberay_resources_appear_change_and_disappear_live(
    server: ApiServer, almenara: Almenara, page: Page, browser: Browser
) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    page.goto(almenara.url + "/dashboards/ray")
    expect(page.locator("#live")).to_have_attribute("data-state", "live")
    jobs, clusters = page.locator("#panel-ray-rayjobs"), page.locator("#panel-ray-rayclusters")
    services = page.locator("#panel-ray-rayservices")
    for panel, text in (
        (jobs, "No RayJobs."),
        (clusters, "No RayClusters."),
        (services, "No RayServices."),
        (page.locator("#panel-ray-clusters"), "No Ray cluster yet."),
        (page.locator("#panel-ray-jobs"), "No matching jobs."),
    ):
        expect(panel).to_contain_text(text)
    expect(page.get_by_label("Cluster", exact=True)).to_be_visible()
    expect(page.get_by_label("Namespace", exact=True)).to_have_count(0)

    make(
        server, "RayCluster", "train-x7k2p", state="ready", desiredWorkerReplicas=2,
        availableWorkerReplicas=1, head={"serviceName": "train-head-svc", "podName": "train-head"},
    )  # fmt: skip
    make(
        server, "RayCluster", "eval", desiredWorkerReplicas=12,
        conditions=[
            {"type": "HeadPodReady", "status": "False", "reason": "HeadPodNotFound"},
            {"type": "ReplicaFailure", "status": "True", "message": QUOTA},
        ],
    )  # fmt: skip
    make(
        server, "RayService", "chat",
        conditions=[{"type": "Ready", "status": "False", "message": "no endpoint"}],
    )  # fmt: skip
    job = make(
        server, "RayJob", "train",
        **{**FAILED, "jobStatus": "RUNNING", "jobDeploymentStatus": "Running", "failed": 0,
           "reason": "", "message": ""},
    )  # fmt: skip
    labels = {"ray.io/cluster": "train-x7k2p", "ray.io/node-type": "head"}
    server.pod("ml", "train-head")
    server.patch(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ml", "name": "train-head"}},
        {"metadata": {"labels": labels}},
    )
    row = jobs.locator("tbody tr", has_text="train")
    expect(row).to_contain_text("Running")
    expect(clusters.locator("tr", has_text="train-x7k2p")).to_contain_text("1 of 2")
    expect(clusters.locator("tr", has_text="eval")).to_contain_text(QUOTA)
    expect(services).to_contain_text("starting")
    expect(page.locator("#panel-ray-clusters")).to_contain_text("connection refused")

    server.patch_status(job, FAILED)
    expect(row).to_contain_text("AppFailed: it exited with 1")
    expect(row).to_contain_text("1 min 40 s")
    expect(row).to_contain_text("1 of 3")

    phone = browser.new_context(viewport=PHONE, color_scheme="light")  # type: ignore[arg-type]
    small = phone.new_page()
    small.goto(almenara.url + "/dashboards/ray")
    assert small.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for text in ("AppFailed: it exited with 1", QUOTA):
        box = small.locator(".ray-why", has_text=text).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
    phone.close()

    row.get_by_role("link", name="train", exact=True).click()
    expect(page.locator("h1")).to_have_text("Ray job ml.train-x7k2p / train-h9ztt")
    job_panel = page.locator("#panel-ray-job")
    expect(job_panel).to_contain_text("AppFailed: it exited with 1")
    expect(job_panel).to_contain_text("python train.py")
    page.locator("#panel-ray-job-details").get_by_role("link", name="train-head").click()
    expect(page.locator("h1")).to_contain_text("ml / train-head")

    page.goto(almenara.url + "/dashboards/ray")
    expect(row).to_have_count(1)
    server.delete(job)
    expect(jobs).to_contain_text("No RayJobs.")
    assert problems == []
