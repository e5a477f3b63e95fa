"""Alerts: the list of them, one alert with its history, and the count in the header."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import msgspec

from almenara.alerting import ALERT
from almenara.alerting.conditions import show_number
from almenara.alerting.model import QUIET, STATUSES
from almenara.bus import Record
from almenara.panels.event_rows import link_to_events
from almenara.panels.panel import Panel
from almenara.panels.sparkline import render_sparkline
from almenara.panels.view import View
from almenara.signals import Resource, Severity

SECTIONS: Final = (
    ("Needs attention", ("firing", "unknown", "flapping")),
    ("Acknowledged", ("acknowledged",)),
    ("Silenced and inhibited", ("silenced", "inhibited")),
    ("Pending", ("pending",)),
    ("Resolved within the last hour", ("resolved",)),
)
ROWS: Final = 200
"""Alerts of a section that are listed."""
OPEN_ROWS: Final = 5
"""Alerts of a rule that are visible before the rest is opened."""
ATTENTION_ROWS: Final = 6
"""Rules with alerts that the overview shows."""
SPARKLINES: Final = 50
"""Alerts that have a sparkline in the list, the first ones."""
SPARKLINE_POINTS: Final = 120
ORDER: Final = {status: place for place, status in enumerate(STATUSES)}


class AlertFilters(msgspec.Struct, frozen=True, kw_only=True):
    """Which alert a panel shows."""

    rule: str = ""
    name: str = ""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Read the filters from the parameters of an address."""
        return cls(rule=query.get("rule", "")[:100], name=query.get("name", "")[:100])

    def to_query(self) -> dict[str, str]:
        """The parameters that `from_query` reads back."""
        pairs = {"rule": self.rule, "name": self.name}
        return {name: value for name, value in pairs.items() if value}


def list_alerts(view: View) -> list[Resource]:
    """Return the visible alerts, the most important and the newest first."""
    alerts = [alert for alert in view.resources.of_kind(ALERT) if not alert.deleted]
    return sorted(
        alerts,
        key=lambda alert: (
            ORDER.get(alert.status, len(ORDER)),
            -alert.severity,
            -(alert.state.get("started") or alert.state.get("since") or 0),
        ),
    )


def count_urgent(view: View) -> dict[str, Any]:
    """Return how many alerts need attention, and the severity of the worst."""
    urgent = [
        alert
        for alert in view.resources.of_kind(ALERT)
        if not alert.deleted and alert.status and alert.status not in QUIET
    ]
    worst = max((alert.severity for alert in urgent), default=Severity.INFO)
    return {"count": len(urgent), "severity": worst.name}


def describe_alert(alert: Resource) -> dict[str, Any]:
    """Return the values of a row."""
    state = alert.state
    resource = state.get("resource")
    name = "/".join(filter(None, (resource["namespace"], resource["name"]))) if resource else ""
    return {
        "key": f"{alert.namespace}/{alert.name}",
        "rule": alert.namespace,
        "status": alert.status,
        "severity": state.get("severity", "INFO"),
        "summary": state.get("annotations", {}).get("summary") or alert.namespace,
        "since": state.get("started") or state.get("since"),
        "ended": state.get("ended") if alert.status == "resolved" else None,
        "resource": name,
        "kind": resource["kind"] if resource else "",
        "resource_link": link_to_events(text=f'"{resource["name"]}"') if resource else "",
        "description": state.get("annotations", {}).get("description", ""),
        "labels": sorted(state.get("labels", {}).items()),
        "value": show_number(state.get("value")),
        "threshold": show_number(state.get("threshold")),
        "held_since": state.get("since"),
        "started": state.get("started"),
        "cause": str(state.get("cause", "")),
        "by": state.get("by", ""),
        "assignee": state.get("assignee", ""),
        "metric": state.get("metric", ""),
        "sparkline": "",
        "comment": state.get("comment", ""),
        "inhibited_by": state.get("inhibited_by", ""),
        "silenced_by": state.get("silenced_by", ""),
        "notify": ", ".join(state.get("notify", ())),
        "runbook": state.get("runbook", ""),
    }


