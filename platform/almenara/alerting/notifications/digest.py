"""The digest: one notification about all groups that wait, in a storm."""

from collections.abc import Mapping, Sequence
from typing import Final

from almenara.alerting.notifications.content import alerts_link
from almenara.alerting.notifications.records import Entry
from almenara.hookspecs import Notification
from almenara.terminal import escape_control_characters

GROUP: Final = "digest"
LISTED: Final = 15
"""Groups that a digest lists."""


def make_digest(
    entries: Mapping[str, Entry], names: Sequence[str], receiver: str, max_alerts: int, base: str
) -> Notification:
    """Return one notification about the entries of several groups; `names` are those of the groups,
    in the order of `entries`."""
    waiting = list(entries.values())
    alerts = tuple(alert for entry in waiting for alert in entry.alerts)[:max_alerts]
    open_count = sum(entry.open_count for entry in waiting)
    resolved_count = sum(entry.resolved_count for entry in waiting)
    version = max(entry.version for entry in waiting)
    counts = _count(open_count, resolved_count)
    lines = [
        f"{name}: {_count(entry.open_count, entry.resolved_count)}"
        for name, entry in list(zip(names, waiting, strict=True))[:LISTED]
    ]
    if len(waiting) > LISTED:
        lines.append(f"… and {len(waiting) - LISTED} more groups")
    lines.append("More notifications were due than the rate limit of this receiver allows.")
    return Notification(
        receiver=receiver,
        group=GROUP,
        episode=f"{GROUP}-{receiver}-{version}",
        version=version,
        status="firing" if open_count else "resolved",
        severity=max(entry.severity for entry in waiting),
        title=f"[DIGEST] {len(waiting)} groups: {counts}",
        text="\n".join(escape_control_characters(line) for line in lines),
        alerts=alerts,
        open_count=open_count,
        resolved_count=resolved_count,
        omitted=open_count + resolved_count - len(alerts),
        link=alerts_link(base, alerts),
        created=max(entry.created for entry in waiting),
    )


def _count(open_count: int, resolved_count: int) -> str:
    counts = ((open_count, "firing"), (resolved_count, "resolved"))
    return ", ".join(f"{count:,} {name}" for count, name in counts if count) or "no change"
