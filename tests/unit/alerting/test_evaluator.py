"""Rules over a log: what fires when, and in which status."""

import msgspec

from almenara.scope import Grant, build_scope
from almenara.signals import Event, Resource, Severity
from support.alerting import START, AlertRun, failure, pod, sample, source

CRASHING = """
receivers: [{name: team, kind: webhook}]
rules:
- name: crashing
  when: {resource: {kind: pod, status: [CrashLoop*]}}
  for: 60
  severity: ERROR
  runbook: https://runbooks.example/crash
  notify: [team]
  annotations: {summary: "{{ namespace }}/{{ name }} is {{ status }}"}
"""
FAILED = """
rules:
- name: failed
  when: {events: {types: [app.failed], count: 3, within: 10}}
"""


def test_resource_is_pending_and_fires_after_its_duration() -> None:
    run = AlertRun(CRASHING)
    run.feed_now(pod("web"), pod("db", "CrashLoopBackOff"))
    assert run.alerts == {"crashing db": "pending"}
    run.advance(59)
    assert run.statuses == ["pending"]
    run.advance(2)
    assert run.statuses == ["pending", "firing"]
    event = run.alert_events[-1]
    assert event.time == START + 60_000_000
    assert event.data is not None
    (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    assert (alert.namespace, event.subject) == ("crashing", f"crashing/{alert.name}")
    assert alert.severity.name == "ERROR"
    assert alert.state["annotations"]["summary"] == "prod/db is CrashLoopBackOff"
    assert alert.state["resource"] == {"kind": "pod", "namespace": "prod", "name": "db"}
    assert alert.state["notify"] == ["team"]
    assert alert.state["since"] == START
    assert alert.origin == "kube"


def test_alert_has_the_severity_of_the_signal_that_starts_it() -> None:
    run = AlertRun(
        """
        rules:
        - name: pushed
          when: {events: {types: [am.firing], until: [am.resolved], within: 600}}
          severity: signal
          group_by: [subject]
        """
    )

    def push(kind: str, severity: Severity) -> None:
        run.feed_now(failure("disk", f"am.{kind}", severity=severity))

    for severity in (Severity.FATAL, Severity.INFO):
        push("firing", severity)
        # Receivers recognize an alert by its labels, so that it keeps them while it fires.
        push("firing", Severity.WARN)
        push("resolved", Severity.DEBUG)
    assert run.statuses == ["firing", "resolved"] * 2
    events = run.alert_events
    assert [event.data["severity"] for event in events] == ["FATAL", "FATAL", "INFO", "INFO"]  # type: ignore[index]
    assert [event.severity.name for event in events] == ["FATAL", "INFO", "INFO", "INFO"]


def test_pending_alert_that_recovers_never_fires() -> None:
    run = AlertRun(CRASHING)
    run.feed_now(pod("db", "CrashLoopBackOff"))
    run.advance(30)
    run.feed_now(pod("db"))
    run.advance(100)
    assert run.statuses == ["pending"]
    assert run.alerts == {}


def test_firing_alert_resolves_and_disappears_an_hour_later() -> None:
    run = AlertRun(CRASHING)
    run.feed_now(pod("db", "CrashLoopBackOff"))
    run.advance(61)
    run.feed_now(pod("db", deleted=True))
    assert run.statuses == ["pending", "firing", "resolved"]
    assert run.alerts == {"crashing db": "resolved"}
    run.advance(3601)
    assert run.alerts == {}
    assert not [key for key in run._stored if "alert/" in key]


def test_alert_keeps_firing_for_its_duration() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "keep_firing_for: 60"))
    run.feed_now(pod("db", "CrashLoopBackOff"))
    run.advance(10)
    run.feed_now(pod("db"))
    run.advance(30)
    run.feed_now(pod("db", "CrashLoopBackOff"))
    run.advance(10)
    run.feed_now(pod("db"))
    run.advance(59)
    assert run.statuses == ["firing"]
    run.advance(2)
    assert run.statuses == ["firing", "resolved"]


