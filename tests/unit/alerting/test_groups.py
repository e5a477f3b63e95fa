"""Who is notified of what and when: windows with exact expectations, as Alertmanager's tests."""

from typing import Any

import pytest

from almenara.alerting.notifications.alert_events import AlertChange
from almenara.alerting.notifications.decisions import Traits
from almenara.alerting.notifications.records import decode_row
from almenara.hookspecs import Alert
from almenara.signals import Severity
from almenara.units import SECOND
from support.alerts import START, NotificationRun, route

HOUR = 3600
ALL = {"group_by": []}
EACH = {"group_by": ["..."]}
OPS, EDITING = Traits(name="ops"), Traits(name="ops", accepts_quiet=True)
MAIL, QUIET = Traits(name="mail"), Traits(name="ops", send_resolved=False)

Scenario = tuple[dict[str, Any], list[Traits], str, int, list[str]]
SCENARIOS: dict[str, Scenario] = {
    "a new group waits for group_wait": (ALL, [OPS], "0 a firing", 299, ["30 ops firing a:firing"]),
    "alerts that arrive meanwhile are in the first notification": (
        ALL, [OPS], "0 a firing, 29 b firing", 200, ["30 ops firing a:firing b:firing"]),
    "an alert that arrives later waits for group_interval": (
        ALL, [OPS], "0 a firing, 31 b firing", 400,
        ["30 ops firing a:firing", "330 ops firing a:firing b:firing"]),
    "an alert in an old group waits for the next interval only": (
        ALL, [OPS], "0 a firing, 640 b firing", 1000,
        ["30 ops firing a:firing", "930 ops firing a:firing b:firing"]),
    "an alert that ends within group_wait is never sent": (
        ALL, [OPS], "0 a firing, 20 a resolved", 1000, []),
    "a group without alerts starts over": (
        ALL, [OPS], "0 a firing, 20 a resolved, 100 a firing", 200, ["130 ops firing a:firing"]),
    "an end is sent with the next interval": (
        ALL, [OPS], "0 a firing, 40 a resolved", 1000,
        ["30 ops firing a:firing", "330 ops resolved a:resolved"]),
    "the end of one alert is sent with those that are open": (
        ALL, [OPS], "0 a firing, 0 b firing, 40 a resolved", 400,
        ["30 ops firing a:firing b:firing", "330 ops firing a:resolved b:firing"]),
    "an end is sent once": (
        ALL, [OPS], "0 a firing, 40 a resolved, 340 b firing, 350 b resolved", 2000,
        ["30 ops firing a:firing", "330 ops resolved a:resolved"]),
    "nothing follows the end": (
        ALL, [OPS], "0 a firing, 40 a resolved", 40 * HOUR,
        ["30 ops firing a:firing", "330 ops resolved a:resolved"]),
    "an alert that fires again between two intervals is no change": (
        ALL, [OPS], "0 a firing, 40 a resolved, 50 a firing", 1000, ["30 ops firing a:firing"]),
    "an alert that fires again after its end is a new group": (
        ALL, [OPS], "0 a firing, 40 a resolved, 400 a firing", 500,
        ["30 ops firing a:firing", "330 ops resolved a:resolved", "430 ops firing a:firing"]),
    "an end is not sent to who does not want it": (
        ALL, [QUIET], "0 a firing, 40 a resolved", 2000, ["30 ops firing a:firing"]),
    "a new start after an unsent end is news": (
        ALL, [QUIET], "0 a firing, 40 a resolved, 400 a firing", 500,
        ["30 ops firing a:firing", "430 ops firing a:firing"]),
    "a group that does not change is repeated": (
        ALL, [OPS], "0 a firing", 9 * HOUR,
        ["30 ops firing a:firing", "14430 ops =firing a:firing", "28830 ops =firing a:firing"]),
    "a change starts the repeat interval again": (
        ALL, [OPS], "0 a firing, 7200 b firing", 6 * HOUR - 100,
        ["30 ops firing a:firing", "7230 ops firing a:firing b:firing"]),
    "group_by makes a group for each value": (
        {"group_by": ["node"]}, [OPS], "0 a firing, 10 b firing", 200,
        ["30 ops firing a:firing", "40 ops firing b:firing"]),
    "three dots make a group for each alert": (
        EACH, [OPS], "0 a firing, 0 b firing", 100,
        ["30 ops firing a:firing", "30 ops firing b:firing"]),
    "alerts of a rule are grouped by default": (
        {}, [OPS], "0 a firing, 0 b firing", 100, ["30 ops firing a:firing b:firing"]),
    "pending is not sent": (ALL, [OPS], "0 a pending", 1000, []),
    "pending becomes firing": (
        ALL, [OPS], "0 a pending, 60 a firing", 100, ["90 ops firing a:firing"]),
    "what is silenced from the start is not sent": (
        ALL, [OPS], "0 a silenced, 50 a resolved", 1000, []),
    "what is silenced within group_wait is not sent": (
        ALL, [OPS], "0 a firing, 10 a silenced", 1000, []),
    "the end of a silence is news": (
        ALL, [OPS], "0 a firing, 10 a silenced, 500 a firing", 1000, ["630 ops firing a:firing"]),
    "what is silenced later is not repeated": (
        ALL, [OPS], "0 a firing, 100 a silenced", 9 * HOUR, ["30 ops firing a:firing"]),
    "the end of a silenced alert is sent to who knows it": (
        ALL, [OPS], "0 a firing, 100 a silenced, 400 a resolved", 1000,
        ["30 ops firing a:firing", "630 ops resolved a:resolved"]),
    "what is inhibited is not sent": (
        ALL, [OPS], "0 a firing, 5 b firing, 10 b inhibited", 1000, ["30 ops firing a:firing"]),
    "the end of an inhibition is news": (
        ALL, [OPS], "0 a firing, 0 b firing, 10 b inhibited, 100 a resolved, 110 b firing", 700,
        ["30 ops firing a:firing", "330 ops firing a:resolved b:firing"]),
    "an acknowledged alert is not repeated": (
        ALL, [OPS], "0 a firing, 100 a acknowledged", 9 * HOUR, ["30 ops firing a:firing"]),
    "an acknowledged alert ends": (
        ALL, [OPS], "0 a firing, 100 a acknowledged, 400 a resolved", 1000,
        ["30 ops firing a:firing", "630 ops resolved a:resolved"]),
    "an acknowledgement is shown where a message can be edited": (
        ALL, [EDITING], "0 a firing, 100 a acknowledged", 9 * HOUR,
        ["30 ops firing a:firing", "330 ops ~firing a:acknowledged"]),
    "an acknowledgement that is withdrawn is news": (
        ALL, [EDITING], "0 a firing, 100 a acknowledged, 400 a firing", 1000,
        ["30 ops firing a:firing", "330 ops ~firing a:acknowledged", "630 ops firing a:firing"]),
    "another alert beside an acknowledged one is news": (
        ALL, [OPS], "0 a firing, 100 a acknowledged, 400 b firing", 1000,
        ["30 ops firing a:firing", "630 ops firing a:acknowledged b:firing"]),
    "flapping is named once": (
        ALL, [OPS], "0 a firing, 100 a flapping", 2 * HOUR,
        ["30 ops firing a:firing", "330 ops firing a:flapping"]),
    "the end of flapping in firing is no news": (
        ALL, [OPS], "0 a firing, 100 a flapping, 400 a firing", HOUR,
        ["30 ops firing a:firing", "330 ops firing a:flapping"]),
    "a flapping alert ends": (
        ALL, [OPS], "0 a flapping, 400 a resolved", HOUR,
        ["30 ops firing a:flapping", "630 ops resolved a:resolved"]),
    "missing data is not an end": (
        ALL, [OPS], "0 a firing, 100 a unknown", 2 * HOUR, ["30 ops firing a:firing"]),
    "missing data is shown where a message can be edited": (
        ALL, [EDITING], "0 a firing, 100 a unknown", 2 * HOUR,
        ["30 ops firing a:firing", "330 ops ~firing a:unknown"]),
    "data that is back is no news": (
        ALL, [OPS], "0 a firing, 100 a unknown, 400 a firing", 2 * HOUR,
        ["30 ops firing a:firing"]),
    "missing data of an alert that no one knows is not sent": (ALL, [OPS], "0 a unknown", HOUR, []),
    "two receivers of a route are both notified": (
        {"receivers": ["ops", "mail"]}, [OPS, MAIL], "0 a firing", 100,
        ["30 ops firing a:firing", "30 mail firing a:firing"]),
    "the first route that matches is used": (
        {"routes": [{"matchers": ["node=a"], "receivers": ["mail"]}, {"matchers": ["node=~a|b"]}]},
        [OPS, MAIL], "0 a firing, 0 b firing", 100,
        ["30 ops firing b:firing", "30 mail firing a:firing"]),
    "a route with continue is not the last": (
        {"routes": [{"matchers": ["node=a"], "receivers": ["mail"], "continue": True},
                    {"matchers": ["node=~a|b"]}]},
        [OPS, MAIL], "0 a firing, 0 b firing", 100,
        ["30 ops firing a:firing b:firing", "30 mail firing a:firing"]),
    "a route inherits what it does not set": (
        {"group_wait": 5, "routes": [{"matchers": ["severity=error"], "receivers": ["mail"],
                                      "routes": [{"matchers": ["node!=b"], "group_wait": 10}]}]},
        [OPS, MAIL], "0 a firing, 0 b firing", 100,
        ["5 mail firing b:firing", "10 mail firing a:firing"]),
    "without a wait it is sent at once": (
        {"group_wait": 0}, [OPS], "7 a firing", 20, ["7 ops firing a:firing"]),
}  # fmt: skip


