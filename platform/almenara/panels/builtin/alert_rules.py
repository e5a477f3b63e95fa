"""Alert rules with their last evaluation, and the silences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from almenara.alerting import ALERT, SILENCE
from almenara.bus import Record
from almenara.panels.builtin.alerts import AlertFilters
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Resource


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


async def prepare_silences(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    silences = [each for each in view.resources.of_kind(SILENCE) if not each.deleted]
    covered = Counter(
        alert.state.get("silenced_by", "")
        for alert in view.resources.of_kind(ALERT)
        if not alert.deleted
    )
    rows = [
        {"id": each.name, "status": each.status, "covered": covered[each.name], **each.state}
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
SILENCES: Final = Panel(
    name="silences",
    title="Silences",
    template="silences.html",
    prepare=prepare_silences,
    is_affected=has_silence,
    parse=AlertFilters.from_query,
    min_interval=0.5,
)
