"""Alerts about several resources, each of which is a series of its own."""

import json
from typing import Any

import msgspec
import pytest

from almenara.scope import Grant, build_scope
from almenara.sdk import mark_unknown
from almenara.signals import Resource
from support.alerting import START, AlertRun, pod, sample
from support.paths import FIXTURES

BROKEN = (
    "rules: [{name: broken, group_by: [namespace], when: {resource: {kind: pod, status: [C*]}}}]"
)


def run_of(condition: str, group_by: str = "kind") -> AlertRun:
    return AlertRun(
        f"rules: [{{name: hot, group_by: [{group_by}],"
        f" when: {{sample: {{metric: cpu, {condition}}}}}}}]"
    )


def alert_of(run: AlertRun, rule: str = "") -> Resource:
    (alert,) = [
        each
        for each in run.resources.values()
        if each.kind == "almenara.alert" and rule in ("", each.namespace)
    ]
    return alert


def value_of(run: AlertRun) -> Any:
    """The value of the only alert, as stored."""
    (stored,) = [text for key, text in run._stored.items() if key.startswith("value:alert/")]
    return json.loads(stored)["value"]


def deleted(resource: Resource) -> Resource:
    return msgspec.structs.replace(resource, deleted=True, status="", state={})


def node(name: str) -> Resource:
    return Resource(kind="node", name=name, origin="source", time=START)


def test_rates_of_constant_counters_are_zero() -> None:
    run = run_of("aggregation: rate, above: 0.1")
    for _ in range(10):
        run.feed_now(sample(1000, "a"), sample(10, "b"))
        run.advance(15)
    assert (run.statuses, value_of(run)) == ([], 0.0)


def test_rate_of_an_alert_is_the_sum_of_the_rates_of_its_series() -> None:
    run = run_of("aggregation: rate, above: 4.9")
    for step in range(4):
        # The counter of `b` restarts from zero before the last step.
        run.feed_now(sample(1000 + 20 * step, "a"), sample(30 if step == 3 else 30 * step, "b"))
        run.advance(10)
    assert (run.statuses, value_of(run)) == (["firing"], 5.0)


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [("avg", 4.0), ("sum", 12.0), ("min", 1.0), ("max", 6.0), ("last", 6.0)],
)
def test_aggregations_of_an_alert_over_several_series(aggregation: str, value: float) -> None:
    run = run_of(f"aggregation: {aggregation}, above: 0.5")
    for number, name in ((1, "a"), (2, "a"), (3, "a"), (6, "b")):
        run.feed_now(sample(number, name))
        run.advance(1)
    assert value_of(run) == value


def test_last_sample_of_another_series_resolves_nothing() -> None:
    run = run_of("above: 0.8")
    run.feed_now(sample(0.9, "a"), sample(0.1, "b"), sample(0.95, "c"))
    run.feed_now(sample(0.1, "c"))
    assert (run.statuses, value_of(run)) == (["firing"], 0.9)
    run.restart()
    run.feed_now(sample(0.2, "b"), sample(0.5, "a"))
    assert run.statuses == ["firing", "resolved"]
    # What happens to others since is no part of it.
    run.advance(60)
    run.feed_now(sample(0.7, "b"))
    assert value_of(run) == 0.5


def test_last_sample_that_is_lowest_is_compared_with_a_lower_limit() -> None:
    run = run_of("below: 10")
    run.feed_now(sample(5, "a"), sample(3, "b"), sample(8, "c"), sample(50, "c"))
    assert (run.statuses, value_of(run)) == (["firing"], 3.0)


def test_viewer_of_one_namespace_keeps_seeing_its_alert_beside_others_that_are_fine() -> None:
    team_a = build_scope([Grant(namespaces=("team-a",))], access_log=False)
    run = run_of("above: 0.8", "metric")
    run.feed_now(sample(0.9, namespace="team-a"), sample(0.1, namespace="team-b"))
    assert team_a.permits(alert_of(run))
    run.feed_now(sample(0.9, namespace="team-b"))
    run.advance(31)
    run.feed_now(sample(0.95, namespace="team-b"))
    assert not team_a.permits(alert_of(run))


def test_series_that_is_missing_makes_its_alert_unknown() -> None:
    run = run_of("above: 0.8, no_data: 60")
    run.feed_now(sample(0.9, "a"), sample(0.1, "b"))
    for _ in range(3):
        run.advance(30)
        run.feed_now(sample(0.1, "b"))
    assert run.statuses == ["firing", "unknown"]
    run.restart()
    run.advance(30)
    run.feed_now(sample(0.9, "b"))
    assert run.alerts == {"hot b": "firing"}
    run.feed_now(sample(0.1, "b"))
    assert run.alerts == {"hot b": "unknown"}
    run.feed_now(sample(0.1, "a"))
    assert run.alerts == {"hot b": "resolved"}


def test_average_without_a_missing_series_resolves_nothing_and_raises_nothing() -> None:
    run = run_of("aggregation: avg, above: 5, no_data: 60")
    run.feed_now(sample(9, "a"), sample(2, "b"))
    for _ in range(3):
        run.advance(30)
        run.feed_now(sample(2, "b"))
    assert run.statuses == ["firing", "unknown"]
    run.feed_now(sample(1, "b"), sample(1, "b"), sample(1, "b"), sample(1, "b"), sample(1, "b"))
    assert run.statuses == ["firing", "unknown"]
    run.feed_now(deleted(node("a")))
    assert run.statuses == ["firing", "unknown", "resolved"]


