"""The differ publishes what changed of Kubernetes objects, whatever they contain."""

from typing import Any

import pytest

from almenara.signals import Event, Resource, Sample, Severity, format_time, now
from almenara.testing.source_run import MemoryBus
from almenara.units import SECOND
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import (
    CERTIFICATES,
    DEPLOYMENTS,
    EVENTS,
    NODES,
    POD_METRICS,
    PODS,
    REPLICA_SETS,
    STATEFUL_SETS,
    CustomColumn,
    custom_kind,
)
from almenara_kubernetes.quantities import parse_quantity
from support.awkward_pods import ended, running, termination, true, waiting
from support.kubernetes_objects import DAY, events, make_object, owned_by, pod, resources


def deployment(revision: int, updated: int, *, reason: str = "ReplicaSetUpdated") -> Any:
    return make_object(
        DEPLOYMENTS,
        meta={"generation": 1, "annotations": {"deployment.kubernetes.io/revision": str(revision)}},
        spec={"replicas": 2},
        status={
            "observedGeneration": 1, "replicas": 2, "updatedReplicas": updated,
            "availableReplicas": 2, "readyReplicas": 2,
            "conditions": [{"type": "Progressing", "status": "True", "reason": reason}],
        },
    )  # fmt: skip


def test_update_publishes_only_changes() -> None:
    differ = ClusterDiffer()
    assert len(resources(differ.replace_all(PODS, "", [pod(running())]))) == 1

    assert differ.update(PODS, pod(running(), meta={"resourceVersion": "7"})) == []
    assert differ.replace_all(PODS, "", [pod(running())]) == []


def test_replace_all_deletes_only_in_its_namespace() -> None:
    differ = ClusterDiffer()
    elsewhere = pod(running(), meta={"namespace": "other"})
    differ.replace_all(PODS, "shop", [pod(running())])
    differ.replace_all(PODS, "other", [elsewhere])

    (gone,) = differ.replace_all(PODS, "shop", [])

    assert isinstance(gone, Resource)
    assert (gone.namespace, gone.deleted) == ("shop", True)


def test_replace_all_deletes_what_restore_knew() -> None:
    before = resources(ClusterDiffer().replace_all(PODS, "", [pod(running())]))
    differ = ClusterDiffer()
    differ.restore(before)

    assert [one.deleted for one in resources(differ.replace_all(PODS, "", []))] == [True]


@pytest.mark.parametrize("first", ["pod", "replica set"])
def test_pod_has_its_top_workload_in_any_order_of_arrival(first: str) -> None:
    differ = ClusterDiffer()
    theirs = pod(running(), meta=owned_by("ReplicaSet", "web-77", "rs"))
    sets = make_object(
        REPLICA_SETS, "web-77", meta={"uid": "rs", **owned_by("Deployment", "web", "d")}
    )
    steps = [(PODS, theirs), (REPLICA_SETS, sets)]

    sent = [
        signal
        for watched, one in (steps if first == "pod" else reversed(steps))
        for signal in differ.update(watched, one)
    ]

    assert resources(sent)[-1].state["workload"] == "Deployment/web"
    assert {one.kind for one in resources(sent)} == {"kubernetes.pod"}


def test_pod_has_its_deployment_by_hash_without_replica_sets() -> None:
    meta = {"labels": {"pod-template-hash": "77"}, **owned_by("ReplicaSet", "web-77", "rs")}

    (sent,) = resources(ClusterDiffer().update(PODS, pod(running(), meta=meta)))

    assert sent.state["workload"] == "Deployment/web"


def test_oom_restart_is_two_events_reported_once() -> None:
    differ = ClusterDiffer()
    oom = termination(137, "OOMKilled")
    differ.update(PODS, pod(running(), conditions=true("Ready")))
    first = events(differ.update(PODS, pod(ended(code=137, reason="OOMKilled"))))
    again = differ.update(PODS, pod(waiting(reason="CrashLoopBackOff", restarts=1, last=oom)))

    assert first["kubernetes.pod.oom_killed"].severity == Severity.ERROR
    assert set(events(again)) == {"kubernetes.pod.restarted"}
    sent = events(again)["kubernetes.pod.restarted"]
    assert sent.id == "uid-it/main/restart/1"
    assert sent.data["reason"] == "OOMKilled"


