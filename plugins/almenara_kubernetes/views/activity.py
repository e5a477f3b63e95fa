"""Events of Kubernetes, and the activity of one pod, workload or node."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import DataView
from almenara.signals import Event
from almenara_kubernetes.links import subject_url
from almenara_kubernetes.pod_filter import find_node
from almenara_kubernetes.settings import NAME
from almenara_kubernetes.views import Filters, Values

SERIES: Final = 60
EVENTS_READ: Final = 500
PAGES_READ: Final = 10
"""Pages of events that are searched for those of a namespace."""
EVENT_PREFIX: Final = "kubernetes.event."


async def events(view: DataView, filters: Filters) -> Values:
    """Events of Kubernetes, one row for each series: its newest count, first and last time."""
    query = {name: filters[name] for name in ("severity", "text", "since") if filters.get(name)}
    query["type"] = f"{EVENT_PREFIX}*"
    searched = 0
    if namespace := filters.get("namespace", ""):
        records, searched = await _events_in(view, namespace, query)
    else:
        records = await view.events(query, limit=EVENTS_READ)
    newest = _newest_of_series(records)
    return {
        "rows": [_event_row(sequence, event) for sequence, event in newest[:SERIES]],
        "more": max(0, len(newest) - SERIES),
        "searched": searched,
    }


async def _events_in(
    view: DataView, namespace: str, query: Mapping[str, str]
) -> tuple[Sequence[tuple[int, Event]], int]:
    """The newest events in a namespace, enough for the page; and the number of events that were
    searched where there may be older ones."""
    name = namespace.rpartition("/")[2]
    if not NAME.fullmatch(name):
        return [], 0
    # The index of words leads to the events that mention the namespace, however few they are.
    query = {**query, "text": f'"{name}" {query.get("text", "")}'.strip()}
    matches: list[tuple[int, Event]] = []
    before: int | None = None
    for _ in range(PAGES_READ):
        page = await view.events(query, limit=EVENTS_READ, before=before)
        matches += [pair for pair in page if _namespace(pair[1]) == namespace]
        if len(page) < EVENTS_READ or len(_newest_of_series(matches)) > SERIES:
            return matches, 0
        before = page[-1][0]
    return matches, PAGES_READ * EVENTS_READ


def _namespace(event: Event) -> str:
    """The namespace of an event. That of a node is its cluster, which is in its subject alone."""
    own = event.attributes.get("namespace", "")
    return own or event.subject.partition("/")[2].rpartition("/")[0]


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
    node = find_node(view, filters)
    namespace = node.namespace if node is not None else filters.get("namespace", "")
    subject = "/".join(filter(None, ("node", namespace, filters.get("name", ""))))
    return await _activity(view, {"subject": subject}, subject)


async def _activity(view: DataView, query: Mapping[str, str], about: str) -> Values:
    records = await view.events({**query, "type": "kubernetes.>"}, limit=EVENTS_READ)
    rows = [_event_row(sequence, event) for sequence, event in _newest_of_series(records)]
    rows.sort(key=lambda row: -row["last"])
    for row in rows:
        # The subject of the page is not repeated in every row.
        row["label"] = "" if row["subject"] == about else _drop_namespace(row["subject"])
    return {"rows": rows[:SERIES], "more": max(0, len(rows) - SERIES), "searched": 0}


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
