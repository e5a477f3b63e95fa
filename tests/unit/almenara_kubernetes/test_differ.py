"""Objects of Kubernetes to signals: what is told, when, and of whatever comes."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from almenara.signals import Event, Resource, Sample, Severity, Signal, format_time, now
from almenara.testing.source_run import MemoryBus
from almenara_kube.kinds import WatchedKind
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import (
    CERTIFICATES,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    EVENTS,
    INGRESSES,
    KINDS,
    NODES,
    POD_METRICS,
    PODS,
    REPLICA_SETS,
    SERVICES,
    STATEFUL_SETS,
    CustomColumn,
    custom_kind,
)
from almenara_kubernetes.quantities import parse_quantity
from support.awkward_pods import ended, running, termination, true, waiting

DAY = 86_400_000_000


def it(watched: WatchedKind, name: str = "it", **parts: Any) -> Any:
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}", **parts.pop("meta", {})}
    return watched.decode(msgspec.json.encode({"metadata": metadata, **parts}))


def pod(*containers: Any, phase: str = "Running", conditions: Any = (), **parts: Any) -> Any:
    return it(
        PODS,
        spec={"containers": [{"name": one["name"], "image": "a/b:1.2"} for one in containers]},
        status={"phase": phase, "containerStatuses": containers, "conditions": list(conditions)},
        **parts,
    )


def events(signals: Sequence[Signal]) -> dict[str, Event]:
    return {one.type: one for one in signals if isinstance(one, Event)}


def resources(signals: Sequence[Signal]) -> list[Resource]:
    return [one for one in signals if isinstance(one, Resource)]


def owned_by(kind: str, name: str, uid: str) -> dict[str, Any]:
    return {"ownerReferences": [{"kind": kind, "name": name, "uid": uid, "controller": True}]}


def deployment(revision: int, updated: int, *, reason: str = "ReplicaSetUpdated") -> Any:
    return it(
        DEPLOYMENTS,
        meta={"generation": 1, "annotations": {"deployment.kubernetes.io/revision": str(revision)}},
        spec={"replicas": 2},
        status={
            "observedGeneration": 1, "replicas": 2, "updatedReplicas": updated,
            "availableReplicas": 2, "readyReplicas": 2,
            "conditions": [{"type": "Progressing", "status": "True", "reason": reason}],
        },
    )  # fmt: skip


def test_what_has_not_changed_is_not_told_again() -> None:
    reading = ClusterDiffer()
    assert len(resources(reading.replace_all(PODS, "", [pod(running())]))) == 1

    assert reading.update(PODS, pod(running(), meta={"resourceVersion": "7"})) == []
    assert reading.replace_all(PODS, "", [pod(running())]) == []


def test_a_list_ends_what_is_not_in_it_only_in_its_own_namespace() -> None:
    reading = ClusterDiffer()
    elsewhere = pod(running(), meta={"namespace": "other"})
    reading.replace_all(PODS, "shop", [pod(running())])
    reading.replace_all(PODS, "other", [elsewhere])

    (gone,) = reading.replace_all(PODS, "shop", [])

    assert isinstance(gone, Resource)
    assert (gone.namespace, gone.deleted) == ("shop", True)


def test_what_went_while_almenara_was_away_is_told_as_gone() -> None:
    before = resources(ClusterDiffer().replace_all(PODS, "", [pod(running())]))
    reading = ClusterDiffer()
    reading.restore(before)

    assert [one.deleted for one in resources(reading.replace_all(PODS, "", []))] == [True]


@pytest.mark.parametrize("first", ["pod", "replica set"])
def test_a_pod_is_told_with_the_workload_at_the_top_whoever_comes_first(first: str) -> None:
    reading = ClusterDiffer()
    theirs = pod(running(), meta=owned_by("ReplicaSet", "web-77", "rs"))
    sets = it(REPLICA_SETS, "web-77", meta={"uid": "rs", **owned_by("Deployment", "web", "d")})
    steps = [(PODS, theirs), (REPLICA_SETS, sets)]

    told = [
        signal
        for watched, one in (steps if first == "pod" else reversed(steps))
        for signal in reading.update(watched, one)
    ]

    assert resources(told)[-1].state["workload"] == "Deployment/web"
    assert {one.kind for one in resources(told)} == {"kubernetes.pod"}


def test_the_hash_of_a_pod_gives_its_deployment_away_where_replica_sets_are_not_seen() -> None:
    meta = {"labels": {"pod-template-hash": "77"}, **owned_by("ReplicaSet", "web-77", "rs")}

    (told,) = resources(ClusterDiffer().update(PODS, pod(running(), meta=meta)))

    assert told.state["workload"] == "Deployment/web"


def test_a_restart_after_running_out_of_memory_is_two_events_told_once() -> None:
    reading = ClusterDiffer()
    oom = termination(137, "OOMKilled")
    reading.update(PODS, pod(running(), conditions=true("Ready")))
    first = events(reading.update(PODS, pod(ended(code=137, reason="OOMKilled"))))
    again = reading.update(PODS, pod(waiting(reason="CrashLoopBackOff", restarts=1, last=oom)))

    assert first["kubernetes.pod.oom_killed"].severity == Severity.ERROR
    assert set(events(again)) == {"kubernetes.pod.restarted"}
    told = events(again)["kubernetes.pod.restarted"]
    assert told.id == "uid-it/main/restart/1"
    assert told.data["reason"] == "OOMKilled"


def test_a_new_installation_does_not_begin_with_the_news_of_last_year() -> None:
    old = [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]
    fresh = [{"type": "Ready", "status": "True", "lastTransitionTime": format_time(now() - 60)}]

    assert not events(ClusterDiffer().replace_all(PODS, "", [pod(running(), conditions=old)]))
    assert events(ClusterDiffer().replace_all(PODS, "", [pod(running(), conditions=fresh)]))


def test_an_eviction_is_told() -> None:
    reading = ClusterDiffer()
    reading.update(PODS, pod(running()))
    evicted = it(PODS, spec={}, status={"phase": "Failed", "reason": "Evicted", "message": "low"})

    assert events(reading.update(PODS, evicted))["kubernetes.pod.evicted"].data["message"] == "low"


def test_a_rollout_begins_and_finishes_and_scaling_is_none() -> None:
    reading = ClusterDiffer()
    done = "NewReplicaSetAvailable"
    reading.update(DEPLOYMENTS, deployment(1, 2, reason=done))

    assert set(events(reading.update(DEPLOYMENTS, deployment(1, 1, reason=done)))) == set()
    assert set(events(reading.update(DEPLOYMENTS, deployment(2, 0)))) == {
        "kubernetes.rollout.started"
    }
    assert set(events(reading.update(DEPLOYMENTS, deployment(2, 1)))) == set()
    assert set(events(reading.update(DEPLOYMENTS, deployment(2, 2, reason=done)))) == {
        "kubernetes.rollout.finished"
    }


def stateful_set(current: str, update: str, generation: int, observed: int = 0) -> Any:
    return it(
        STATEFUL_SETS,
        meta={"generation": generation},
        spec={"replicas": 2, "updateStrategy": {"type": "RollingUpdate"}},
        status={
            "observedGeneration": observed or generation, "replicas": 2, "readyReplicas": 2,
            "availableReplicas": 2, "currentRevision": f"db-{current}",
            "updateRevision": f"db-{update}",
        },
    )  # fmt: skip


def test_each_rollout_of_a_stateful_set_is_told_also_one_back_to_what_it_was() -> None:
    reading, bus = ClusterDiffer(), MemoryBus()
    for state in (("a", "a", 1), ("a", "b", 2), ("b", "b", 2), ("b", "a", 3), ("a", "a", 3),
                  ("a", "b", 4), ("b", "b", 4)):  # fmt: skip
        bus.accept(reading.update(STATEFUL_SETS, stateful_set(*state)))
    told = [one.type.rpartition(".")[2] for one in bus.signals if isinstance(one, Event)]
    assert told == ["started", "finished"] * 3
    assert not bus.repeats

    # A change of its number is none, although the controller has yet to see it; and what is seen
    # again after a restart is what was told.
    for run in (reading, ClusterDiffer()):
        for state in (("b", "b", 4), ("b", "b", 5, 4), ("b", "b", 5)):
            bus.accept(run.update(STATEFUL_SETS, stateful_set(*state)))
    assert len([one for one in bus.signals if isinstance(one, Event)]) == len(told)


def test_a_rollout_that_was_under_way_at_a_restart_is_told_to_have_finished() -> None:
    reading = ClusterDiffer()
    reading.update(STATEFUL_SETS, stateful_set("a", "b", 2))
    assert set(events(reading.update(STATEFUL_SETS, stateful_set("b", "b", 2)))) == {
        "kubernetes.rollout.finished"
    }


def test_a_stalled_rollout_is_an_error() -> None:
    reading = ClusterDiffer()
    reading.update(DEPLOYMENTS, deployment(1, 1))

    told = events(reading.update(DEPLOYMENTS, deployment(1, 1, reason="ProgressDeadlineExceeded")))

    assert told["kubernetes.rollout.stalled"].severity == Severity.ERROR


def test_a_node_that_is_not_heard_of_is_told_and_again_when_it_is() -> None:
    def node(status: str) -> Any:
        return it(
            NODES, meta={"namespace": ""}, status={"conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": format_time(now())}
            ]},
        )  # fmt: skip

    reading = ClusterDiffer()
    reading.update(NODES, node("True"))

    assert set(events(reading.update(NODES, node("Unknown")))) == {"kubernetes.node.not_ready"}
    assert set(events(reading.update(NODES, node("True")))) == {"kubernetes.node.ready"}


@pytest.mark.parametrize(
    ("condition", "good"), [("NetworkingReady", "True"), ("EtcdIsVoter", "True"),
                            ("MemoryPressure", "False"), ("KernelDeadlock", "False")],
)  # fmt: skip
def test_a_node_is_under_pressure_where_a_condition_is_not_as_it_should_be(
    condition: str, good: str
) -> None:
    def node(status: str) -> Any:
        since = format_time(now())
        return it(
            NODES, meta={"namespace": ""}, status={"conditions": [
                {"type": name, "status": one, "lastTransitionTime": since}
                for name, one in (("Ready", "True"), (condition, status))
            ]},
        )  # fmt: skip

    reading = ClusterDiffer()
    first = reading.update(NODES, node(good))
    assert resources(first)[0].severity == Severity.INFO
    assert "kubernetes.node.pressure" not in events(first)
    bad = reading.update(NODES, node("False" if good == "True" else "True"))
    assert resources(bad)[0].state["pressures"] == [condition]
    assert events(bad)["kubernetes.node.pressure"].data["condition"] == condition


def test_the_columns_of_a_custom_resource_may_point_anywhere() -> None:
    watched = custom_kind(
        group="g.io", version="v1", plural="xs", kind="X", status="metadata.labels.tier",
        columns=[CustomColumn(title="made", path="metadata.creationTimestamp"),
                 CustomColumn(title="rule", path="rules[0].name")],
    )  # fmt: skip
    made = "2026-01-01T00:00:00Z"
    thing = it(
        watched, meta={"creationTimestamp": made, "labels": {"tier": "gold"}},
        rules=[{"name": "first"}], whole="of its own",
    )  # fmt: skip
    (told,) = resources(ClusterDiffer().update(watched, thing))
    assert (told.status, told.state["made"], told.state["rule"]) == ("gold", made, "first")


@pytest.mark.parametrize("spec", [b"1e999", b'"\xff"', b"[" * 5_000 + b"]" * 5_000, b'"\\ud800"'])
def test_a_custom_resource_that_cannot_be_read_is_told_as_such(spec: bytes) -> None:
    watched = custom_kind(group="g.io", version="v1", plural="xs", kind="X")
    raw = b'{"metadata": {"name": "x", "uid": "1"}, "spec": ' + spec + b"}"
    told = ClusterDiffer().update(watched, watched.decode(raw))
    assert "this X cannot be read" in (events(told)["kubernetes.malformed"].problem or "")


def test_a_first_rollout_is_told_once_although_its_revision_comes_later() -> None:
    bus = MemoryBus()
    made = {"creationTimestamp": format_time(now()), "generation": 1}
    unseen = it(DEPLOYMENTS, meta=made, spec={"replicas": 2})
    seen = it(
        DEPLOYMENTS, spec={"replicas": 2},
        meta={**made, "annotations": {"deployment.kubernetes.io/revision": "1"}},
    )  # fmt: skip
    for changes in ([unseen, seen], [seen]):
        reading = ClusterDiffer()
        for change in changes:
            bus.accept(reading.update(DEPLOYMENTS, change))
    told = [one.type for one in bus.signals if isinstance(one, Event)]
    assert told == ["kubernetes.rollout.started"]


def test_what_a_pod_itself_asks_for_counts_before_what_its_containers_do() -> None:
    spec = {
        "containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "100m"}}}],
        "resources": {"requests": {"cpu": "4"}, "limits": {"cpu": "4", "memory": "8Gi"}},
        "overhead": {"cpu": "250m"},
    }
    (told,) = resources(ClusterDiffer().update(PODS, it(PODS, spec=spec)))
    assert told.state["cpu_request"] == told.state["cpu_limit"] == 4.25
    assert told.state["memory_limit"] == 8 * 1024**3
    assert "memory_request" not in told.state


def test_a_certificate_is_told_of_once_when_it_comes_near_its_end() -> None:
    reading = ClusterDiffer()
    near = it(
        CERTIFICATES, spec={"dnsNames": ["a.example.org"]},
        status={"notAfter": format_time(now() + 9 * DAY),
                "conditions": [{"type": "Ready", "status": "True"}]},
    )  # fmt: skip

    told = events(reading.replace_all(CERTIFICATES, "", [near]))

    assert told["kubernetes.certificate.expires_soon"].severity == Severity.WARN
    assert reading.tick() == []


def test_a_service_counts_the_ready_endpoints_of_all_its_slices() -> None:
    def part(name: str, **ready: bool) -> Any:
        return it(
            ENDPOINT_SLICES, name, meta={"labels": {"kubernetes.io/service-name": "it"}},
            endpoints=[
                {"addresses": ["10.0.0.1"], "conditions": {"ready": one},
                 "targetRef": {"kind": "Pod", "name": pod_name}}
                for pod_name, one in ready.items()
            ],
        )  # fmt: skip

    reading = ClusterDiffer()
    (before,) = resources(reading.update(SERVICES, it(SERVICES, spec={"selector": {"a": "b"}})))
    reading.update(ENDPOINT_SLICES, part("one", a=True, b=False))
    (after,) = resources(reading.update(ENDPOINT_SLICES, part("two", c=True)))
    (less,) = resources(reading.remove(ENDPOINT_SLICES, part("one")))

    assert (before.status, before.severity) == ("No endpoints", Severity.ERROR)
    assert (after.state["ready"], after.state["endpoints"]) == (2, 3)
    assert (less.state["ready"], less.state["endpoints"]) == (1, 1)


def test_each_count_of_a_series_is_one_event_of_the_same_story() -> None:
    def event(count: int) -> Any:
        return it(
            EVENTS, "e", reason="BackOff", type="Warning", note="again",
            eventTime="2026-11-24T10:00:00Z", regarding={"kind": "Pod", "namespace": "shop",
                                                         "name": "it"},
            **({"series": {"count": count, "lastObservedTime": "2026-11-24T10:05:00Z"}}
               if count > 1 else {"series": None}),
        )  # fmt: skip

    reading = ClusterDiffer()
    reading.update(PODS, pod(running(), meta=owned_by("StatefulSet", "db", "s")))
    told = [
        one
        for count in (1, 1, 4)
        for one in reading.update(EVENTS, event(count))
        if isinstance(one, Event)
    ]

    assert [one.id for one in told] == ["uid-e/1", "uid-e/4"]
    assert {one.type for one in told} == {"kubernetes.event.BackOff"}
    assert {one.correlation for one in told} == {"statefulset/shop/db"}
    assert told[1].data["count"] == 4


def test_usage_is_the_sum_of_the_containers_of_known_pods() -> None:
    reading = ClusterDiffer("west")
    reading.update(PODS, pod(running()))
    used = [{"name": "a", "usage": {"cpu": "250m", "memory": "1Mi"}},
            {"name": "b", "usage": {"cpu": "50000000n", "memory": "1Mi"}}]  # fmt: skip
    measured = it(POD_METRICS, timestamp="2026-11-24T10:00:00Z", containers=used)
    unknown = it(POD_METRICS, "other", timestamp="2026-11-24T10:00:00Z", containers=used)

    told = reading.usage(POD_METRICS, [measured, unknown])

    assert [(one.metric, one.value, one.namespace) for one in told if isinstance(one, Sample)] == [
        ("cpu", pytest.approx(0.3), "west/shop"), ("memory", 2097152.0, "west/shop"),
    ]  # fmt: skip
    assert reading.usage(POD_METRICS, [measured]) == []


@pytest.mark.parametrize(
    ("written", "value"),
    [("1", 1.0), ("250m", 0.25), ("1.5Gi", 1.5 * 2**30), ("2e3", 2000.0), ("100k", 1e5), (3, 3.0),
     ("", None), ("1x", None), ("1e999", None), ("many", None), (True, None)],
)  # fmt: skip
def test_quantities_are_numbers(written: Any, value: float | None) -> None:
    assert parse_quantity(written) == (value if value is None else pytest.approx(value))


def test_an_object_that_cannot_be_read_is_a_marked_resource_and_an_event() -> None:
    reading = ClusterDiffer()

    told = reading.update(PODS, it(PODS, spec=["what"]))

    (marked,) = resources(told)
    assert (marked.status, marked.severity) == ("Malformed", Severity.ERROR)
    assert events(told)["kubernetes.malformed"].problem
    assert resources(reading.update(PODS, pod(running())))[0].status == "Running"


FOUND = custom_kind(group="example.org", version="v1", plural="things", kind="Thing")
FIELDS = sorted(
    {
        msgspec.structs.fields(kind)[place].encode_name
        for kind in (type(it(PODS).spec), type(it(PODS).status), type(it(PODS).metadata))
        for place in range(len(msgspec.structs.fields(kind)))
    }
    | {"spec", "status", "metadata", "series", "endpoints", "template", "replicas", "rules", "tls"}
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)
GARBAGE = st.fixed_dictionaries(
    {"metadata": ANYTHING | st.fixed_dictionaries({"name": st.text(), "namespace": st.text()}),
     "spec": ANYTHING, "status": ANYTHING}
)  # fmt: skip


@given(watched=st.sampled_from([*KINDS, FOUND]), tree=GARBAGE | ANYTHING)
@settings(max_examples=400, deadline=None)
def test_whatever_an_object_holds_reading_goes_on_and_what_it_tells_can_be_written(
    watched: WatchedKind, tree: Any
) -> None:
    reading = ClusterDiffer()
    one = watched.decode(msgspec.json.encode(tree))

    told = [
        *reading.replace_all(watched, "", [one]),
        *reading.update(watched, one),
        *reading.tick(),
    ]

    msgspec.json.encode(told)
    assert told or reading.replace_all(watched, "", []) is not None
    reading.remove(watched, one)


@given(raw=st.binary(max_size=200))
def test_whatever_bytes_come_are_an_object(raw: bytes) -> None:
    one = PODS.decode(raw)

    assert ClusterDiffer().update(PODS, one)


@pytest.mark.parametrize(
    ("tls", "hosts", "status", "routes"),
    [
        ([["a.example.org"]], ["a.example.org"], "TLS", "a.example.org/ to web:80"),
        ([], ["a.example.org"], "Plain HTTP", "a.example.org/ to web:80 without TLS"),
        ([["a.example.org"]], ["a.example.org", "b.example.org"], "Partly plain HTTP",
         "a.example.org/ to web:80, b.example.org/ to web:80 without TLS"),
        ([["*.example.org"]], ["a.example.org", "b.a.example.org", "example.org"],
         "Partly plain HTTP",
         "a.example.org/ to web:80, b.a.example.org/ to web:80 without TLS,"
         " example.org/ to web:80 without TLS"),
        ([[]], ["a.example.org", ""], "TLS", "a.example.org/ to web:80, / to web:80"),
        ([["a.example.org"]], [""], "Plain HTTP", "/ to web:80 without TLS"),
        ([["*.example.org"]], ["*.example.org"], "TLS", "*.example.org/ to web:80"),
        ([["a.example.org"]], [], "No rules", None),
    ],
)  # fmt: skip
def test_an_ingress_says_which_of_its_hosts_have_tls(
    tls: list[list[str]], hosts: list[str], status: str, routes: str | None
) -> None:
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    one = it(
        INGRESSES,
        spec={
            "tls": [{"hosts": names, "secretName": "keys"} for names in tls],
            "rules": [{"host": name, "http": {"paths": [{"path": "/", "backend": backend}]}}
                      for name in hosts],
        },
    )  # fmt: skip

    (told,) = resources(ClusterDiffer().update(INGRESSES, one))

    assert (told.status, told.state.get("rules")) == (status, routes)
    assert (told.severity == Severity.INFO) == (status == "TLS")