def test_new_objects_report_only_recent_transitions() -> None:
    old = [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]
    fresh = [{"type": "Ready", "status": "True", "lastTransitionTime": format_time(now() - 60)}]

    assert not events(ClusterDiffer().replace_all(PODS, "", [pod(running(), conditions=old)]))
    assert events(ClusterDiffer().replace_all(PODS, "", [pod(running(), conditions=fresh)]))


def test_only_the_first_readiness_has_the_time_since_the_creation() -> None:
    differ = ClusterDiffer()
    created = now() - 600 * SECOND

    def become(status: str, seconds: int) -> dict[str, Any]:
        moments = [format_time(created + each * SECOND) for each in (0, 20, seconds)]
        container = running()
        container["state"]["running"]["startedAt"] = moments[1]
        condition = {"type": "Ready", "status": status, "lastTransitionTime": moments[2]}
        meta = {"creationTimestamp": moments[0]}
        sent = events(differ.update(PODS, pod(container, conditions=[condition], meta=meta)))
        return {name: event.data for name, event in sent.items()}

    assert become("False", 5) == {}
    assert become("True", 30)["kubernetes.pod.ready"]["seconds_after_creation"] == 30
    assert set(become("False", 100)) == {"kubernetes.pod.unready"}
    assert "seconds_after_creation" not in become("True", 500)["kubernetes.pod.ready"]


def test_eviction_is_an_event() -> None:
    differ = ClusterDiffer()
    differ.update(PODS, pod(running()))
    evicted = make_object(
        PODS, spec={}, status={"phase": "Failed", "reason": "Evicted", "message": "low"}
    )

    assert events(differ.update(PODS, evicted))["kubernetes.pod.evicted"].data["message"] == "low"


def test_rollout_starts_and_finishes_and_scaling_is_not_one() -> None:
    differ = ClusterDiffer()
    done = "NewReplicaSetAvailable"
    differ.update(DEPLOYMENTS, deployment(1, 2, reason=done))

    assert set(events(differ.update(DEPLOYMENTS, deployment(1, 1, reason=done)))) == set()
    assert set(events(differ.update(DEPLOYMENTS, deployment(2, 0)))) == {
        "kubernetes.rollout.started"
    }
    assert set(events(differ.update(DEPLOYMENTS, deployment(2, 1)))) == set()
    assert set(events(differ.update(DEPLOYMENTS, deployment(2, 2, reason=done)))) == {
        "kubernetes.rollout.finished"
    }


def stateful_set(current: str, update: str, generation: int, observed: int = 0) -> Any:
    return make_object(
        STATEFUL_SETS,
        meta={"generation": generation},
        spec={"replicas": 2, "updateStrategy": {"type": "RollingUpdate"}},
        status={
            "observedGeneration": observed or generation, "replicas": 2, "readyReplicas": 2,
            "availableReplicas": 2, "currentRevision": f"db-{current}",
            "updateRevision": f"db-{update}",
        },
    )  # fmt: skip


def test_stateful_set_reports_each_rollout_and_rollback() -> None:
    differ, bus = ClusterDiffer(), MemoryBus()
    for state in (("a", "a", 1), ("a", "b", 2), ("b", "b", 2), ("b", "a", 3), ("a", "a", 3),
                  ("a", "b", 4), ("b", "b", 4)):  # fmt: skip
        bus.accept(differ.update(STATEFUL_SETS, stateful_set(*state)))
    sent = [one.type.rpartition(".")[2] for one in bus.signals if isinstance(one, Event)]
    assert sent == ["started", "finished"] * 3
    assert not bus.repeats

    # Another number of replicas is no rollout, before the controller has seen it too; and what is
    # read again after a restart has been sent.
    for run in (differ, ClusterDiffer()):
        for state in (("b", "b", 4), ("b", "b", 5, 4), ("b", "b", 5)):
            bus.accept(run.update(STATEFUL_SETS, stateful_set(*state)))
    assert len([one for one in bus.signals if isinstance(one, Event)]) == len(sent)


def test_rollout_under_way_at_a_restart_is_reported_as_finished() -> None:
    differ = ClusterDiffer()
    differ.update(STATEFUL_SETS, stateful_set("a", "b", 2))
    assert set(events(differ.update(STATEFUL_SETS, stateful_set("b", "b", 2)))) == {
        "kubernetes.rollout.finished"
    }


