"""One alert: its chart, its lanes, its history, who was notified, and similar ones before."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from markupsafe import Markup

from almenara.alerting import ALERT
from almenara.alerting.model import STATUSES
from almenara.bus import Record
from almenara.history import Filter
from almenara.panels.builtin.alerts import AlertFilters, describe_alert, read_points
from almenara.panels.line_chart import HEIGHT, WIDTH, line_pieces, round_up
from almenara.panels.panel import Panel
from almenara.panels.view import View
from almenara.signals import Event, Resource, now
from almenara.units import MINUTE

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

TRANSITIONS: Final = 100
"""Transitions of an alert that its page shows."""
SIMILAR: Final = 6
ACTIVE: Final = frozenset(STATUSES) - {"pending", "resolved"}
"""The statuses of an alert that can be acknowledged."""
DELIVERIES: Final = 10
SCANNED_DELIVERIES: Final = 200


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
        row["runbook_html"] = render_runbook(row["runbook"])
    return {
        "alert": row,
        "action": "" if alert is None else choose_action(alert),
        "sees_rules": view.scope.sees_all_sources,
        "transitions": transitions,
        "chart": None if alert is None else make_chart(view, alert),
        "lanes": make_lanes(transitions),
        "deliveries": (
            await list_deliveries(view, f"{filters.rule}/{filters.name}") if filters.name else []
        ),
        "similar": await list_similar(view, filters.rule, transitions),
    }


def choose_action(alert: Resource) -> str:
    """Return the one of two actions that applies to an alert now; empty where neither does."""
    if alert.deleted or alert.status not in ACTIVE:
        return ""
    return "unacknowledge" if alert.state.get("by") else "acknowledge"


@cache
def create_markdown() -> "MarkdownIt":
    """Return what renders runbooks. Markup in them is text; links have http or https, or lead
    nowhere."""
    # Its 60 modules are imported by the first runbook, and not by each start.
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).disable("image")


def render_runbook(text: str) -> Markup:
    """Return a runbook in Markdown as HTML without any markup of its own; empty for an address."""
    if not text or text.startswith(("https://", "http://")):
        return Markup("")
    return Markup(create_markdown().render(text))  # noqa: S704 # nosec B704 # nosemgrep: markup-made-in-python # no raw HTML


def make_chart(view: View, alert: Resource) -> dict[str, Any] | None:
    """Return the chart of the series of an alert with its threshold; None for other alerts."""
    points = read_points(view, alert)
    if len(points) < 2:
        return None
    threshold = alert.state.get("threshold")
    values = [value for _, value in points]
    values += [threshold] if isinstance(threshold, int | float) else []
    first, last = points[0][0], max(points[-1][0], now())
    low, high = min(0.0, *values), round_up(max(values))

    def place(moment: int) -> float:
        return max(0.0, min((moment - first) / max(last - first, 1), 1.0)) * WIDTH

    started, ended = alert.state.get("started"), alert.state.get("ended")
    band = None
    if started:
        start = place(started)
        band = {"x": round(start, 1), "width": round(place(ended or last) - start, 1)}
    y = None
    if isinstance(threshold, int | float):
        y = round(HEIGHT - 1 - (threshold - low) / max(high - low, 1e-12) * (HEIGHT - 2), 1)
    return {
        "metric": alert.state["metric"], "pieces": line_pieces(points, first, last, low, high),
        "threshold": y, "band": band, "first": first, "last": last,
        "marks": [f"{mark:.4g}" for mark in (high, (low + high) / 2, low)],
    }  # fmt: skip


def make_lanes(transitions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a lane for each status that an alert has had, with the stretches of time in it.

    `transitions` are the newest first. Places and widths are parts of 1,000.
    """
    changes = [each for each in reversed(transitions) if each["status"] in STATUSES]
    if not changes:
        return []
    first = changes[0]["time"]
    is_over = changes[-1]["status"] == "resolved"
    last = max(changes[-1]["time"] + MINUTE if is_over else now(), first + 1)
    lanes: dict[str, list[dict[str, float]]] = {}
    for number, change in enumerate(changes):
        end = changes[number + 1]["time"] if number + 1 < len(changes) else last
        start = (change["time"] - first) / (last - first) * 1000
        width = max((end - change["time"]) / (last - first) * 1000, 2.0)
        stretch = {"x": round(start, 1), "width": round(width, 1)}
        lanes.setdefault(change["status"], []).append(stretch)
    return [
        {"status": status, "stretches": lanes[status]} for status in STATUSES if status in lanes
    ]


async def list_deliveries(view: View, key: str) -> list[dict[str, Any]]:
    """Return the last deliveries about an alert, and whether they arrived."""
    records = await view.history.events(
        Filter(type="almenara.notification.>", text=f'"{key}"'), limit=SCANNED_DELIVERIES
    )
    rows = []
    for record in records:
        event = record.signal
        data = _read_data(event)
        if isinstance(event, Event) and key in data.get("alerts", ()):
            rows.append({
                "sequence": record.sequence, "time": event.time,
                "receiver": data.get("receiver", ""), "result": event.type.rpartition(".")[2],
                "title": data.get("title", ""), "error": data.get("error", ""),
            })  # fmt: skip
    return rows[:DELIVERIES]


async def list_similar(
    view: View, rule: str, transitions: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the last alerts of the same rule that have ended, those of this alert included."""
    shown = {each["sequence"] for each in transitions[:1]}
    records = await view.history.events(
        Filter(type=f"{ALERT}.resolved", subject=f"{rule}/*"), limit=SIMILAR + 1
    )
    rows = []
    for record in records:
        data, event = _read_data(record.signal), record.signal
        if record.sequence in shown or not isinstance(event, Event):
            continue
        rows.append({
            "key": event.subject, "summary": data.get("annotations", {}).get("summary", rule),
            "started": data.get("started"), "ended": data.get("ended"),
        })  # fmt: skip
    return rows[:SIMILAR]


def _read_data(signal: Any) -> dict[str, Any]:
    data = signal.data if isinstance(signal, Event) else {}
    if isinstance(data, msgspec.Raw):
        data = msgspec.json.decode(data)
    return data if isinstance(data, dict) else {}


def describe_transition(record: Record) -> dict[str, Any]:
    """Return the values of a line of the history of an alert."""
    event = record.signal
    data = _read_data(event)
    return {
        "sequence": record.sequence,
        "time": event.time,
        "status": event.type.rpartition(".")[2] if isinstance(event, Event) else "",
        "severity": data.get("severity", "INFO"),
        "summary": data.get("annotations", {}).get("summary", ""),
        "by": data.get("by", ""),
        "assignee": data.get("assignee", ""),
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


def has_this_alert(batch: Sequence[Record], filters: AlertFilters) -> bool:
    """Whether a batch has a change of the alert that a panel shows."""
    key = (ALERT, filters.rule, filters.name)
    return any(isinstance(record.signal, Resource) and record.signal.key == key for record in batch)


DETAIL: Final = Panel(
    name="alert",
    title="Alert",
    template="alert.html",
    prepare=prepare_detail,
    is_affected=has_this_alert,
    filters=frozenset(("rule", "name")),
    parse=AlertFilters.from_query,
    min_interval=0.25,
    refresh=10.0,
    bare=True,
)