def test_events_fire_at_their_count_and_resolve_when_the_window_empties() -> None:
    run = AlertRun(FAILED)
    run.advance(1)
    run.feed_now(failure(), failure())
    run.advance(5)
    assert run.statuses == []
    run.feed_now(failure())
    assert run.statuses == ["firing"]
    run.advance(5.5)
    assert run.statuses == ["firing", "resolved"]
    assert run.alert_events[-1].time == START + 11_000_000
    run.feed_now(failure(), failure())
    assert run.statuses == ["firing", "resolved", "firing"]


def test_events_of_other_groups_are_counted_apart() -> None:
    run = AlertRun(FAILED)
    run.feed_now(failure("a"), failure("b"), failure("a"), failure("b"))
    assert run.statuses == []
    run.feed_now(failure("a"))
    assert run.alerts == {"failed a": "firing"}


def test_event_of_the_end_resolves_at_once() -> None:
    run = AlertRun(FAILED.replace("count: 3,", "until: [app.succeeded],"))
    run.feed_now(failure())
    ended = Event(id="ended", source="app", type="app.succeeded", subject="a", time=START)
    run.advance(2)
    run.feed_now(ended)
    assert run.statuses == ["firing", "resolved"]


def test_sample_threshold_over_an_average() -> None:
    run = AlertRun(
        "rules: [{name: hot, when: {sample: "
        "{metric: cpu, aggregation: avg, within: 30, above: 0.8}}}]"
    )
    for value in (0.1, 0.9, 0.95):
        run.feed_now(sample(value))
        run.advance(10)
    assert run.statuses == []
    run.feed_now(sample(0.99))
    assert run.statuses == ["firing"]
    (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    assert "is 0.9467, above 0.8" in alert.state["annotations"]["summary"]
    run.advance(601)
    assert run.statuses == ["firing", "unknown"]
    run.feed_now(sample(0.1))
    assert run.statuses == ["firing", "unknown", "resolved"]


def test_absence_fires_after_its_time_and_resolves_with_an_event() -> None:
    run = AlertRun("rules: [{name: quiet, when: {absent: {types: [app.*], within: 60}}}]")
    run.advance(30)
    run.feed_now(failure())
    run.advance(59)
    assert run.statuses == []
    run.advance(2)
    assert run.statuses == ["firing"]
    run.feed_now(failure())
    assert run.statuses == ["firing", "resolved"]


def test_absence_of_a_type_that_never_came_fires() -> None:
    run = AlertRun("rules: [{name: quiet, when: {absent: {types: [app.*], within: 60}}}]")
    run.advance(61)
    assert run.statuses == ["firing"]
    assert run.alert_events[0].severity.name == "WARN"


def test_blind_source_makes_alerts_unknown_and_not_resolved() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "for: 0"))
    run.feed_now(pod("db", "CrashLoopBackOff"), pod("api", "CrashLoop", origin="other"))
    run.feed_now(source("kube", "degraded"))
    run.advance(20)
    run.feed_now(source("kube", "backing_off"))
    run.advance(11)
    assert run.alerts == {"crashing db": "unknown", "crashing api": "firing"}
    run.feed_now(source("kube", "running"))
    assert run.alerts == {"crashing db": "firing", "crashing api": "firing"}


def test_source_that_another_sender_reports_makes_nothing_unknown() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "for: 0"))
    forged = msgspec.structs.replace(source("kube", "degraded"), origin="intake/x")
    run.feed_now(pod("db", "CrashLoopBackOff"), forged)
    run.advance(60)
    assert run.statuses == ["firing"]


def test_short_failure_of_a_source_changes_nothing() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "for: 0"))
    run.feed_now(pod("db", "CrashLoopBackOff"), source("kube", "degraded"))
    run.advance(20)
    run.feed_now(source("kube", "running"))
    run.advance(60)
    assert run.statuses == ["firing"]


def test_flapping_alert_is_named_and_settles() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "for: 0"))
    for _ in range(6):
        run.feed_now(pod("db", "CrashLoopBackOff"))
        run.advance(20)
        run.feed_now(pod("db"))
        run.advance(20)
    assert run.statuses == ["firing", "resolved"] * 3 + ["flapping"]
    run.advance(600)
    assert run.statuses[-1] == "resolved"
    assert len(run.statuses) == 8