def test_stalled_rollout_is_an_error() -> None:
    differ = ClusterDiffer()
    differ.update(DEPLOYMENTS, deployment(1, 1))

    sent = events(differ.update(DEPLOYMENTS, deployment(1, 1, reason="ProgressDeadlineExceeded")))

    assert sent["kubernetes.rollout.stalled"].severity == Severity.ERROR


def test_node_reports_not_ready_and_ready() -> None:
    def node(status: str) -> Any:
        return make_object(
            NODES, meta={"namespace": ""}, status={"conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": format_time(now())}
            ]},
        )  # fmt: skip

    differ = ClusterDiffer()
    differ.update(NODES, node("True"))

    assert set(events(differ.update(NODES, node("Unknown")))) == {"kubernetes.node.not_ready"}
    assert set(events(differ.update(NODES, node("True")))) == {"kubernetes.node.ready"}


@pytest.mark.parametrize(
    ("condition", "good"), [("NetworkingReady", "True"), ("EtcdIsVoter", "True"),
                            ("MemoryPressure", "False"), ("KernelDeadlock", "False")],
)  # fmt: skip
def test_node_pressure_follows_polarity_of_conditions(condition: str, good: str) -> None:
    def node(status: str) -> Any:
        since = format_time(now())
        return make_object(
            NODES, meta={"namespace": ""}, status={"conditions": [
                {"type": name, "status": one, "lastTransitionTime": since}
                for name, one in (("Ready", "True"), (condition, status))
            ]},
        )  # fmt: skip

    differ = ClusterDiffer()
    first = differ.update(NODES, node(good))
    assert resources(first)[0].severity == Severity.INFO
    assert "kubernetes.node.pressure" not in events(first)
    bad = differ.update(NODES, node("False" if good == "True" else "True"))
    assert resources(bad)[0].state["pressures"] == [condition]
    assert events(bad)["kubernetes.node.pressure"].data["condition"] == condition


def test_custom_columns_may_point_anywhere() -> None:
    watched = custom_kind(
        group="g.io", version="v1", plural="xs", kind="X", status="metadata.labels.tier",
        columns=[CustomColumn(title="made", path="metadata.creationTimestamp"),
                 CustomColumn(title="rule", path="rules[0].name")],
    )  # fmt: skip
    made = "2026-01-01T00:00:00Z"
    thing = make_object(
        watched, meta={"creationTimestamp": made, "labels": {"tier": "gold"}},
        rules=[{"name": "first"}], whole="of its own",
    )  # fmt: skip
    (sent,) = resources(ClusterDiffer().update(watched, thing))
    assert (sent.status, sent.state["made"], sent.state["rule"]) == (
        "gold",
        made,
        "first",
    )


def test_first_rollout_is_reported_once_with_a_late_revision() -> None:
    bus = MemoryBus()
    made = {"creationTimestamp": format_time(now()), "generation": 1}
    unseen = make_object(DEPLOYMENTS, meta=made, spec={"replicas": 2})
    seen = make_object(
        DEPLOYMENTS, spec={"replicas": 2},
        meta={**made, "annotations": {"deployment.kubernetes.io/revision": "1"}},
    )  # fmt: skip
    for changes in ([unseen, seen], [seen]):
        differ = ClusterDiffer()
        for change in changes:
            bus.accept(differ.update(DEPLOYMENTS, change))
    sent = [one.type for one in bus.signals if isinstance(one, Event)]
    assert sent == ["kubernetes.rollout.started"]


def test_pod_level_requests_override_those_of_containers() -> None:
    spec = {
        "containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "100m"}}}],
        "resources": {"requests": {"cpu": "4"}, "limits": {"cpu": "4", "memory": "8Gi"}},
        "overhead": {"cpu": "250m"},
    }
    (sent,) = resources(ClusterDiffer().update(PODS, make_object(PODS, spec=spec)))
    assert sent.state["cpu_request"] == sent.state["cpu_limit"] == 4.25
    assert sent.state["memory_limit"] == 8 * 1024**3
    assert "memory_request" not in sent.state


def test_certificate_near_its_end_is_reported_once() -> None:
    differ = ClusterDiffer()
    near = make_object(
        CERTIFICATES, spec={"dnsNames": ["a.example.org"]},
        status={"notAfter": format_time(now() + 9 * DAY),
                "conditions": [{"type": "Ready", "status": "True"}]},
    )  # fmt: skip

    sent = events(differ.replace_all(CERTIFICATES, "", [near]))

    assert sent["kubernetes.certificate.expires_soon"].severity == Severity.WARN
    assert differ.tick() == []