async def prepare_list(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    alerts = list_alerts(view)
    rows = [describe_alert(alert) for alert in alerts]
    visible = {row["key"]: row for row in rows}
    dependants: dict[str, int] = defaultdict(int)
    for row in rows:
        dependants[row["inhibited_by"]] += bool(row["inhibited_by"])
    for place, (alert, row) in enumerate(zip(alerts, rows, strict=True)):
        row["sparkline"] = make_sparkline(view, alert) if place < SPARKLINES else ""
    for row in rows:
        row["dependants"] = dependants.get(row["key"], 0)
        root = visible.get(row["inhibited_by"])
        row["root"] = root["summary"] if root is not None else ""
    sections = []
    for title, statuses in SECTIONS:
        chosen = [row for row in rows if row["status"] in statuses]
        if chosen:
            groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
            for row in chosen[:ROWS]:
                groups[row["rule"]].append(row)
            sections.append({
                "title": title, "count": len(chosen), "more": max(len(chosen) - ROWS, 0),
                "groups": [
                    (rule, each[:OPEN_ROWS], each[OPEN_ROWS:]) for rule, each in groups.items()
                ],
                "is_urgent": title == SECTIONS[0][0],
            })  # fmt: skip
    return {"sections": sections}


def read_points(view: View, alert: Resource) -> list[tuple[int, float]]:
    """Return the samples in memory of the series that an alert is about; empty for other alerts."""
    resource, metric = alert.state.get("resource"), alert.state.get("metric")
    if not resource or not metric:
        return []
    key = (resource["kind"], resource["namespace"], resource["name"])
    return view.resources.series(*key, metric)


def make_sparkline(view: View, alert: Resource) -> str:
    """Return the last samples of the series of an alert as a small chart; empty without any."""
    points = read_points(view, alert)[-SPARKLINE_POINTS:]
    if len(points) < 2:
        return ""
    return render_sparkline([value for _, value in points], f"{alert.state['metric']}, recent")


async def prepare_attention(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    """Group the alerts that need attention by their rules, the group with the worst first."""
    groups: dict[str, list[Resource]] = defaultdict(list)
    for alert in list_alerts(view):
        if alert.status in SECTIONS[0][1]:
            groups[alert.namespace].append(alert)
    ranked = sorted(groups.values(), key=lambda alerts: -max(alert.severity for alert in alerts))
    return {
        "rows": [describe_group(alerts) for alerts in ranked[:ATTENTION_ROWS]],
        "more": max(len(ranked) - ATTENTION_ROWS, 0),
    }


def describe_group(alerts: Sequence[Resource]) -> dict[str, Any]:
    """Return the values of the alerts of one rule in a row, and of the first of them."""
    first = describe_alert(alerts[0])
    worst = max(alerts, key=lambda alert: alert.severity)
    return {**first, "severity": worst.severity.name, "count": len(alerts)}


async def prepare_badge(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    return count_urgent(view)


def has_alert(batch: Sequence[Record], filters: AlertFilters) -> bool:
    """Whether a batch has a change of an alert."""
    return any(
        isinstance(record.signal, Resource) and record.signal.kind == ALERT for record in batch
    )


LIST: Final = Panel(
    name="alerts",
    title="Alerts",
    template="alerts.html",
    prepare=prepare_list,
    is_affected=has_alert,
    parse=AlertFilters.from_query,
    min_interval=0.25,
    bare=True,
)
ATTENTION: Final = Panel(
    name="attention",
    title="Needs attention",
    template="attention.html",
    prepare=prepare_attention,
    is_affected=has_alert,
    parse=AlertFilters.from_query,
    min_interval=0.5,
)
BADGE: Final = Panel(
    name="alert-badge",
    title="Alerts that need attention",
    template="alert_badge.html",
    prepare=prepare_badge,
    is_affected=has_alert,
    parse=AlertFilters.from_query,
    min_interval=0.5,
    bare=True,
)
