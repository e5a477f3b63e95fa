"""Decides whether a receiver is notified of a group, and of what.

Pure functions of what the group contains, what the receiver knows, and the time.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, Literal

import msgspec

from almenara.alerting.notifications.alert_events import AlertChange
from almenara.alerting.notifications.records import Entry, Statuses, TargetRow
from almenara.alerting.notifications.routes import routing_labels
from almenara.hookspecs import Alert
from almenara.signals import Severity
from almenara.units import MILLISECOND

LOUD: Final = frozenset(("firing", "flapping"))
"""Statuses that someone must be notified of."""
MUTED: Final = frozenset(("silenced", "inhibited", "pending"))
"""Statuses in which an alert is hidden from receivers that do not know it yet."""
NEWS: Final = {
    "firing": frozenset((None, "resolved", "acknowledged", "silenced", "inhibited", "pending")),
    "flapping": frozenset((None, "resolved", "silenced", "inhibited", "pending", "firing")),
}
"""By the status of an alert: what the receiver must know it as for this to be news. An alert whose
data was missing, `unknown`, is still the alert that the receiver knows."""


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What about a receiver matters here."""

    name: str
    send_resolved: bool = True
    accepts_quiet: bool = False
    """Whether it can show a change of status without alerting someone."""
    max_alerts: int = 20
    fallback: str = ""


def decide(
    changes: Collection[AlertChange],
    target: TargetRow,
    traits: Traits,
    repeat_interval: int,
    now: int,
    note: str = "",
) -> Entry | None:
    """Return the next notification about `changes`, the alerts of a group that the receiver may
    see; None where it knows everything, or what is pending reports it.

    It replaces what is pending, and reports everything that has changed since the receiver accepted
    a notification.
    """
    known = target.known
    reported = [
        change for change in changes
        if change.alert.status not in MUTED | {"resolved"} or target.may_know(change.key)
    ]  # fmt: skip
    kind = _classify(reported, target, traits, repeat_interval, now)
    if kind is None:
        return None
    open_ones = [change for change in reported if change.alert.is_open]
    resolved = [change for change in reported if not change.alert.is_open] * traits.send_resolved
    statuses: Statuses = {change.key: change.alert.status for change in (*open_ones, *resolved)}
    before = target.pending
    is_new_episode = not target.episode or all(
        status == "resolved" for status in (*known.values(), *target.confirmed.values())
    )
    alerts = [change.alert for change in (*_ordered(open_ones), *_ordered(resolved))]
    # By the time, so that a group that is created again does not repeat versions.
    version = max(target.version + 1, now // MILLISECOND)
    return Entry(
        version=version,
        episode=f"{target.group}-{version}" if is_new_episode else target.episode,
        created=now,
        waiting_since=before.waiting_since if before is not None else now,
        statuses=statuses,
        status="firing" if open_ones else "resolved",
        severity=max((c.alert.severity for c in open_ones or resolved), default=Severity.INFO),
        alerts=tuple(alerts[: traits.max_alerts]),
        open_count=len(open_ones),
        resolved_count=len(resolved),
        common_labels=common_labels(alerts),
        is_quiet=kind == "quiet" and (before is None or before.is_quiet),
        is_repeat=kind == "repeat" and before is None,
        note=note,
    )


def _classify(
    reported: Sequence[AlertChange],
    target: TargetRow,
    traits: Traits,
    repeat_interval: int,
    now: int,
) -> Literal["news", "repeat", "quiet"] | None:
    """Return why the receiver is to be notified; None if it is not."""
    known = target.known
    has_news = any(
        known.get(change.key) in NEWS.get(change.alert.status, ()) for change in reported
    )
    has_resolved = traits.send_resolved and any(
        not change.alert.is_open and known.get(change.key, "resolved") != "resolved"
        for change in reported
    )
    if has_news or has_resolved:
        return "news"
    is_firing = any(change.alert.status in LOUD for change in reported)
    if is_firing and known and now >= target.notified_at + repeat_interval:
        return "repeat"
    has_changed = any(
        change.key in known and known[change.key] != change.alert.status
        for change in reported
        if change.alert.is_open
    )
    return "quiet" if has_changed and traits.accepts_quiet else None


def _ordered(changes: Iterable[AlertChange]) -> list[AlertChange]:
    """Sort the severest first, and among equals those that need attention, then the oldest."""
    return sorted(
        changes,
        key=lambda change: (
            -change.alert.severity,
            change.alert.status not in LOUD,
            change.alert.started,
            change.key,
        ),
    )


def common_labels(alerts: Sequence[Alert]) -> dict[str, str]:
    """Return the labels that all alerts have with the same value."""
    if not alerts:
        return {}
    common = set(routing_labels(alerts[0]).items())
    for alert in alerts[1:]:
        common &= routing_labels(alert).items()
    return dict(sorted(common))
