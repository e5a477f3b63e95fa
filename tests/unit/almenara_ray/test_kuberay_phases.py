"""Each phase of a KubeRay resource is an event each time it is entered, conditions first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from almenara.signals import Event, Resource, Severity, Signal
from almenara.testing.source_run import MemoryContext
from almenara_ray.kuberay_mapping import (
    cluster_signals,
    cron_job_signals,
    job_signals,
    service_signals,
)
from almenara_ray.kuberay_models import RayCluster, RayCronJob, RayJob, RayService
from almenara_ray.kuberay_phases import PhaseLog

SOURCE = "ray/kuberay"


def make(model: type[Any], **status: Any) -> Any:
    tree = {"metadata": {"namespace": "ml", "name": "train", "uid": "u"}, "status": status}
    return msgspec.convert(tree, model)


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def list_events(signals: Sequence[Signal]) -> list[Event]:
    return [signal for signal in signals if isinstance(signal, Event)]


def find_resource(signals: Sequence[Signal]) -> Resource:
    return next(signal for signal in signals if isinstance(signal, Resource))


def test_rayjob_suspended_twice_gets_two_events() -> None:
    phases, events = PhaseLog(), []
    for deployment, cluster in (
        ("Suspended", ""), ("Running", "c1"), ("Suspended", ""), ("Suspended", ""),
        ("Running", "c2"),
    ):  # fmt: skip
        job = make(RayJob, jobDeploymentStatus=deployment, rayClusterName=cluster)
        events += list_events(job_signals(job, SOURCE, phases, None))
    assert [event.type.rpartition(".")[2] for event in events] == [
        "suspended", "running", "suspended", "running",
    ]  # fmt: skip
    assert len({event.id for event in events}) == 4


@pytest.mark.anyio
async def test_phases_survive_a_restart(tmp_path: Path) -> None:
    context = MemoryContext(tmp_path)
    suspended = make(RayJob, jobDeploymentStatus="Suspended")
    running = make(RayJob, jobDeploymentStatus="Running", rayClusterName="c")
    phases = PhaseLog()
    first = list_events(job_signals(suspended, SOURCE, phases, None))
    await phases.save(context)
    phases = PhaseLog()
    await phases.restore(context)
    assert list_events(job_signals(suspended, SOURCE, phases, None)) == []
    job_signals(running, SOURCE, phases, None)
    second = list_events(job_signals(suspended, SOURCE, phases, None))
    assert [event.type for event in first + second] == ["ray.rayjob.suspended"] * 2
    assert first[0].id != second[0].id
    phases.keep_only("ray.rayjob", "ml", set())
    await phases.save(context)
    assert msgspec.msgpack.decode(context.values["(phases)"]) == {}


def test_rayjob_that_failed_before_kuberay_is_done_is_an_error_once() -> None:
    phases = PhaseLog()
    status = {"jobStatus": "FAILED", "rayClusterName": "c"}
    early = job_signals(make(RayJob, jobDeploymentStatus="Running", **status), SOURCE, phases, None)
    assert (find_resource(early).status, find_resource(early).severity) == (
        "FAILED", Severity.ERROR,
    )  # fmt: skip
    late = make(RayJob, jobDeploymentStatus="Failed", failed=1, **status)
    events = list_events([*early, *job_signals(late, SOURCE, phases, None)])
    assert [(event.type, event.severity) for event in events] == [
        ("ray.rayjob.failed", Severity.ERROR)
    ]


@pytest.mark.parametrize(
    ("status", "phase", "severity"),
    [
        ({"state": "ready"}, "ready", Severity.INFO),
        (
            {"state": "ready", "conditions": [condition("HeadPodReady", "False", "CrashLoop")]},
            "head not ready", Severity.ERROR,
        ),
        (
            {"conditions": [condition("RayClusterProvisioned", "True"),
                            condition("HeadPodReady", "False", "HeadPodNotFound")]},
            "head not ready", Severity.ERROR,
        ),
        ({"conditions": [condition("HeadPodReady", "False", "x")]}, "starting", Severity.INFO),
        (
            {"state": "ready", "conditions": [condition("ReplicaFailure", "True", "", "quota")]},
            "replica failure", Severity.WARN,
        ),
        (
            {"state": "ready", "conditions": [condition("RayClusterSuspended", "True")]},
            "suspended", Severity.WARN,
        ),
        ({"state": "failed", "reason": "no quota"}, "failed", Severity.ERROR),
    ],
)  # fmt: skip
def test_raycluster_phase_prefers_conditions(
    status: dict[str, Any], phase: str, severity: Severity
) -> None:
    resource = find_resource(cluster_signals(make(RayCluster, **status), SOURCE, PhaseLog()))
    assert (resource.status, resource.severity) == (phase, severity)


def serve(ready: str, reason: str = "", *more: dict[str, str], pending: str = "") -> RayService:
    service: RayService = make(
        RayService,
        conditions=[condition("Ready", ready, reason), *more],
        activeServiceStatus={"rayClusterName": "old"},
        pendingServiceStatus={"rayClusterName": pending, "trafficRoutedPercent": 40}
        if pending
        else {},
    )
    return service


def test_rayservice_gets_events_of_outages_upgrades_and_rollbacks() -> None:
    phases = PhaseLog()
    upgrade = condition("UpgradeInProgress", "True")
    rollback = condition("RollbackInProgress", "True")
    signals = [
        signal
        for service in (
            serve("True"), serve("False", "ZeroServeEndpoints"), serve("True"),
            serve("True", "", upgrade, pending="new"), serve("True"),
            serve("True", "", upgrade, pending="new"),
            serve("True", "", upgrade, rollback, pending="new"), serve("True"),
        )
        for signal in service_signals(service, SOURCE, phases)
    ]  # fmt: skip
    events = list_events(signals)
    assert [event.type.removeprefix("ray.rayservice.") for event in events] == [
        "not_ready", "running", "upgrading", "running", "upgrading", "rolling_back", "running",
    ]  # fmt: skip
    assert len({event.id for event in events}) == len(events)
    assert events[0].severity is Severity.ERROR
    assert events[2].data["reason"] == "old → new, 40 % of traffic"
    assert (events[2].data["pending_cluster"], events[2].data["traffic_percent"]) == ("new", 40)


def test_new_rayservice_is_starting_and_then_running() -> None:
    phases = PhaseLog()
    starting = make(RayService, conditions=[condition("Ready", "False", "Initializing")])
    resource = find_resource(service_signals(starting, SOURCE, phases))
    assert (resource.status, resource.severity) == ("starting", Severity.WARN)
    (event,) = list_events(service_signals(serve("True"), SOURCE, phases))
    assert event.type == "ray.rayservice.running"
    # The condition has no reason, but the service has been running before.
    unready = make(RayService, conditions=[condition("Ready", "False")])
    assert find_resource(service_signals(unready, SOURCE, phases)).status == "not ready"


def test_resource_first_seen_in_a_failing_phase_gets_an_event() -> None:
    failed = make(RayCluster, state="failed", reason="no quota")
    (event,) = list_events(cluster_signals(failed, SOURCE, PhaseLog()))
    assert (event.type, event.severity) == ("ray.raycluster.failed", Severity.ERROR)
    assert event.data["reason"] == "no quota"
    assert list_events(cluster_signals(make(RayCluster, state="ready"), SOURCE, PhaseLog())) == []


def test_raycronjob_is_suspended_and_resumed() -> None:
    phases = PhaseLog()
    trees = [{"spec": {"schedule": "0 3 * * *", "suspend": suspend}} for suspend in (False, True)]
    cron_jobs = [
        msgspec.convert(
            {**tree, "metadata": {"namespace": "ml", "name": "n", "uid": "c"}}, RayCronJob
        )
        for tree in trees
    ]
    resource = find_resource(cron_job_signals(cron_jobs[0], SOURCE, phases))
    assert (resource.status, resource.state["schedule"]) == ("active", "0 3 * * *")
    (event,) = list_events(cron_job_signals(cron_jobs[1], SOURCE, phases))
    assert event.type == "ray.raycronjob.suspended"
