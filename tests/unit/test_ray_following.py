"""What a cluster says, compared with what it said before."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from almenara.sdk import now
from almenara.signals import Event, Resource, Severity, Signal
from almenara_ray.answers import Application, Job, Node, Version
from almenara_ray.following import APPLICATION, CLUSTER, JOB, NODE, Cluster
from almenara_ray.jobs import Known

MINUTE = 60_000_000
T0 = 1_790_000_000_000_000


def job(name: str, status: str, submitted: int = T0, ended: int | None = None, **more: Any) -> Job:
    if ended is None and status in ("SUCCEEDED", "FAILED", "STOPPED"):
        ended = submitted + MINUTE
    return Job(id=name, status=status, submitted=submitted, ended=ended, **more)


def told(cluster: Cluster, *jobs: Job, **how: Any) -> list[str]:
    signals = cluster.told(cluster.jobs.transitions(jobs, **how))
    return [f"{it.subject} {it.type.rpartition('.')[2]}" for it in signals if isinstance(it, Event)]


def restarted(cluster: Cluster) -> Cluster:
    """The same cluster after a restart of Almenara."""
    kept = msgspec.msgpack.encode(cluster.known)
    return Cluster(cluster.name, msgspec.msgpack.decode(kept, type=Known))


def test_a_job_that_began_and_ended_between_two_looks_is_told_whole_and_in_order() -> None:
    cluster = Cluster("lab", Known())
    found = told(
        cluster,
        job("b", "FAILED", T0 + MINUTE),
        job("a", "SUCCEEDED", T0, T0 + 3 * MINUTE),
    )
    assert found == ["a submitted", "b submitted", "b failed", "a succeeded"]
    assert told(cluster, job("a", "SUCCEEDED", T0, T0 + 3 * MINUTE)) == []


def test_a_restart_of_almenara_repeats_nothing_and_misses_nothing() -> None:
    cluster = Cluster("lab", Known())
    told(cluster, job("old", "SUCCEEDED", T0 - 1000 * MINUTE), job("a", "RUNNING"))
    told(cluster, job("new", "SUCCEEDED", T0), job("a", "RUNNING"))
    again = restarted(cluster)
    found = told(
        again,
        job("old", "SUCCEEDED", T0 - 1000 * MINUTE),
        job("new", "SUCCEEDED", T0),
        job("a", "SUCCEEDED", T0, T0 + 2 * MINUTE),
        job("b", "STOPPED", T0 + MINUTE),
    )
    assert found == ["b submitted", "a succeeded", "b stopped"]


def test_an_end_is_told_although_another_that_is_much_later_stands_before_it_in_the_list() -> None:
    long = job("long", "SUCCEEDED", T0, T0 + 30 * MINUTE)
    short = job("short", "FAILED", T0 + 5 * MINUTE, T0 + 6 * MINUTE)
    every = ["long submitted", "short submitted", "short failed", "long succeeded"]
    assert told(Cluster("lab", Known()), long, short) == every
    cluster = Cluster("lab", Known())
    told(cluster, job("long", "RUNNING"))
    assert told(restarted(cluster), long, short) == every[1:]


def test_what_an_earlier_run_told_and_is_not_there_any_more_is_told_as_gone_once() -> None:
    cluster = Cluster("lab", Known())
    cluster.earlier = {(JOB, "old"), (JOB, "a"), (NODE, "n" * 12), (NODE, "h" * 12)}

    def gone(signals: Sequence[Signal]) -> list[str]:
        return [it.name for it in signals if isinstance(it, Resource) and it.deleted]

    jobs = [job("a", "RUNNING")]
    assert gone(cluster.told(cluster.jobs.transitions(jobs))) == ["old"]
    assert gone(cluster.told(cluster.jobs.transitions(jobs))) == []
    assert gone(cluster.shaped([Node(id="h" * 12, name="h")])) == ["n" * 12]
    cluster.earlier = {(CLUSTER, "lab"), (APPLICATION, "chat")}
    assert sorted(gone(cluster.left())) == ["a", "chat", "h" * 12, "lab"]


def test_an_id_that_is_used_again_is_another_run() -> None:
    cluster = Cluster("lab", Known())
    assert told(cluster, job("a", "SUCCEEDED")) == ["a submitted", "a succeeded"]
    assert told(cluster, job("a", "FAILED", T0 + 5 * MINUTE)) == ["a submitted", "a failed"]


def test_jobs_that_a_new_head_does_not_know_are_lost_once_and_finished_ones_are_not() -> None:
    cluster = Cluster("lab", Known())
    told(cluster, job("done", "SUCCEEDED"), job("a", "RUNNING"))
    assert told(cluster, restarted=True) == ["a lost"]
    assert told(cluster) == []
    assert told(restarted(cluster)) == []


def test_jobs_that_a_new_head_has_restored_go_on() -> None:
    cluster = Cluster("lab", Known())
    cluster.started(Version(ray="2.60.0", session="s"), "head-1")
    told(cluster, job("done", "SUCCEEDED"), job("a", "RUNNING"))
    (event,) = cluster.started(Version(ray="2.60.0", session="s"), "head-2")
    assert isinstance(event, Event)
    assert event.type == "ray.cluster.restarted"
    assert told(cluster, job("done", "SUCCEEDED"), job("a", "RUNNING")) == []
    assert told(cluster, job("done", "SUCCEEDED"), job("a", "FAILED")) == ["a failed"]


def test_one_list_without_a_job_is_no_loss_yet() -> None:
    cluster = Cluster("lab", Known())
    told(cluster, job("a", "RUNNING"))
    assert told(cluster) == []
    assert told(cluster, job("a", "RUNNING")) == []
    assert told(cluster) == []
    assert told(cluster) == ["a lost"]


def test_a_lost_job_that_is_found_again_is_told_of_its_end() -> None:
    cluster = Cluster("lab", Known())
    told(cluster, job("a", "RUNNING"))
    told(cluster)
    assert told(cluster) == ["a lost"]
    assert told(cluster, job("a", "SUCCEEDED"))[-1] == "a succeeded"
    assert told(cluster, job("a", "SUCCEEDED")) == []


def test_a_head_whose_clock_is_wrong_has_each_end_told_once() -> None:
    for skew in (-600 * MINUTE, 600 * MINUTE):
        cluster = Cluster("lab", Known())
        early = job("early", "SUCCEEDED", now() + skew)
        assert told(cluster, early) == ["early submitted", "early succeeded"]
        late = job("late", "FAILED", now() + skew + 30 * MINUTE)
        for _ in range(3):
            found = told(cluster, early, late)
            cluster.known.recent.clear()
            assert found in (["late submitted", "late failed"], [])
        assert told(cluster, early, late) == []


def test_a_list_of_unfinished_jobs_alone_loses_nothing() -> None:
    cluster = Cluster("lab", Known())
    told(cluster, job("a", "RUNNING"))
    for _ in range(5):
        assert told(cluster, partial=True) == []


@given(st.data())
def test_however_lists_are_seen_every_run_is_told_once_and_in_order(data: st.DataObject) -> None:
    """Jobs go through their states while looks, restarts and gaps fall anywhere."""
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
    cluster = Cluster("lab", Known())
    seen: dict[tuple[str, str], int] = {}
    order: dict[str, list[str]] = {name: [] for name in names}

    def look() -> None:
        jobs = [
            job(name, paths[name][at[name]], T0 + ord(name) * MINUTE)
            for name in data.draw(st.permutations(names))
            if at[name] >= 0
        ]
        for signal in cluster.told(cluster.jobs.transitions(jobs)):
            if isinstance(signal, Event):
                seen[(signal.source, signal.id)] = seen.get((signal.source, signal.id), 0) + 1
                order[signal.subject].append(signal.type.rpartition(".")[2])

    for _ in range(data.draw(st.integers(3, 12))):
        what = data.draw(st.sampled_from(("step", "look", "restart")))
        if what == "step":
            name = data.draw(st.sampled_from(names))
            at[name] = min(at[name] + 1, len(paths[name]) - 1)
        elif what == "look":
            look()
        else:
            cluster = restarted(cluster)
    for name in names:
        at[name] = len(paths[name]) - 1
    look()
    assert set(seen.values()) == {1}
    for name in names:
        assert order[name][0] == "submitted"
        last = paths[name][-1].lower()
        assert order[name][-1] == last
        assert len(set(order[name])) == len(order[name])


def nodes(*alive: str, dead: str = "", reason: str = "") -> list[Node]:
    found = [Node(id=it * 12, name=it, head=it == "h", total={"CPU": 4.0}) for it in alive]
    if dead:
        found.append(Node(id=dead * 12, name=dead, alive=False, reason=reason))
    return found


def types(signals: Any) -> list[str]:
    return [it.type for it in signals if isinstance(it, Event)]


@pytest.mark.parametrize(
    ("reason", "what", "severity"),
    [
        ("Unexpected termination: health check failed", "ray.node.lost", Severity.ERROR),
        ("Expected termination: received SIGTERM", "ray.node.left", Severity.INFO),
        ("Terminated due to idle (no Ray activity)", "ray.node.left", Severity.INFO),
        ("Terminated due to preemption", "ray.node.lost", Severity.ERROR),
    ],
)
def test_a_node_that_dies_is_lost_and_one_that_is_sent_away_has_left(
    reason: str, what: str, severity: Severity
) -> None:
    cluster = Cluster("lab", Known())
    assert types(cluster.shaped(nodes("h", "w"))) == []
    found = [it for it in cluster.shaped(nodes("h", dead="w", reason=reason))
             if isinstance(it, Event)]  # fmt: skip
    assert [(it.type, it.severity) for it in found] == [(what, severity)]
    assert found[0].data["host"] == "w"
    assert types(cluster.shaped(nodes("h", dead="w", reason=reason))) == []


def test_nodes_that_were_dead_before_we_looked_are_no_news() -> None:
    cluster = Cluster("lab", Known())
    signals = cluster.shaped(nodes("h", dead="w", reason="x"))
    assert types(signals) == []
    assert not any(getattr(it, "name", "") == "w" * 12 for it in signals)
    assert types(cluster.shaped(nodes("h", "v", dead="w"))) == ["ray.node.joined"]


def test_an_object_store_that_begins_to_spill_is_told_once() -> None:
    cluster = Cluster("lab", Known())

    def spilled(amount: float) -> list[str]:
        return types(cluster.shaped([Node(id="n" * 12, name="n", spilled=amount)]))

    assert [spilled(it) for it in (5.0, 5.0, 9.0, 12.0, 12.0)] == [
        [], [], ["ray.node.spilling"], [], [],
    ]  # fmt: skip


def test_a_serve_application_that_becomes_unhealthy_is_told() -> None:
    cluster = Cluster("lab", Known())
    cluster.served([Application(name="chat", status="RUNNING")])
    found = cluster.served([Application(name="chat", status="UNHEALTHY", message="no replica")])
    assert types(found) == ["ray.application.unhealthy"]


def test_a_cluster_is_down_after_two_failures_and_its_return_is_told() -> None:
    cluster = Cluster("lab", Known())
    assert types(cluster.answered()) == []
    assert types(cluster.failed("no answer")) == []
    assert cluster.status == "stale"
    assert types(cluster.failed("no answer")) == ["ray.cluster.down"]
    assert types(cluster.failed("no answer")) == []
    assert cluster.status == "down"
    again = restarted(cluster)
    assert types(again.answered()) == ["ray.cluster.up"]
    assert again.status == "up"


def test_a_running_job_is_shown_with_what_its_entrypoint_usually_takes() -> None:
    cluster = Cluster("lab", Known())
    done = [
        job(f"r{it}", "SUCCEEDED", T0 + it * MINUTE, T0 + (it + 2) * MINUTE, entrypoint="train")
        for it in range(3)
    ]
    told(cluster, *done)
    running = job("now", "RUNNING", T0 + 10 * MINUTE, entrypoint="train")
    told(cluster, *done, running)
    assert cluster.record(running)["usual"] == 120.0
