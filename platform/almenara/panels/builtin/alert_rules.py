"""Alert rules with their last evaluation, and the silences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.alerting import ALERT, SILENCE
from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.builtin.alerts import AlertFilters, describe_alert, list_alerts
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Resource, now
from almenara.units import DAY, HOUR

DAYS: Final = 7
"""Days of which a rule shows when its alerts fired."""
SLOT: Final = 2 * HOUR
MAX_FIRES: Final = 1_000
MAX_ACTIVE: Final = 20


async def prepare_rules(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    # The rules are a part of the configuration, and name what some viewers must not see.
    if view.rules is None or not view.scope.sees_all_sources:
        return {"rules": []}
    alerts: dict[str, Counter[str]] = {}
    for alert in view.resources.of_kind(ALERT):
        if not alert.deleted:
            alerts.setdefault(alert.namespace, Counter())[alert.status] += 1
    rules = [
        {**row, "alerts": sorted(alerts.get(row["name"], Counter()).items())}
        for row in view.rules.list_rules()
    ]
    return {"rules": sorted(rules, key=lambda row: (not row["error"], row["name"]))}


async def prepare_rule(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    """One rule: its condition, its last evaluation, and when its alerts fired, as bars."""
    if view.rules is None or not view.scope.sees_all_sources:
        return {"rule": None}
    rule = next((row for row in view.rules.list_rules() if row["name"] == filters.rule), None)
    until = now()
    records = await view.history.events(
        Filter(type=f"{ALERT}.firing", subject=f"{filters.rule}/*", since=until - DAYS * DAY),
        limit=MAX_FIRES,
    )
    bars = make_bars([record.signal.time for record in records], until)
    active = [
        describe_alert(alert)
        for alert in list_alerts(view)
        if alert.namespace == filters.rule and alert.status != "resolved"
    ]
    return {
        "rule": rule, "bars": bars, "fires": len(records), "is_limited": len(records) == MAX_FIRES,
        "days": DAYS, "since": until - DAYS * DAY, "until": until, "active": active[:MAX_ACTIVE],
        "more": max(len(active) - MAX_ACTIVE, 0),
    }  # fmt: skip


def make_bars(times: Sequence[int], until: int) -> list[dict[str, float]]:
    """Return the numbers of times in the slots of the last days as bars of at most 100 units."""
    slots = Counter((until - time) // SLOT for time in times)
    count, highest = DAYS * DAY // SLOT, max(slots.values(), default=1)
    return [
        {"x": count - 1 - slot, "height": round(number / highest * 100, 1), "count": number}
        for slot, number in sorted(slots.items())
        if 0 <= slot < count
    ]


async def prepare_silences(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    silences = [each for each in view.resources.of_kind(SILENCE) if not each.deleted]
    covered = Counter(
        alert.state.get("silenced_by", "")
        for alert in view.resources.of_kind(ALERT)
        if not alert.deleted
    )
    rows = [
        {
            "id": each.name,
            "status": each.status,
            "covered": covered[each.name],
            "calendar": "",
            **each.state,
        }
        for each in silences
    ]
    return {"silences": sorted(rows, key=lambda row: row["ends"])}


def has_silence(batch: Sequence[Record], filters: AlertFilters) -> bool:
    """Whether a batch has a change of a silence, or of an alert that one may cover."""
    return any(
        isinstance(record.signal, Resource) and record.signal.kind in (SILENCE, ALERT)
        for record in batch
    )


RULES: Final = Panel(
    name="alert-rules",
    title="Alert rules",
    template="alert_rules.html",
    prepare=prepare_rules,
    parse=AlertFilters.from_query,
    refresh=5.0,
)
RULE: Final = Panel(
    name="alert-rule",
    title="Alert rule",
    template="alert_rule.html",
    prepare=prepare_rule,
    filters=frozenset(("rule",)),
    parse=AlertFilters.from_query,
    refresh=10.0,
    bare=True,
)
SILENCES: Final = Panel(
    name="silences",
    title="Silences",
    template="silences.html",
    prepare=prepare_silences,
    is_affected=has_silence,
    parse=AlertFilters.from_query,
    min_interval=0.5,
)
