"""What an alert is about, by which scopes decide who sees it."""

import msgspec
import pytest

from almenara.scope import Grant, build_scope
from almenara.signals import Event, Resource
from support.alerting import START, AlertRun, failure, pod, sample

TEAM_A = build_scope([Grant(namespaces=("team-a",))], access_log=False)
COUNTED = "rules: [{name: any, group_by: [], when: {events: {types: [app.failed], count: 4}}}]"


def alert_of(run: AlertRun) -> Resource:
    (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    return alert


def failed(namespace: str, origin: str = "nats/A", labels: str = "", **fields: str) -> Event:
    attributes = {"namespace": namespace, "labels": labels}
    return failure(origin=origin, attributes=attributes, **fields)


def test_alert_belongs_to_the_namespaces_of_all_events_that_it_counts() -> None:
    run = AlertRun(COUNTED)
    run.feed_now(*map(failed, ("team-a", "team-b", "team-b", "team-a")))
    alert, event = alert_of(run), run.alert_events[-1]
    assert (alert.state["value"], alert.state["namespace"]) == (4.0, "*")
    assert event.attributes == {"namespace": "*"}
    assert [TEAM_A.permits(each) for each in (alert, event)] == [False, False]


def test_alert_has_the_origin_and_the_labels_that_all_counted_events_have() -> None:
    run = AlertRun(COUNTED)
    run.feed_now(
        failed("x", labels="team=a,app=b"), failed("x", "nats/B", "team=a,app=c"),
        failed("x", labels="team=a,app=b"), failed("x", labels="team=a,app=b"),
    )  # fmt: skip
    alert = alert_of(run)
    assert (alert.origin, alert.state["own_labels"]) == ("nats", {"team": "a"})
    assert alert.state["labels"] == {"team": "a"}


def test_event_that_only_ends_an_alert_does_not_hide_it() -> None:
    run = AlertRun(COUNTED.replace("count: 4", "count: 2, until: [app.done]"))
    run.feed_now(failed("team-a"), failed("team-a"), failed("team-b", kind="app.done"))
    assert run.statuses == ["firing", "resolved"]
    assert TEAM_A.permits(alert_of(run))


def test_late_event_outside_the_window_does_not_hide_an_alert() -> None:
    run = AlertRun(COUNTED.replace("count: 4", "count: 2, within: 60"))
    run.advance(120)
    run.feed_now(failed("team-a"), failed("team-a"))
    run.feed(msgspec.structs.replace(failed("team-b"), time=START))
    assert (run.statuses, alert_of(run).state["namespace"]) == (["firing"], "team-a")


def test_event_after_those_of_others_have_left_the_window_is_visible() -> None:
    run = AlertRun(COUNTED.replace("count: 4", "count: 2, within: 60"))
    run.feed_now(failed("team-b"))
    run.advance(61)
    run.feed_now(failed("team-a"), failed("team-a"))
    assert (run.statuses, alert_of(run).state["namespace"]) == (["firing"], "team-a")


@pytest.mark.parametrize("aggregation", ["avg", "sum", "max"])
def test_alert_about_samples_of_several_namespaces_is_hidden_from_viewers_of_one(
    aggregation: str,
) -> None:
    run = AlertRun(
        "rules: [{name: hot, group_by: [], when: {sample:"
        f" {{metric: cpu, aggregation: {aggregation}, above: 4}}}}}}]"
    )
    for value, namespace in ((3, "team-a"), (1, "team-b"), (20, "team-a")):
        run.feed_now(sample(value, namespace=namespace, origin="k"))
    alert = alert_of(run)
    assert (alert.status, alert.state["namespace"]) == ("firing", "*")
    assert not TEAM_A.permits(alert)


def test_alert_about_absence_belongs_to_the_namespaces_of_all_expected_events() -> None:
    run = AlertRun("rules: [{name: quiet, when: {absent: {types: [app.failed], within: 60}}}]")
    run.feed_now(failed("team-a"))
    run.advance(30)
    run.feed_now(failed("team-b"))
    run.advance(61)
    alert = alert_of(run)
    assert (alert.status, alert.state["value"]) == ("firing", 60.0)
    assert not TEAM_A.permits(alert)


def test_alert_keeps_its_labels_when_its_resource_recovers_or_is_deleted() -> None:
    labels = {"labels": {"app": "db"}}
    for end in (pod("db"), pod("db", deleted=True)):
        run = AlertRun("rules: [{name: broken, when: {resource: {kind: pod, status: [Crash*]}}}]")
        run.feed_now(pod("db", "CrashLoop", state=labels), end)
        assert run.statuses == ["firing", "resolved"]
        assert alert_of(run).state["own_labels"] == {"app": "db"}


def test_event_that_ends_an_alert_is_not_its_cause() -> None:
    run = AlertRun(COUNTED.replace("count: 4", "count: 2, until: [app.done]"))
    run.feed_now(failed("x"), failed("x"))
    cause = alert_of(run).state["cause"]
    run.feed_now(failed("x", kind="app.done"))
    assert (run.statuses, alert_of(run).state["cause"]) == (["firing", "resolved"], cause)