def test_rate_is_unknown_until_there_are_two_samples_again() -> None:
    run = AlertRun(
        "rules: [{name: hot, when: {sample:"
        " {metric: cpu, aggregation: rate, within: 60, no_data: 90, above: 1}}}]"
    )
    run.feed_now(sample(0))
    run.advance(10)
    run.feed_now(sample(100))
    run.advance(91)
    assert run.statuses == ["firing", "unknown"]
    run.feed_now(sample(100))
    assert run.statuses == ["firing", "unknown"]
    run.advance(10)
    run.feed_now(sample(100))
    assert run.statuses == ["firing", "unknown", "resolved"]


def test_alert_ends_when_the_series_that_fired_is_deleted() -> None:
    run = run_of("above: 0.8")
    run.feed_now(sample(0.9, "a"), sample(0.1, "b"), deleted(node("a")))
    assert run.statuses == ["firing", "resolved"]


def test_alert_with_too_many_series_is_reported() -> None:
    run = run_of("aggregation: avg, above: 5")
    for number in range(1_001):
        run.feed_now(sample(1, f"n{number}"))
    assert run.resources["hot"].status == "failing"
    assert "more than 1,000 series" in run.resources["hot"].state["error"]


def test_resource_that_is_fine_resolves_no_alert_of_another() -> None:
    run = AlertRun(BROKEN)
    run.feed_now(pod("a", "CrashLoop"), pod("b"), pod("c", "CrashLoop"), pod("a"))
    assert run.statuses == ["firing"]
    run.restart()
    run.feed_now(pod("b"), pod("c"))
    assert run.statuses == ["firing", "resolved"]


def test_alert_about_several_resources_ends_with_the_last_that_is_deleted() -> None:
    run = AlertRun(BROKEN)
    run.feed_now(pod("a", "CrashLoop"), pod("b", "CrashLoop"), pod("c"))
    run.feed_now(deleted(pod("b")))
    assert run.statuses == ["firing"]
    run.feed_now(deleted(pod("a")))
    assert run.statuses == ["firing", "resolved"]


def test_alert_is_unknown_once_none_of_its_resources_is_observed() -> None:
    run = AlertRun(BROKEN)
    broken = [pod(name, "CrashLoop") for name in ("a", "b")]
    unread = [mark_unknown(each, "no answer", START) for each in (*broken, pod("c"))]
    run.feed_now(*broken, unread[0], unread[2])
    assert run.statuses == ["firing"]
    run.feed_now(unread[1])
    assert run.statuses == ["firing", "unknown"]
    run.feed_now(pod("a"))
    assert run.statuses == ["firing", "unknown"]
    run.feed_now(pod("b"))
    assert run.statuses == ["firing", "unknown", "resolved"]


def test_resource_that_changes_its_group_leaves_the_alert_of_the_former() -> None:
    run = AlertRun(BROKEN.replace("namespace]", "state.reason]"))

    def crash(reason: str) -> Resource:
        return pod("a", "CrashLoop", state={"reason": reason})

    run.feed_now(crash("memory"), crash("exit"))
    alerts = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    assert {each.state["labels"]["reason"]: each.status for each in alerts} == {
        "memory": "resolved", "exit": "firing",
    }  # fmt: skip
    # A state that is not observed moves nothing.
    run.feed_now(mark_unknown(pod("a"), "no answer", START))
    assert run.statuses == ["firing", "resolved", "firing"]


OLD_RULES = """
rules:
- {name: broken, group_by: [namespace], when: {resource: {kind: pod, status: [Crash*]}}}
- {name: hot, group_by: [kind], when: {sample: {metric: cpu, above: 0.8}}}
- {name: one, when: {sample: {metric: cpu, aggregation: rate, above: 0.8}}}
- {name: rate, group_by: [kind], when: {sample: {metric: cpu, aggregation: rate, above: 0.8}}}
- {name: mean, group_by: [kind], when: {sample: {metric: cpu, aggregation: avg, above: 5}}}
"""


def restored() -> AlertRun:
    """A run that continues with what a version without series has stored: pod `a` was broken, the
    counter of node `a` rose from 10 to 40, one each second, and `b` had 5."""
    run = AlertRun(OLD_RULES)
    text = (FIXTURES / "alert_state_before_series.json").read_text("utf-8")
    run._stored = {key: value.encode() for key, value in json.loads(text).items()}
    run.restart()
    run.bus.signals.clear()
    run.advance(40)
    return run


def statuses_of(run: AlertRun, rule: str) -> list[str]:
    events = [event for event in run.alert_events if event.subject.startswith(f"{rule}/")]
    return [event.type.rpartition(".")[2] for event in events]


def test_stored_alert_about_resources_of_an_earlier_version_continues() -> None:
    run = restored()
    run.feed_now(pod("b"))
    assert statuses_of(run, "broken") == []
    run.feed_now(pod("a"))
    assert statuses_of(run, "broken") == ["resolved"]


def test_stored_alerts_about_samples_of_an_earlier_version_continue() -> None:
    run = restored()
    run.feed_now(sample(0.1, "b"), sample(50, "a"))
    # The samples of two counters were stored together, and are not compared any more.
    assert {rule: statuses_of(run, rule) for rule in ("hot", "one", "rate", "mean")} == {
        "hot": [], "one": [], "rate": ["unknown"], "mean": [],
    }  # fmt: skip
    run.advance(10)
    run.feed_now(sample(60, "a"), sample(0.1, "b"))
    assert statuses_of(run, "rate") == ["unknown", "firing"]
    run.feed_now(sample(0.1, "a"))
    assert statuses_of(run, "hot") == ["resolved"]
    assert run.failures == []
