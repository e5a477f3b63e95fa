"""Alerts: the list of them, one alert with its history, and the count in the header."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import msgspec

from almenara.alerting import ALERT
from almenara.alerting.conditions import show_number
from almenara.alerting.model import QUIET, STATUSES
from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.event_rows import link_to_events
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Event, Resource, Severity

SECTIONS: Final = (
    ("Needs attention", ("firing", "unknown", "flapping")),
    ("Acknowledged", ("acknowledged",)),
    ("Silenced and inhibited", ("silenced", "inhibited")),
    ("Pending", ("pending",)),
    ("Resolved within the last hour", ("resolved",)),
)
ROWS: Final = 200
"""Alerts of a section that are listed."""
TRANSITIONS: Final = 100
"""Transitions of an alert that its page shows."""
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
        "comment": state.get("comment", ""),
        "inhibited_by": state.get("inhibited_by", ""),
        "silenced_by": state.get("silenced_by", ""),
        "notify": ", ".join(state.get("notify", ())),
        "runbook": state.get("runbook", ""),
    }


async def prepare_list(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    rows = [describe_alert(alert) for alert in list_alerts(view)]
    visible = {row["key"]: row for row in rows}
    dependants: dict[str, int] = defaultdict(int)
    for row in rows:
        dependants[row["inhibited_by"]] += bool(row["inhibited_by"])
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
                "groups": list(groups.items()), "is_urgent": title == SECTIONS[0][0],
            })  # fmt: skip
    return {"sections": sections}


async def prepare_badge(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    return count_urgent(view)


async def prepare_detail(view: View, filters: AlertFilters) -> Mapping[str, Any]:
    alert = view.resources.get(ALERT, filters.rule, filters.name)
    records = await view.history.events(
        Filter(type=f"{ALERT}.*", subject=f"{filters.rule}/{filters.name}"), limit=TRANSITIONS
    )
    transitions = [
        describe_transition(record) for record in records if isinstance(record.signal, Event)
    ]
    row = None if alert is None or alert.deleted else describe_alert(alert)
    if row is not None:
        row["root"] = await _describe_root(view, row["inhibited_by"])
        row["cause"] = await _link_to_cause(view, row["cause"])
    return {"alert": row, "transitions": transitions}


def describe_transition(record: Record) -> dict[str, Any]:
    """Return the values of a line of the history of an alert."""
    event = record.signal
    data: Any = event.data if isinstance(event, Event) else {}
    if isinstance(data, msgspec.Raw):
        data = msgspec.json.decode(data)
    data = data if isinstance(data, dict) else {}
    return {
        "sequence": record.sequence,
        "time": event.time,
        "status": event.type.rpartition(".")[2] if isinstance(event, Event) else "",
        "severity": data.get("severity", "INFO"),
        "summary": data.get("annotations", {}).get("summary", ""),
        "by": data.get("by", ""),
        "comment": data.get("comment", ""),
        "inhibited_by": data.get("inhibited_by", ""),
        "reason": data.get("reason", ""),
    }


async def _describe_root(view: View, key: str) -> str:
    rule, _, name = key.partition("/")
    root = view.resources.get(ALERT, rule, name) if name else None
    return "" if root is None else str(describe_alert(root)["summary"])


async def _link_to_cause(view: View, cause: str) -> str:
    """The address of the event that made the condition hold; empty for another signal."""
    if not cause.isdigit():
        return ""
    record = await view.history.event(int(cause))
    return f"/events/{cause}" if record is not None else ""


def has_alert(batch: Sequence[Record], filters: AlertFilters) -> bool:
    """Whether a batch has a change of an alert."""
    return any(
        isinstance(record.signal, Resource) and record.signal.kind == ALERT for record in batch
    )


def has_this_alert(batch: Sequence[Record], filters: AlertFilters) -> bool:
    """Whether a batch has a change of the alert that a panel shows."""
    key = (ALERT, filters.rule, filters.name)
    return any(isinstance(record.signal, Resource) and record.signal.key == key for record in batch)


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
DETAIL: Final = Panel(
    name="alert",
    title="Alert",
    template="alert.html",
    prepare=prepare_detail,
    is_affected=has_this_alert,
    filters=frozenset(("rule", "name")),
    parse=AlertFilters.from_query,
    min_interval=0.25,
    bare=True,
)