def test_failing_rule_is_reported_and_stops_no_other() -> None:
    run = AlertRun(
        """
rules:
- {name: other, when: {resource: {kind: pod, status: [CrashLoop*]}}}
- name: wrong
  when: {resource: {kind: pod, status: [CrashLoop*]}}
  annotations: {summary: "{{ 'x' if state.restarts > 3 else 'y' }}"}
- {name: rule-failing, when: {resource: {kind: almenara.alert_rule, status: [failing]}}}
"""
    )
    run.feed_now(pod("db", "CrashLoopBackOff"))
    assert run.alerts == {"other db": "firing", "rule-failing wrong": "firing"}
    assert run.resources["wrong"].status == "failing"
    assert run.resources["wrong"].state["error"].startswith("'restarts' is undefined")
    run.feed_now(pod("db", "CrashLoopBackOff", state={"restarts": 5}))
    assert run.alerts["rule-failing wrong"] == "resolved"
    assert run.alerts["wrong db"] == "firing"


def test_alerts_beyond_the_limit_of_a_rule_are_left_out_and_reported() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "for: 0") + "\nmax_alerts_per_rule: 2")
    run.feed_now(*(pod(f"p{number}", "CrashLoopBackOff") for number in range(4)))
    assert len(run.alerts) == 2
    assert run.resources["crashing"].status == "failing"


def test_group_by_fields_makes_one_alert_for_several_signals() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "group_by: [namespace]"))
    run.feed_now(pod("a", "CrashLoopBackOff"), pod("b", "CrashLoopBackOff", origin="kube2"))
    assert run.statuses == ["firing"]
    (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    assert alert.state["labels"] == {"namespace": "prod"}


def test_alert_over_several_origins_belongs_to_none_of_them() -> None:
    run = AlertRun("rules: [{name: any, group_by: [], when: {events: {types: [app.failed]}}}]")
    run.feed_now(failure(origin="nats/A", attributes={"namespace": "x", "labels": "team=a,app=b"}))
    assert run.alert_events[-1].origin == "nats/A"
    run.feed_now(failure(origin="nats/B", attributes={"namespace": "y", "labels": "team=a,app=c"}))
    run.advance(301)
    event = run.alert_events[-1]
    assert (event.type, event.origin) == ("almenara.alert.resolved", "nats")
    assert event.attributes == {"namespace": "*", "labels": "team=a"}
    run.feed_now(failure(origin="other"))
    assert run.alert_events[-1].origin == "almenara.alerting"


def test_value_of_a_label_cannot_pose_as_another_label() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "for: 0"))
    labels = {"note": "x,team=shop", "a=b,team": "shop", "app": "db"}
    run.feed_now(pod("db", "CrashLoopBackOff", state={"labels": labels}))
    shop = build_scope([Grant(labels=(("team", "shop"),))], access_log=False)
    (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    event = run.alert_events[-1]
    assert event.attributes["labels"] == "app=db"
    assert [shop.permits(each) for each in (alert, event)] == [False, False]


def test_alert_over_what_is_hidden_is_hidden() -> None:
    payments = build_scope(
        [Grant()], access_log=False, guarded=["kube/eu"], namespaces=["", "payments"]
    )
    secret = {"namespace": "secret"}
    for origin, namespace in (
        ("nats", ""), ("kube/us", ""), ("kube/eu", "payments"), ("kube/eu/x", ""),
    ):  # fmt: skip
        run = AlertRun("rules: [{name: any, group_by: [], when: {events: {types: [app.failed]}}}]")
        run.feed_now(failure(origin=origin, attributes={"namespace": namespace}))
        visible = run.alert_events[-1]
        run.feed_now(failure(origin="kube/eu", attributes=secret))
        run.advance(400)
        (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
        assert payments.permits(visible)
        assert [payments.permits(each) for each in (alert, run.alert_events[-1])] == [False, False]
        everywhere = build_scope([Grant(namespaces=("*",))], access_log=False)
        assert everywhere.permits(alert)


def test_labels_of_the_system_cannot_replace_those_of_the_rule() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "labels: {team: ops}"))
    labels = {"team": "evil", "rule": "x", "severity": "DEBUG", "app": "db"}
    run.feed_now(pod("db", "CrashLoopBackOff", state={"labels": labels}))
    (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    assert alert.state["labels"] == {
        "team": "ops", "app": "db", "kind": "pod", "namespace": "prod", "name": "db",
        "origin": "kube",
    }  # fmt: skip


def test_command_of_a_monitored_system_is_ignored() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "for: 0"))
    run.feed_now(pod("db", "CrashLoopBackOff"))
    forged = Event(
        id="x", source="almenara.alerting", type="almenara.alerting.acknowledge", time=START,
        data={"alert": run.key("crashing"), "by": "x"}, origin="nats/X",
    )  # fmt: skip
    run.feed_now(forged)
    assert run.statuses == ["firing"]


