"""Events of Kubernetes, and the activity of one pod, workload or node."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import DataView
from almenara.signals import Event
from almenara_kubernetes.links import subject_url
from almenara_kubernetes.views import Filters, Values

SERIES: Final = 60
EVENTS_READ: Final = 500
EVENT_PREFIX: Final = "kubernetes.event."


async def events(view: DataView, filters: Filters) -> Values:
    """Events of Kubernetes, one row for each series: its newest count, first and last time."""
    query = {name: filters[name] for name in ("severity", "text", "since") if filters.get(name)}
    records = await view.events({**query, "type": f"{EVENT_PREFIX}*"}, limit=EVENTS_READ)
    namespace = filters.get("namespace", "")
    newest = _newest_of_series(
        [pair for pair in records if not namespace or _data(pair[1]).get("namespace") == namespace]
    )
    return {
        "rows": [_event_row(sequence, event) for sequence, event in newest[:SERIES]],
        "more": max(0, len(newest) - SERIES),
    }


async def pod_activity(view: DataView, filters: Filters) -> Values:
    """The transitions and events of one pod, newest first."""
    subject = f"pod/{filters.get('namespace', '')}/{filters.get('name', '')}"
    return await _activity(view, {"subject": subject}, subject)


async def workload_activity(view: DataView, filters: Filters) -> Values:
    """The transitions and events of a workload and everything that belongs to it."""
    kind, _, name = filters.get("name", "").partition("/")
    subject = f"{kind.lower()}/{filters.get('namespace', '')}/{name}"
    return await _activity(view, {"correlation": subject}, subject)


async def node_activity(view: DataView, filters: Filters) -> Values:
    """The transitions and events of a node."""
    subject = f"node/{filters.get('name', '')}"
    return await _activity(view, {"subject": subject}, subject)


async def _activity(view: DataView, query: Mapping[str, str], about: str) -> Values:
    records = await view.events({**query, "type": "kubernetes.>"}, limit=EVENTS_READ)
    rows = [_event_row(sequence, event) for sequence, event in _newest_of_series(records)]
    rows.sort(key=lambda row: -row["last"])
    for row in rows:
        # The subject of the page is not repeated in every row.
        row["label"] = "" if row["subject"] == about else _drop_namespace(row["subject"])
    return {"rows": rows[:SERIES], "more": max(0, len(rows) - SERIES)}


def _newest_of_series(events: Sequence[tuple[int, Event]]) -> list[tuple[int, Event]]:
    """The first of each series, which is its newest; events come newest first."""
    newest: dict[str, tuple[int, Event]] = {}
    for sequence, event in events:
        newest.setdefault(str(_data(event).get("series") or event.id), (sequence, event))
    return list(newest.values())


def _data(event: Event) -> Mapping[str, Any]:
    data = event.data
    if isinstance(data, msgspec.Raw):
        try:
            data = msgspec.json.decode(data)
        except msgspec.MsgspecError:
            return {}
    return data if isinstance(data, dict) else {}


def _event_row(sequence: int, event: Event) -> dict[str, Any]:
    data = _data(event)
    name = event.type.rpartition(".")[2].replace("_", " ")
    return {
        "sequence": sequence, "event": event, "severity": event.severity.name,
        "reason": data.get("reason") or name, "message": data.get("message", ""),
        "count": data.get("count", 1), "first": data.get("first"),
        "last": data.get("last") or event.time,
        "subject": event.subject, "label": event.subject, "link": subject_url(event.subject),
        "is_transition": not event.type.startswith(EVENT_PREFIX), "type": name, "data": data,
    }  # fmt: skip


def _drop_namespace(subject: str) -> str:
    kind, _, rest = subject.partition("/")
    return f"{kind}/{rest.rpartition('/')[2]}"