def play(run: NotificationRun, script: str, until: int) -> list[str]:
    """Run a script such as `0 a firing, 40 a resolved`, times in seconds."""
    for step in filter(None, script.split(", ")):
        time, fingerprint, status = step.split()
        run.advance(int(time) - run.time)
        run.publish(status, fingerprint)
    run.advance(until - run.time)
    return run.log


@pytest.mark.parametrize("name", SCENARIOS)
def test_groups_notify_exactly(name: str) -> None:
    settings, receivers, script, until, expected = SCENARIOS[name]
    assert play(NotificationRun(route(**settings), receivers), script, until) == expected


@pytest.mark.parametrize("name", SCENARIOS)
def test_groups_notify_the_same_with_a_restart_at_every_step(name: str) -> None:
    settings, receivers, script, until, expected = SCENARIOS[name]
    run = NotificationRun(route(**settings), receivers, restart_every=max(until // 100, 1))
    assert sorted(play(run, script, until)) == sorted(expected)


def test_nothing_is_left_of_groups_that_have_ended() -> None:
    run = NotificationRun(route(), [OPS])
    play(run, "0 a firing, 0 b firing, 40 a resolved, 50 b resolved", 1000)
    assert run.rows == {}
    assert run.groups.next_flush() is None


def test_episode_and_version_distinguish_incidents() -> None:
    run = NotificationRun(route(), [OPS])
    play(run, "0 a firing, 400 b firing, 640 a resolved, 640 b resolved, 1000 a firing", 1100)
    entries = [entry for _, _, entry in run.sent]
    assert [entry.status for entry in entries] == ["firing", "firing", "resolved", "firing"]
    episodes = [entry.episode for entry in entries]
    assert len(set(episodes[:3])) == 1
    assert episodes[3] != episodes[0]
    versions = [entry.version for entry in entries]
    assert versions == sorted(set(versions))


def test_reference_lasts_for_the_episode() -> None:
    run = NotificationRun(route(), [OPS])
    play(run, "0 a firing", 100)
    (group,) = {entry.episode.rpartition("-")[0] for _, _, entry in run.sent}
    assert run.groups.reference("ops", group) == f"ref-{run.sent[0][2].episode}"


def test_receiver_that_is_down_gets_the_newest_state_once() -> None:
    run = NotificationRun(route(), [OPS])
    run.down = {"ops"}
    play(run, "0 a firing, 400 b firing, 1000 a resolved", 2000)
    assert run.log == []
    run.down = set()
    run.advance(1)
    assert run.log == ["2000 ops firing a:resolved b:firing"]
    run.advance(400)
    assert len(run.log) == 1


def test_receiver_that_was_down_gets_the_end_of_what_it_may_know() -> None:
    run = NotificationRun(route(), [OPS])
    run.down = {"ops"}
    play(run, "0 a firing, 400 a resolved", 1000)
    run.down = set()
    run.advance(1)
    assert run.log == ["1000 ops resolved a:resolved"]
    assert run.rows == {}


def test_delivery_under_way_does_not_confirm_what_replaced_it() -> None:
    run = NotificationRun(route(), [OPS])
    run.down = {"ops"}
    play(run, "0 a firing", 31)
    ((group, first),) = run.groups.outbox["ops"].items()
    run.publish("firing", "b")
    run.advance(400)
    run.groups.confirm("ops", group, first, "m1")
    run.down = set()
    run.advance(1)
    assert run.log == ["431 ops firing a:firing b:firing"]


def test_fallback_gets_what_a_failing_receiver_does_not() -> None:
    ops = Traits(name="ops", fallback="mail")
    run = NotificationRun(route(), [ops, MAIL])
    run.down = {"ops"}
    play(run, "0 a firing", 100)
    assert run.log == []
    run.groups.set_failing("ops", "Receiver ops is failing.", run.now)
    run.advance(1)
    assert run.log == ["100 mail firing a:firing"]
    assert run.sent[0][2].note == "Receiver ops is failing."
    run.groups.set_failing("ops", "", run.now)
    run.down = set()
    run.publish("resolved", "a")
    run.advance(400)
    assert run.log[1:] == ["101 ops firing a:firing", "330 ops resolved a:resolved",
                           "330 mail resolved a:resolved"]  # fmt: skip


def test_fallback_gets_what_a_receiver_refuses() -> None:
    ops = Traits(name="ops", fallback="mail")
    run = NotificationRun(route(), [ops, MAIL])
    run.refusing = {"ops"}
    play(run, "0 a firing, 40 a resolved", 1000)
    assert run.log == ["30 mail firing a:firing", "330 mail resolved a:resolved"]
    assert run.rows == {}


def test_fallbacks_that_name_each_other_end() -> None:
    receivers = [Traits(name="ops", fallback="mail"), Traits(name="mail", fallback="ops")]
    run = NotificationRun(route(), receivers)
    run.refusing = {"ops", "mail"}
    play(run, "0 a firing, 40 a resolved", 1000)
    assert run.log == []


def test_alert_outside_the_scope_is_not_sent() -> None:
    run = NotificationRun(route(receivers=["ops", "mail"]), [OPS, MAIL])
    run.hidden = {("ops", "a")}
    assert play(run, "0 a firing, 0 b firing", 100) == [
        "30 ops firing b:firing", "30 mail firing a:firing b:firing",
    ]  # fmt: skip


def test_end_of_an_alert_that_became_hidden_is_sent_without_what_is_hidden() -> None:
    run = NotificationRun(route(receivers=["ops", "mail"]), [OPS, MAIL])
    run.publish("firing", "a")
    run.advance(100)
    run.hidden = {("ops", "a")}
    run.publish(
        "firing", "a", annotations={"summary": "secret", "description": "secret"}, value=7.0,
        threshold=6.0, by="secret", assignee="secret", metric="secret", cause="secret",
        resource={"kind": "pod", "namespace": "secret", "name": "secret"},
    )  # fmt: skip
    run.advance(300)
    run.publish("resolved", "a", ended=run.now)
    run.advance(1000)
    assert run.log == [
        "30 ops firing a:firing", "30 mail firing a:firing", "330 ops resolved a:resolved",
        "630 mail resolved a:resolved",
    ]  # fmt: skip
    (alert,) = next(entry for _, name, entry in run.sent[2:] if name == "ops").alerts
    assert alert == Alert(
        rule="disk_full", fingerprint="a", status="resolved", severity=Severity.ERROR,
        labels={"node": "a"}, since=START + 100 * SECOND, started=START + 100 * SECOND,
        ended=START + 330 * SECOND, cause="This receiver may not see it any more.",
    )  # fmt: skip
    assert run.rows == {}


def test_restart_remembers_that_an_alert_became_hidden() -> None:
    run = NotificationRun(route(), [OPS])
    run.publish("firing", "a", namespace="x")
    run.advance(1)
    run.publish("firing", "a", namespace="*")
    run.advance(1)
    (row,) = [row for key, row in run.rows.items() if key.startswith("alert/")]
    assert decode_row(row, AlertChange).namespace == "*"


def test_hidden_alert_of_a_receiver_without_ends_leaves_nothing() -> None:
    run = NotificationRun(route(), [Traits(name="ops", send_resolved=False)])
    run.publish("firing", "a")
    run.advance(100)
    run.hidden = {("ops", "a")}
    run.publish("firing", "a")
    run.advance(400)
    run.publish("resolved", "a")
    run.advance(1000)
    assert run.log == ["30 ops firing a:firing"]
    assert run.rows == {}


def test_alert_that_moves_to_another_group_has_ended_in_the_first() -> None:
    run = NotificationRun(route(group_by=["team"]), [OPS])
    run.publish("firing", "a", labels={"team": "x"})
    run.advance(100)
    run.publish("firing", "a", labels={"team": "y"})
    run.advance(1000)
    ended = [alert.ended for _, _, entry in run.sent for alert in entry.alerts]
    assert ended == [None, None, START + 100 * SECOND]


def test_rule_names_its_receivers() -> None:
    run = NotificationRun(route(), [OPS, MAIL])
    run.publish("firing", "a", notify=["mail"])
    run.publish("firing", "b", notify=["no such receiver"])
    run.advance(100)
    assert sorted(run.log) == ["30 mail firing a:firing", "30 ops firing b:firing"]


def test_change_that_is_read_again_has_no_effect() -> None:
    run = NotificationRun(route(), [OPS])
    play(run, "0 a firing, 40 a resolved, 41 a firing", 100)
    run.sequence -= 2
    run.publish("resolved", "a")
    run.advance(1000)
    assert run.log == ["30 ops firing a:firing"]


def test_alert_whose_labels_change_moves_to_another_group() -> None:
    run = NotificationRun(route(group_by=["team"]), [OPS])
    run.publish("firing", "a", labels={"team": "db"})
    run.advance(100)
    run.publish("firing", "a", labels={"team": "web"})
    run.advance(400)
    assert run.log == ["30 ops firing a:firing", "130 ops firing a:firing",
                       "330 ops resolved a:resolved"]  # fmt: skip


def test_changed_routes_apply_to_open_alerts_after_a_restart() -> None:
    run = NotificationRun(route(), [OPS, MAIL])
    play(run, "0 a firing", 100)
    other = NotificationRun(
        route(routes=[{"matchers": ["node=a"], "receivers": ["mail"]}]), [OPS, MAIL]
    )
    other.rows, other.time = run.rows, run.time
    other.restart()
    other.advance(400)
    assert other.log == ["130 mail firing a:firing", "330 ops resolved a:resolved"]


def test_removed_receiver_is_forgotten_after_a_restart() -> None:
    run = NotificationRun(route(receivers=["ops", "mail"]), [OPS, MAIL])
    play(run, "0 a firing", 100)
    other = NotificationRun(route(), [OPS])
    other.rows, other.time = run.rows, run.time
    other.restart()
    assert not [key for key in other.rows if key.endswith("/mail")]


def test_clock_that_is_set_back_does_not_silence_a_group() -> None:
    run = NotificationRun(route(), [OPS])
    play(run, "0 a firing", 100)
    run.publish("firing", "b")
    run.time -= 7200
    run.advance(301)
    assert run.log[1:] == [f"{100 - 7200 + 300} ops firing a:firing b:firing"]


def test_group_that_is_created_again_within_a_second_repeats_no_version() -> None:
    run = NotificationRun(route(group_wait=0, group_interval=0.2), [OPS])
    moment = run.now
    for status in ("firing", "resolved", "firing"):
        run.publish(status)
        run.groups.flush(moment)
        ((key, entry),) = run.groups.outbox["ops"].items()
        run.sent.append((0, "ops", entry))
        run.groups.confirm("ops", key, entry, "ref")
        moment += 200_000
    first, end, again = (entry for _, _, entry in run.sent)
    assert first.episode == end.episode != again.episode
    assert first.version < end.version < again.version


def test_storm_in_one_group_is_one_notification() -> None:
    run = NotificationRun(route(), [Traits(name="ops", max_alerts=20)])
    for number in range(10_000):
        run.publish("firing", f"n{number}")
    run.advance(31)
    ((_, _, entry),) = run.sent
    assert (entry.open_count, len(entry.alerts), entry.omitted) == (10_000, 20, 9_980)
