"""How an alert moves between its phases: pure functions of the alert, its rule and the time."""

from typing import Final

from almenara.alerting.conditions import Verdict
from almenara.alerting.model import Alert
from almenara.config.alert_rules import AlertRule, FlappingSettings
from almenara.units import HOUR, SECOND

RESOLVED_VISIBLE: Final = HOUR
"""How long a resolved alert stays among the resources."""


def observe(
    alert: Alert, verdict: Verdict, rule: AlertRule, flapping: FlappingSettings, time: int
) -> None:
    """Apply the verdict of a condition."""
    alert.value, alert.threshold = verdict.value, verdict.threshold
    if verdict.is_known:
        alert.is_blind = False
    alert.is_stale = verdict.holds and not verdict.is_known
    for name, at in (
        ("until", verdict.until), ("absent", verdict.absent_at), ("stale", verdict.stale_at),
    ):  # fmt: skip
        _set(alert, name, at)
    set_holds(alert, verdict.holds, rule, flapping, time)


def set_holds(
    alert: Alert, holds: bool, rule: AlertRule, flapping: FlappingSettings, time: int
) -> None:
    """Apply that the condition holds, or that it does not."""
    has_changed = alert.holds != holds
    if holds and has_changed:
        alert.since = time
    alert.holds = holds
    if alert.is_flapping:
        if has_changed:
            _set(alert, "settle", time + int(flapping.settle * SECOND))
    elif holds:
        _hold(alert, rule, flapping, time)
    elif alert.phase == "pending":
        alert.phase = "inactive"
        _set(alert, "for", None)
    elif alert.phase == "firing" and "keep" not in alert.deadlines:
        if rule.keep_firing_for:
            _set(alert, "keep", time + int(rule.keep_firing_for * SECOND))
        else:
            resolve(alert, time)


def _hold(alert: Alert, rule: AlertRule, flapping: FlappingSettings, time: int) -> None:
    _set(alert, "keep", None)
    if alert.phase not in ("inactive", "resolved"):
        return
    _set(alert, "forget", None)
    if rule.for_:
        alert.phase = "pending"
        _set(alert, "for", alert.since + int(rule.for_ * SECOND))
    else:
        _fire(alert, flapping, time)


def _fire(alert: Alert, flapping: FlappingSettings, time: int) -> None:
    alert.phase, alert.started, alert.ended = "firing", time, 0
    start = time - int(flapping.within * SECOND)
    alert.fires = [fired for fired in alert.fires if fired > start] + [time]
    if len(alert.fires) >= flapping.fires:
        alert.is_flapping = True
        _set(alert, "settle", time + int(flapping.settle * SECOND))


def resolve(alert: Alert, time: int) -> None:
    """End an alert that fires."""
    alert.phase, alert.ended = "resolved", max(time, alert.started)
    alert.holds = alert.is_blind = alert.is_stale = alert.is_flapping = False
    alert.acknowledged_by = alert.comment = alert.silenced_by = alert.inhibited_by = ""
    alert.assignee = ""
    for name in ("keep", "for", "settle"):
        _set(alert, name, None)
    _set(alert, "forget", alert.ended + RESOLVED_VISIBLE)


def reach(
    alert: Alert, deadline: str, rule: AlertRule, flapping: FlappingSettings, at: int
) -> None:
    """Apply a deadline that is reached at a time; the condition itself applies `until`."""
    _set(alert, deadline, None)
    if deadline == "for" and alert.phase == "pending":
        _fire(alert, flapping, at)
    elif deadline == "keep" and alert.phase == "firing":
        resolve(alert, at)
    elif deadline == "absent":
        alert.value = (at - alert.window[-1][0]) / SECOND if alert.window else alert.threshold
        set_holds(alert, True, rule, flapping, at)
    elif deadline == "stale":
        if alert.phase == "firing":
            alert.is_stale = True
        elif alert.phase == "pending":
            set_holds(alert, False, rule, flapping, at)
    elif deadline == "settle":
        alert.is_flapping, alert.fires = False, []
        if not alert.holds:
            resolve(alert, at)
    elif deadline == "forget":
        alert.phase = "inactive"


def _set(alert: Alert, name: str, at: int | None) -> None:
    if at is None:
        alert.deadlines.pop(name, None)
    else:
        alert.deadlines[name] = at
