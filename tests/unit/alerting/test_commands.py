"""Silences with calendar times, assignments, and expected times of events."""

from contextlib import nullcontext

import msgspec
import pytest

from almenara.alerting.commands import make_acknowledge, make_assign, make_silence
from almenara.config import ConfigError
from almenara.sdk.calendar import Calendar, Day
from almenara.signals import Resource
from almenara.units import DAY, HOUR
from support.alerting import SECOND, START, AlertRun, failure, pod

RULES = """
rules:
- {name: crashing, severity: ERROR, when: {resource: {kind: pod, status: [CrashLoop*]}}}
"""
BACKUP = """
rules:
- name: no-backup
  when: {absent: {types: [app.failed], schedule: "0 3 * * *", zone: Europe/Madrid, within: 1800}}
"""


def the_alert(run: AlertRun) -> Resource:
    (alert,) = [each for each in run.resources.values() if each.kind == "almenara.alert"]
    return alert


def crash() -> object:
    return pod("db", "CrashLoopBackOff")


def test_silence_with_a_calendar_covers_its_window_each_day() -> None:
    run = AlertRun(RULES)
    run.feed_now(crash())
    # The run starts at midnight UTC, which is 01:00 in Madrid.
    window = Calendar(start="03:00", end="04:30", zone="Europe/Madrid")
    ends = run.clock.now() + 30 * HOUR
    run.command(make_silence, ["rule=crashing"], "ada", "backup", ends, calendar=window)
    assert run.statuses == ["firing"]
    (silence,) = [each for each in run.resources.values() if each.kind == "almenara.silence"]
    assert (silence.status, silence.state["calendar"]) == (
        "pending", "every day 03:00 to 04:30 Europe/Madrid",
    )  # fmt: skip
    for hours, expected in ((2, "silenced"), (1.5, "firing"), (22.5, "silenced"), (1.5, "firing")):
        run.advance(hours * 3600)
        assert run.alerts == {"crashing db": expected}
    run.advance(3 * 3600)
    assert not [each for each in run.resources.values() if each.kind == "almenara.silence"]
    changed = [event.time - START for event in run.alert_events[1:]]
    assert changed == [2 * HOUR, int(3.5 * HOUR), 26 * HOUR, int(27.5 * HOUR)]


def test_silence_with_a_calendar_lasts_over_a_restart() -> None:
    run = AlertRun(RULES)
    run.feed_now(crash())
    window = Calendar(start="01:00", end="02:00")
    ends = run.clock.now() + DAY
    run.command(make_silence, ["rule=crashing"], "ada", "backup", ends, calendar=window)
    run.restart()
    run.advance(3600)
    run.restart()
    assert run.alerts == {"crashing db": "silenced"}
    run.advance(3600)
    assert run.alerts == {"crashing db": "firing"}


@pytest.mark.parametrize(
    ("start", "end", "days", "hours", "is_refused"),
    # The run starts at midnight of a Thursday.
    [("02:00", "06:00", ["sat"], 24, True), ("02:00", "06:00", ["sat"], 7 * 24, False),
     ("03:00", "04:00", [], 3, True), ("03:00", "04:00", [], 3.1, False),
     ("22:00", "02:00", [], 1, False)],
)  # fmt: skip
def test_silence_that_ends_before_its_window_opens_is_refused(
    start: str, end: str, days: list[Day], hours: float, is_refused: bool
) -> None:
    run = AlertRun(RULES)
    window = Calendar(start=start, end=end, days=days)
    ends = run.clock.now() + int(hours * HOUR)
    expected = pytest.raises(ValueError, match="would never be active; give it a later end")
    with expected if is_refused else nullcontext():
        run.command(make_silence, ["rule=crashing"], "ada", "backup", ends, calendar=window)


def test_assignment_is_published_and_ends_with_the_alert() -> None:
    run = AlertRun(RULES)
    run.feed_now(crash())
    run.command(make_acknowledge, run.key("crashing"), "ada")
    run.command(make_assign, run.key("crashing"), " grace\n hopper ", "ada")
    run.command(make_assign, run.key("crashing"), "grace hopper", "ada")
    alert = the_alert(run)
    assert (alert.status, alert.state["assignee"]) == ("acknowledged", "grace hopper")
    assert run.statuses == ["firing", "acknowledged", "assigned"]
    assigned = run.alert_events[-1]
    assert (assigned.data["assignee"], assigned.data["by"]) == ("grace hopper", "ada")
    run.restart()
    run.feed_now(pod("db"))
    alert = the_alert(run)
    assert "assignee" not in alert.state


def test_assignment_of_what_does_not_fire_has_no_effect() -> None:
    run = AlertRun(RULES)
    run.command(make_assign, "crashing/none", "ada", "ada")
    assert run.statuses == []


def test_event_that_is_expected_at_a_time_of_day_is_missed() -> None:
    run = AlertRun(BACKUP)
    # Midnight UTC; 03:00 in Madrid is 02:00 UTC.
    run.advance(2 * 3600)
    run.feed_now(failure())
    run.advance(23 * 3600)
    assert run.statuses == []
    run.advance(1.5 * 3600)
    assert run.statuses == ["firing"]
    (firing,) = run.alert_events
    assert firing.data["started"] == START + 26 * HOUR + 1800 * SECOND
    assert firing.data["annotations"]["summary"] == (
        "no app.failed 1800 s after 0 3 * * * Europe/Madrid"
    )
    run.feed_now(failure())
    assert run.statuses == ["firing", "resolved"]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [("schedule: 61 * * * *", "'61 \\* \\* \\* \\*' is not a cron expression"),
     ("schedule: 0 3 * * *, zone: Europe/Madrd", "did you mean Europe/Madrid")],
)  # fmt: skip
def test_wrong_schedule_is_refused_with_its_path(wrong: str, error: str) -> None:
    with pytest.raises(ConfigError, match=rf"alerting.rules\[0\].when.absent: .*{error}"):
        AlertRun(f"rules: [{{name: x, when: {{absent: {{within: 60, {wrong}}}}}}}]")


def test_stored_silence_of_an_earlier_version_is_read() -> None:
    from almenara.alerting.commands import Silence

    row = {"id": "a", "matchers": ["a=b"], "author": "ada", "comment": "x", "starts": 0, "ends": 5}
    silence = msgspec.json.decode(msgspec.json.encode(row), type=Silence)
    assert (silence.is_active(4), silence.next_change(1), silence.calendar) == (True, 5, None)
