"""Matchers of one alert: a silence of it covers it, and no other of its rule."""

from typing import Any

import pytest

from almenara.alerting.commands import make_silence, parse_plain_matcher
from almenara.alerting.defaults import CORE, CORE_RULES
from almenara.alerting.matchers import match_alert, match_all
from almenara.alerting.rules import compile_rules
from almenara.signals import Event, Resource, Severity, Signal
from support.alerting import START, AlertRun, Evaluation, failure, pod, read_alerting

HOUR = 3_600_000_000
RULE = "rules: [{{name: broken, {}when: {{{}}}}}]"
PODS = "resource: {kind: pod, status: [Crash*]}"
FAILED = "events: {types: [app.failed]}"


def alerts_of(run: Evaluation) -> list[Resource]:
    return [each for each in run.resources.values() if each.kind == "almenara.alert"]


def crash(name: str = "db", namespace: str = "", **labels: str) -> Resource:
    return Resource(
        kind="pod", namespace=namespace, name=name, status="CrashLoop", origin="kube", time=START,
        severity=Severity.ERROR, state={"labels": labels},
    )  # fmt: skip


CASES: dict[str, tuple[str, str, list[Signal]]] = {
    "resources": ("", PODS, [crash("a"), crash("b"), pod("a", "CrashLoop")]),
    "namespaces": (
        "group_by: [namespace], ", PODS, [crash("a", "x"), crash("a", "y"), crash("a")]),
    "labels": (
        "group_by: [label.team, label.1password.com/vault], ", PODS,
        [crash("a", team='"a" = b\nc\u2028'), crash("b", team="b"), crash("c"),
         crash("d", **{"1password.com/vault": "v"})]),
    "names that no matcher has": (
        "group_by: ['data.a name'], ", FAILED,
        [failure("s", data={"a name": "x"}, attributes={"labels": "team=a"}),
         failure("s", data={"a name": "y"}, attributes={"labels": "team=b"})]),
    "subjects": ("", FAILED, [failure("a"), failure("b")]),
    "correlations": ("", FAILED, [failure("a", correlation="x"), failure("a", correlation="y")]),
    "fields of events": (
        "group_by: [data.region], labels: {team: shop}, ", FAILED,
        [failure(data={"region": "eu"}), failure(data={"region": "us"}), failure()]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_silence_of_an_alert_covers_it_alone(case: str) -> None:
    grouping, condition, signals = CASES[case]
    run = AlertRun(RULE.format(grouping, condition))
    run.feed_now(*signals)
    assert len(alerts_of(run)) == len(signals)
    for alert in alerts_of(run):
        matchers = [parse_plain_matcher(str(matcher)) for matcher in match_alert(alert)]
        covered = [
            each.name for each in alerts_of(run)
            if match_all(matchers, {**each.state["labels"], "rule": each.namespace})
        ]  # fmt: skip
        assert covered == [alert.name]


def test_silence_of_an_alert_without_groups_is_that_of_its_rule() -> None:
    run = AlertRun(RULE.format("group_by: [], ", FAILED))
    run.feed_now(failure(attributes={"labels": "team=a"}))
    (alert,) = alerts_of(run)
    assert list(map(str, match_alert(alert))) == ['rule="broken"']


def test_silence_of_a_pushed_alert_covers_no_other_pushed_alert() -> None:
    run = Evaluation(compile_rules(read_alerting("{}"), {CORE: CORE_RULES}))

    def push(fingerprint: str) -> Event:
        return failure(
            "DiskFull", "alertmanager.alert.firing", origin="intake/alerts", correlation=fingerprint
        )

    run.feed_now(push("f1"), push("f2"))
    first, second = alerts_of(run)
    run.command(
        make_silence, list(map(str, match_alert(first))), "ada", "x", run.clock.now() + HOUR
    )
    statuses: dict[str, Any] = {each.name: each.status for each in alerts_of(run)}
    assert statuses == {first.name: "silenced", second.name: "firing"}


def test_silence_of_an_alert_covers_it_when_the_labels_of_what_it_is_about_change() -> None:
    run = AlertRun(RULE.format("group_by: [namespace], ", PODS))
    run.feed_now(crash("a", "x", app="db"))
    (alert,) = alerts_of(run)
    run.command(
        make_silence, list(map(str, match_alert(alert))), "ada", "x", run.clock.now() + HOUR
    )
    run.feed_now(crash("b", "x", app="web"))
    assert [each.status for each in alerts_of(run)] == ["silenced"]


def test_alert_that_an_earlier_version_has_published_is_matched_by_all_of_its_labels() -> None:
    state = {"labels": {"name": "db", "app": "x", "a name": "y"}}
    alert = Resource(kind="almenara.alert", namespace="broken", name="1", state=state)
    assert list(map(str, match_alert(alert))) == ['rule="broken"', 'app="x"', 'name="db"']