def test_event_of_the_end_leaves_nothing_of_a_group_that_never_began() -> None:
    run = AlertRun(FAILED.replace("count: 3,", "count: 3, until: [app.succeeded],"))
    for name in ("a", "b", "c"):
        run.feed_now(Event(id=name, source="app", type="app.succeeded", subject=name, time=START))
    run.feed_now(failure("d"))
    run.feed_now(Event(id="d", source="app", type="app.succeeded", subject="d", time=START))
    assert not [key for key in run._stored if "alert/" in key]
    run.feed_now(failure("d"), failure("d"))
    assert run.statuses == []
    run.feed_now(failure("d"))
    assert run.statuses == ["firing"]


def test_absence_calculates_with_its_value_where_events_arrive_and_where_none_does() -> None:
    run = AlertRun(
        "rules: [{name: quiet, when: {absent: {types: [app.*], within: 60}},"
        " annotations: {summary: '{{ value // 60 }} min'}}]"
    )
    for _ in range(4):
        run.advance(40)
        run.feed_now(failure())
    assert (run.statuses, run.health["quiet"].error) == ([], "")
    run.advance(61)
    assert run.statuses == ["firing"]
    assert run.alert_events[-1].data["annotations"] == {"summary": "1.0 min"}


def test_absence_whose_template_fails_fires_and_its_rule_is_reported() -> None:
    run = AlertRun(
        "rules: [{name: quiet, when: {absent: {types: [app.*], within: 60}},"
        """ annotations: {summary: "{{ value > 'a' }}"}}]"""
    )
    run.advance(61)
    assert (run.statuses, run.failures) == (["firing"], [])
    assert run.alert_events[-1].data["annotations"] == {"summary": "no app.* for 60 s"}
    assert "not supported" in run.health["quiet"].error


def test_alert_about_samples_ends_with_its_resource() -> None:
    hot = "rules: [{name: hot, when: {sample: {metric: cpu, above: 0.8}}}]"
    node = Resource(kind="node", name="a", origin="source", time=START)
    deleted = msgspec.structs.replace(node, deleted=True)
    run = AlertRun(hot)
    run.feed_now(node, sample(0.9), sample(0.9, "b"))
    run.advance(60)
    run.feed_now(deleted)
    assert run.alerts == {"hot a": "resolved", "hot b": "firing"}
    run.advance(4000)
    assert run.alerts == {"hot b": "unknown"}

    run = AlertRun(hot.replace("}}}]", "}}, for: 60}]"))
    run.feed_now(node, sample(0.9))
    run.feed_now(deleted)
    run.advance(100)
    assert run.statuses == ["pending"]
    assert not [key for key in run._stored if "alert/" in key]


def test_alerts_of_a_source_that_is_removed_end() -> None:
    run = AlertRun(
        CRASHING.replace("for: 60", "for: 0")
        + "- {name: quiet, when: {absent: {types: [app.*], within: 60}}}"
    )
    removed = msgspec.structs.replace(source("kube", "stopped"), deleted=True)
    run.feed_now(*(source(name, "running") for name in ("kube", "kube/us", "other")))
    run.feed_now(
        pod("db", "CrashLoop", origin="kube/eu"), pod("us", "CrashLoop", origin="kube/us/a"),
        pod("api", "CrashLoop", origin="other"), failure(origin="kube"),
    )  # fmt: skip
    run.feed_now(removed)
    run.advance(30)
    # Its plugin was reloaded.
    run.feed_now(source("kube", "running"))
    run.advance(61)
    assert run.alerts == {
        "crashing db": "firing", "crashing us": "firing", "crashing api": "firing",
        "quiet": "firing",
    }  # fmt: skip
    run.feed_now(removed)
    run.advance(59)
    run.restart()
    run.advance(2)
    assert run.alerts == {
        "crashing db": "resolved", "crashing us": "firing", "crashing api": "firing",
        "quiet": "firing",
    }  # fmt: skip


