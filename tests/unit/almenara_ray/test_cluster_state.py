"""Each answer of a cluster is compared with the one before; every change is published once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from almenara.sdk import now
from almenara.signals import Event, Resource, Severity, Signal
from almenara.testing.source_run import MemoryContext
from almenara.units import MINUTE
from almenara_ray.cluster_state import ClusterState
from almenara_ray.kinds import APPLICATION, CLUSTER, JOB, NODE
from almenara_ray.models import Application, Job, Node, SavedState, Version

T0 = 1_790_000_000_000_000


def job(name: str, status: str, submitted: int = T0, ended: int | None = None, **more: Any) -> Job:
    if ended is None and status in ("SUCCEEDED", "FAILED", "STOPPED"):
        ended = submitted + MINUTE
    return Job(id=name, status=status, submitted=submitted, ended=ended, **more)


def update(cluster: ClusterState, *jobs: Job, **options: Any) -> list[str]:
    """The events of a job list, as `<job> <event>`."""
    signals = cluster.job_signals(cluster.jobs.update(jobs, **options))
    return [
        f"{event.subject} {event.type.rpartition('.')[2]}"
        for event in signals
        if isinstance(event, Event)
    ]


def restart_almenara(cluster: ClusterState) -> ClusterState:
    """The same cluster after a restart of Almenara."""
    stored = msgspec.msgpack.encode(cluster.saved)
    return ClusterState(cluster.name, msgspec.msgpack.decode(stored, type=SavedState))


def test_job_that_ran_between_two_lists_gets_all_events_in_order() -> None:
    cluster = ClusterState("lab", SavedState())
    events = update(
        cluster,
        job("b", "FAILED", T0 + MINUTE),
        job("a", "SUCCEEDED", T0, T0 + 3 * MINUTE),
    )
    assert events == ["a submitted", "b submitted", "b failed", "a succeeded"]
    assert update(cluster, job("a", "SUCCEEDED", T0, T0 + 3 * MINUTE)) == []


def test_restart_of_almenara_repeats_and_misses_no_event() -> None:
    cluster = ClusterState("lab", SavedState())
    update(cluster, job("old", "SUCCEEDED", T0 - 1000 * MINUTE), job("a", "RUNNING"))
    update(cluster, job("new", "SUCCEEDED", T0), job("a", "RUNNING"))
    again = restart_almenara(cluster)
    events = update(
        again,
        job("old", "SUCCEEDED", T0 - 1000 * MINUTE),
        job("new", "SUCCEEDED", T0),
        job("a", "SUCCEEDED", T0, T0 + 2 * MINUTE),
        job("b", "STOPPED", T0 + MINUTE),
    )
    assert events == ["b submitted", "a succeeded", "b stopped"]


def test_end_is_published_after_a_much_later_end_in_the_same_list() -> None:
    long = job("long", "SUCCEEDED", T0, T0 + 30 * MINUTE)
    short = job("short", "FAILED", T0 + 5 * MINUTE, T0 + 6 * MINUTE)
    expected = ["long submitted", "short submitted", "short failed", "long succeeded"]
    assert update(ClusterState("lab", SavedState()), long, short) == expected
    cluster = ClusterState("lab", SavedState())
    update(cluster, job("long", "RUNNING"))
    assert update(restart_almenara(cluster), long, short) == expected[1:]


@pytest.mark.anyio
async def test_resources_of_an_earlier_run_are_deleted_once(tmp_path: Path) -> None:
    context = MemoryContext(tmp_path)
    earlier = [(JOB, "old"), (JOB, "a"), (NODE, "n" * 12), (NODE, "h" * 12), (APPLICATION, "chat")]
    resources = [Resource(kind=kind, namespace="lab", name=name) for kind, name in earlier]
    other = Resource(kind=JOB, namespace="other", name="elsewhere")
    context.bus.accept([*resources, other, Resource(kind=CLUSTER, name="lab")], "ray/lab")
    cluster = ClusterState("lab", SavedState())
    await cluster.restore(context, "ray/lab", is_shared=True)

    def deleted(signals: Sequence[Signal]) -> list[str]:
        return [
            signal.name for signal in signals if isinstance(signal, Resource) and signal.deleted
        ]

    jobs = [job("a", "RUNNING")]
    assert deleted(cluster.job_signals(cluster.jobs.update(jobs))) == ["old"]
    assert deleted(cluster.job_signals(cluster.jobs.update(jobs))) == []
    assert deleted(cluster.update_nodes([Node(id="h" * 12, name="h")])) == ["n" * 12]
    assert sorted(deleted(cluster.delete_resources())) == ["a", "chat", "h" * 12, "lab"]


def test_reused_id_is_another_run() -> None:
    cluster = ClusterState("lab", SavedState())
    assert update(cluster, job("a", "SUCCEEDED")) == ["a submitted", "a succeeded"]
    assert update(cluster, job("a", "FAILED", T0 + 5 * MINUTE)) == ["a submitted", "a failed"]


def test_unfinished_jobs_unknown_to_a_new_head_are_lost_once() -> None:
    cluster = ClusterState("lab", SavedState())
    update(cluster, job("done", "SUCCEEDED"), job("a", "RUNNING"))
    assert update(cluster, restarted=True) == ["a lost"]
    assert update(cluster) == []
    assert update(restart_almenara(cluster)) == []


def test_jobs_restored_by_a_new_head_continue() -> None:
    cluster = ClusterState("lab", SavedState())
    cluster.update_version(Version(ray="2.60.0", session="s"), "head-1")
    update(cluster, job("done", "SUCCEEDED"), job("a", "RUNNING"))
    (event,) = cluster.update_version(Version(ray="2.60.0", session="s"), "head-2")
    assert isinstance(event, Event)
    assert event.type == "ray.cluster.restarted"
    assert update(cluster, job("done", "SUCCEEDED"), job("a", "RUNNING")) == []
    assert update(cluster, job("done", "SUCCEEDED"), job("a", "FAILED")) == ["a failed"]


def test_job_missing_from_one_list_is_not_lost() -> None:
    cluster = ClusterState("lab", SavedState())
    update(cluster, job("a", "RUNNING"))
    assert update(cluster) == []
    assert update(cluster, job("a", "RUNNING")) == []
    assert update(cluster) == []
    assert update(cluster) == ["a lost"]


def test_lost_job_listed_again_gets_its_end_event() -> None:
    cluster = ClusterState("lab", SavedState())
    update(cluster, job("a", "RUNNING"))
    update(cluster)
    assert update(cluster) == ["a lost"]
    assert update(cluster, job("a", "SUCCEEDED"))[-1] == "a succeeded"
    assert update(cluster, job("a", "SUCCEEDED")) == []


def test_wrong_clock_of_the_head_repeats_no_end() -> None:
    for skew in (-600 * MINUTE, 600 * MINUTE):
        cluster = ClusterState("lab", SavedState())
        early = job("early", "SUCCEEDED", now() + skew)
        assert update(cluster, early) == ["early submitted", "early succeeded"]
        late = job("late", "FAILED", now() + skew + 30 * MINUTE)
        for _ in range(3):
            events = update(cluster, early, late)
            cluster.saved.recent.clear()
            assert events in (["late submitted", "late failed"], [])
        assert update(cluster, early, late) == []


def test_partial_list_loses_no_job() -> None:
    cluster = ClusterState("lab", SavedState())
    update(cluster, job("a", "RUNNING"))
    for _ in range(5):
        assert update(cluster, partial=True) == []


@given(st.data())
def test_any_sequence_of_lists_publishes_each_run_once_in_order(data: st.DataObject) -> None:
    """Jobs pass through their states while lists, restarts and gaps come at any moment."""
    names = data.draw(st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1, max_size=6))
    paths = {
        name: data.draw(
            st.sampled_from(
                (["PENDING", "RUNNING", "SUCCEEDED"], ["PENDING", "FAILED"],
                 ["RUNNING", "STOPPED"], ["PENDING", "RUNNING"])
            )
        )
        for name in names
    }  # fmt: skip
    at = dict.fromkeys(names, -1)
    cluster = ClusterState("lab", SavedState())
    counts: dict[tuple[str, str], int] = {}
    order: dict[str, list[str]] = {name: [] for name in names}

    def list_jobs() -> None:
        jobs = [
            job(name, paths[name][at[name]], T0 + ord(name) * MINUTE)
            for name in data.draw(st.permutations(names))
            if at[name] >= 0
        ]
        for signal in cluster.job_signals(cluster.jobs.update(jobs)):
            if isinstance(signal, Event):
                counts[(signal.source, signal.id)] = counts.get((signal.source, signal.id), 0) + 1
                order[signal.subject].append(signal.type.rpartition(".")[2])

    for _ in range(data.draw(st.integers(3, 12))):
        action = data.draw(st.sampled_from(("step", "list", "restart")))
        if action == "step":
            name = data.draw(st.sampled_from(names))
            at[name] = min(at[name] + 1, len(paths[name]) - 1)
        elif action == "list":
            list_jobs()
        else:
            cluster = restart_almenara(cluster)
    for name in names:
        at[name] = len(paths[name]) - 1
    list_jobs()
    assert set(counts.values()) == {1}
    for name in names:
        assert order[name][0] == "submitted"
        last = paths[name][-1].lower()
        assert order[name][-1] == last
        assert len(set(order[name])) == len(order[name])


def nodes(*alive: str, dead: str = "", reason: str = "") -> list[Node]:
    listed = [Node(id=name * 12, name=name, head=name == "h", total={"CPU": 4.0}) for name in alive]
    if dead:
        listed.append(Node(id=dead * 12, name=dead, alive=False, reason=reason))
    return listed


def types(signals: Any) -> list[str]:
    return [event.type for event in signals if isinstance(event, Event)]


@pytest.mark.parametrize(
    ("reason", "event_type", "severity"),
    [
        ("Unexpected termination: health check failed", "ray.node.lost", Severity.ERROR),
        ("Expected termination: received SIGTERM", "ray.node.left", Severity.INFO),
        ("Terminated due to idle (no Ray activity)", "ray.node.left", Severity.INFO),
        ("Terminated due to preemption", "ray.node.lost", Severity.ERROR),
    ],
)
def test_node_end_is_lost_or_left_by_its_reason(
    reason: str, event_type: str, severity: Severity
) -> None:
    cluster = ClusterState("lab", SavedState())
    assert types(cluster.update_nodes(nodes("h", "w"))) == []
    events = [event for event in cluster.update_nodes(nodes("h", dead="w", reason=reason))
             if isinstance(event, Event)]  # fmt: skip
    assert [(event.type, event.severity) for event in events] == [(event_type, severity)]
    assert events[0].data["host"] == "w"
    assert types(cluster.update_nodes(nodes("h", dead="w", reason=reason))) == []


def test_nodes_dead_at_first_get_no_event() -> None:
    cluster = ClusterState("lab", SavedState())
    signals = cluster.update_nodes(nodes("h", dead="w", reason="x"))
    assert types(signals) == []
    assert not any(getattr(event, "name", "") == "w" * 12 for event in signals)
    assert types(cluster.update_nodes(nodes("h", "v", dead="w"))) == ["ray.node.joined"]


def test_spilling_gets_one_event() -> None:
    cluster = ClusterState("lab", SavedState())

    def spilled(amount: float) -> list[str]:
        return types(cluster.update_nodes([Node(id="n" * 12, name="n", spilled=amount)]))

    assert [spilled(amount) for amount in (5.0, 5.0, 9.0, 12.0, 12.0)] == [
        [], [], ["ray.node.spilling"], [], [],
    ]  # fmt: skip


def test_unhealthy_application_gets_an_event() -> None:
    cluster = ClusterState("lab", SavedState())
    cluster.update_applications([Application(name="chat", status="RUNNING")])
    cluster.note_published()
    signals = cluster.update_applications(
        [Application(name="chat", status="UNHEALTHY", message="no replica")]
    )
    assert types(signals) == ["ray.application.unhealthy"]


def test_application_first_seen_as_failed_gets_an_event_once() -> None:
    cluster = ClusterState("lab", SavedState())
    failed = [
        Application(name="chat", status="DEPLOY_FAILED", message="x\nImportError: no torch"),
        Application(name="fine", status="RUNNING"),
    ]
    (event,) = [
        signal for signal in cluster.update_applications(failed) if isinstance(signal, Event)
    ]
    assert (event.type, event.severity) == ("ray.application.deploy_failed", Severity.ERROR)
    assert event.data["reason"] == "ImportError: no torch"
    cluster.note_published()
    # A restart of Almenara finds it as it was, and notices what changed meanwhile.
    cluster = restart_almenara(cluster)
    assert types(cluster.update_applications(failed)) == []
    cluster.note_published()
    running = [Application(name="chat", status="RUNNING")]
    assert types(restart_almenara(cluster).update_applications(running)) == [
        "ray.application.running"
    ]


def test_parts_of_a_cluster_that_is_down_are_unknown_and_come_back() -> None:
    cluster = ClusterState("lab", SavedState())
    cluster.record_answer()
    jobs = [job("a", "RUNNING"), job("done", "SUCCEEDED")]
    cluster.job_signals(cluster.jobs.update(jobs))
    cluster.update_nodes(nodes("h"))
    cluster.update_applications([Application(name="chat", status="RUNNING")])

    def list_statuses(signals: Sequence[Signal]) -> dict[str, str]:
        return {
            signal.name: signal.status
            for signal in signals
            if isinstance(signal, Resource) and signal.kind != CLUSTER
        }

    assert list_statuses(cluster.record_failure("no answer")) == {}
    signals = cluster.record_failure("no answer")
    assert list_statuses(signals) == dict.fromkeys(("a", "h" * 12, "chat"), "unknown")
    running = next(signal for signal in signals if getattr(signal, "name", "") == "a")
    assert isinstance(running, Resource)
    assert running.state["last_status"] == "RUNNING"
    assert running.state["stale_since"] > 0
    assert list_statuses(cluster.record_failure("no answer")) == {}
    cluster.record_answer()
    assert list_statuses(cluster.job_signals(cluster.jobs.update(jobs))) == {"a": "RUNNING"}
    assert list_statuses(cluster.update_nodes(nodes("h"))) == {"h" * 12: "alive"}


def test_job_whose_start_is_reported_late_or_not_always_is_one_run() -> None:
    cluster = ClusterState("lab", SavedState())
    events = update(cluster, job("a", "PENDING", submitted=0))
    events += update(cluster, job("a", "RUNNING", submitted=T0))
    events += update(cluster, job("a", "RUNNING", submitted=0), partial=True)
    events += update(cluster, job("a", "SUCCEEDED", submitted=T0, ended=T0 + MINUTE))
    events += update(cluster, job("a", "SUCCEEDED", submitted=T0, ended=T0 + MINUTE))
    assert events == ["a submitted", "a running", "a succeeded"]
    assert not cluster.saved.unfinished


def test_cluster_is_down_after_two_failures_and_up_again() -> None:
    cluster = ClusterState("lab", SavedState())
    assert types(cluster.record_answer()) == []
    assert types(cluster.record_failure("no answer")) == []
    assert cluster.health == "stale"
    assert types(cluster.record_failure("no answer")) == ["ray.cluster.down"]
    assert types(cluster.record_failure("no answer")) == []
    assert cluster.health == "down"
    again = restart_almenara(cluster)
    assert types(again.record_answer()) == ["ray.cluster.up"]
    assert again.health == "up"


def test_running_job_has_the_median_duration_of_its_entrypoint() -> None:
    cluster = ClusterState("lab", SavedState())
    done = [
        job(
            f"r{number}",
            "SUCCEEDED",
            T0 + number * MINUTE,
            T0 + (number + 2) * MINUTE,
            entrypoint="train",
        )
        for number in range(3)
    ]
    update(cluster, *done)
    running = job("now", "RUNNING", T0 + 10 * MINUTE, entrypoint="train")
    update(cluster, *done, running)
    assert cluster.describe_job(running)["median"] == 120.0


def test_first_failure_long_after_the_last_answer_leaves_nothing_known() -> None:
    cluster = ClusterState("lab", SavedState())
    cluster.update_nodes(nodes("h"))
    signals = cluster.record_failure("no complete answer within 4 s")
    statuses = {each.kind: each.status for each in signals if isinstance(each, Resource)}
    assert statuses == {CLUSTER: "stale", NODE: "unknown"}


@pytest.mark.anyio
async def test_cluster_that_is_down_at_the_start_leaves_nothing_of_earlier_runs_known(
    tmp_path: Path,
) -> None:
    context = MemoryContext(tmp_path)
    for key in ((NODE, "lab", "h"), (APPLICATION, "lab", "chat"), (JOB, "lab", "done")):
        context.bus.known_resources["ray/lab"][key] = None
    cluster = ClusterState("lab", SavedState(unfinished={"a": job("a", "RUNNING")}))
    await cluster.restore(context, "ray/lab")
    signals = cluster.record_failure("no answer")
    statuses = {each.name: each.status for each in signals if isinstance(each, Resource)}
    assert statuses == {"lab": "stale", "a": "unknown", "h": "unknown", "chat": "unknown"}
    signals = cluster.record_failure("no answer")
    assert [each.name for each in signals if isinstance(each, Resource)] == ["lab"]