def test_each_count_of_a_series_is_one_event_of_a_correlation() -> None:
    def event(count: int) -> Any:
        return make_object(
            EVENTS, "e", reason="BackOff", type="Warning", note="again",
            eventTime="2026-11-24T10:00:00Z", regarding={"kind": "Pod", "namespace": "shop",
                                                         "name": "it"},
            **({"series": {"count": count, "lastObservedTime": "2026-11-24T10:05:00Z"}}
               if count > 1 else {"series": None}),
        )  # fmt: skip

    differ = ClusterDiffer()
    differ.update(PODS, pod(running(), meta=owned_by("StatefulSet", "db", "s")))
    sent = [
        one
        for count in (1, 1, 4)
        for one in differ.update(EVENTS, event(count))
        if isinstance(one, Event)
    ]

    assert [one.id for one in sent] == ["uid-e/1", "uid-e/4"]
    assert {one.type for one in sent} == {"kubernetes.event.BackOff"}
    assert {one.correlation for one in sent} == {"statefulset/shop/db"}
    assert sent[1].data["count"] == 4


def test_usage_sums_containers_of_known_pods() -> None:
    differ = ClusterDiffer("west")
    differ.update(PODS, pod(running()))
    used = [{"name": "a", "usage": {"cpu": "250m", "memory": "1Mi"}},
            {"name": "b", "usage": {"cpu": "50000000n", "memory": "1Mi"}}]  # fmt: skip
    measured = make_object(POD_METRICS, timestamp="2026-11-24T10:00:00Z", containers=used)
    unknown = make_object(POD_METRICS, "other", timestamp="2026-11-24T10:00:00Z", containers=used)

    sent = differ.usage(POD_METRICS, [measured, unknown])

    assert [(one.metric, one.value, one.namespace) for one in sent if isinstance(one, Sample)] == [
        ("cpu", pytest.approx(0.3), "west/shop"), ("memory", 2097152.0, "west/shop"),
    ]  # fmt: skip
    assert differ.usage(POD_METRICS, [measured]) == []


@pytest.mark.parametrize(
    ("written", "value"),
    [("1", 1.0), ("250m", 0.25), ("1.5Gi", 1.5 * 2**30), ("2e3", 2000.0), ("100k", 1e5), (3, 3.0),
     ("", None), ("1x", None), ("1e999", None), ("many", None), (True, None)],
)  # fmt: skip
def test_parse_quantity_returns_numbers(written: Any, value: float | None) -> None:
    assert parse_quantity(written) == (value if value is None else pytest.approx(value))


def test_workload_of_another_api_group_is_not_that_of_kubernetes() -> None:
    differ = ClusterDiffer()
    owner = {"kind": "StatefulSet", "name": "db", "uid": "k", "controller": True}
    kruise = {"ownerReferences": [{**owner, "apiVersion": "apps.kruise.io/v1beta1"}]}
    apps = {"ownerReferences": [{**owner, "uid": "a", "apiVersion": "apps/v1"}]}

    (other,) = resources(differ.update(PODS, pod(running(), meta={**kruise, "name": "one"})))
    (own,) = resources(differ.update(PODS, pod(running(), meta={**apps, "name": "two"})))

    assert other.state["workload"] == "StatefulSet.apps.kruise.io/db"
    assert own.state["workload"] == "StatefulSet/db"


def test_event_about_another_api_group_is_not_about_that_of_kubernetes() -> None:
    differ = ClusterDiffer()
    differ.update(STATEFUL_SETS, make_object(STATEFUL_SETS, "db"))

    def regarding(api_version: str) -> Event:
        about = {"kind": "StatefulSet", "namespace": "shop", "name": "db",
                 "apiVersion": api_version}  # fmt: skip
        event = make_object(EVENTS, api_version, reason="Created", regarding=about)
        (sent,) = differ.update(EVENTS, event)
        assert isinstance(sent, Event)
        return sent

    assert regarding("apps/v1").subject == "statefulset/shop/db"
    assert regarding("apps.kruise.io/v1beta1").subject == "statefulset.apps.kruise.io/shop/db"