def test_deleted_resource_of_another_origin_or_group_ends_no_alert() -> None:
    run = AlertRun(
        "rules: [{name: hot, when: {sample: {metric: cpu, above: 0.8}}},"
        " {name: any, when: {sample: {metric: cpu, above: 0.8}}, group_by: []}]"
    )
    run.feed_now(sample(0.9), sample(0.9, "b"))
    run.feed_now(Resource(kind="node", name="a", origin="other", time=START, deleted=True))
    assert run.alerts == {"hot a": "firing", "hot b": "firing", "any a": "firing"}
    run.feed_now(deleted_node("a"))
    assert run.alerts == {"hot a": "resolved", "hot b": "firing", "any a": "firing"}


def deleted_node(name: str) -> Resource:
    return Resource(kind="node", name=name, origin="source", time=START, deleted=True)


def test_grouped_alert_about_samples_ends_with_its_last_resource() -> None:
    run = AlertRun(
        "rules: [{name: any, group_by: [kind],"
        " when: {sample: {metric: cpu, above: 0.8, no_data: 60}}}]"
    )
    run.feed_now(sample(0.9, "b"), sample(0.95), sample(0.9, "c"))
    run.advance(61)
    assert run.alerts == {"any c": "unknown"}
    run.feed_now(deleted_node("c"), deleted_node("a"))
    assert run.alerts == {"any c": "unknown"}
    run.restart()
    run.feed_now(deleted_node("b"))
    assert run.alerts == {"any c": "resolved"}
    run.advance(4000)
    assert not [key for key in run._stored if "alert/" in key or "member/" in key]


def test_grouped_alert_ends_with_its_resource_whose_deletion_has_no_labels() -> None:
    run = AlertRun(CRASHING.replace("for: 60", "group_by: [label.team]"))
    labels = {"labels": {"team": "a"}}
    run.feed_now(pod("web", state=labels), pod("db", "CrashLoop", state=labels))
    run.feed_now(pod("web", deleted=True))
    assert run.alerts == {"crashing db": "firing"}
    run.restart()
    run.feed_now(pod("db", deleted=True))
    assert run.alerts == {"crashing db": "resolved"}


def test_alerts_of_alerts_are_not_evaluated() -> None:
    run = AlertRun("rules: [{name: all, when: {events: {types: ['>']}}}]")
    run.feed_now(failure())
    run.feed(*[each for each in run.bus.signals if isinstance(each, Event)])
    run.feed(Resource(kind="almenara.alert", name="x", status="firing", time=START))
    assert len(run.statuses) == 1


def test_missing_samples_stay_unknown_when_their_source_runs_again() -> None:
    run = AlertRun(
        "rules: [{name: hot, when: {sample: {metric: cpu, above: 0.9, no_data: 60, source: kube}}}]"
    )
    run.feed_now(sample(1.0, origin="kube"))
    run.advance(61)
    run.feed_now(source("kube", "degraded"))
    run.feed_now(source("kube", "running"))
    assert run.statuses == ["firing", "unknown"]
    run.feed_now(sample(0.1, origin="kube"))
    assert run.statuses == ["firing", "unknown", "resolved"]


def test_rule_is_failing_until_the_group_that_failed_is_evaluated() -> None:
    run = AlertRun("""
rules:
- name: broken
  when: {resource: {kind: pod, status: [CrashLoop*]}}
  annotations: {summary: "{{ state.note + 1 }}"}
""")
    run.feed_now(pod("db", "CrashLoopBackOff", state={"note": "text"}))
    run.feed_now(pod("web", "CrashLoopBackOff", state={"note": 1}), pod("other"))
    assert "can only concatenate str" in run.health["broken"].error
    run.feed_now(pod("db", "CrashLoopBackOff", state={"note": 1}))
    assert run.health["broken"].error == ""
    run.feed_now(pod("db", "CrashLoopBackOff", state={"note": "text"}))
    run.advance(601)
    run.feed_now(pod("web", "CrashLoopBackOff", state={"note": 1}))
    assert run.health["broken"].error == ""
