"""What changed between two moments: resources that were created, deleted or changed, and events."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Final

from litestar import Response, get
from litestar.di import NamedDependency

from almenara.history import Filter
from almenara.panels.changes import Difference, describe_value, find_differences
from almenara.panels.event_rows import event_row, link_to_events
from almenara.panels.formats import encode_query
from almenara.panels.time_window import parse_period
from almenara.panels.view import View
from almenara.signals import Severity, now
from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.layout import PageRequest, render_page
from almenara.web.services import Services
from almenara.web.time_control import RANGES, to_text

ROWS: Final = 20
"""Differences of a kind that the page lists."""
ROWS_ALONE: Final = 2_000
"""The same for a page of one kind."""
EVENTS: Final = 50
EVENT_LIMIT: Final = 10_000
FIELDS: Final = ("created", "deleted")


@get("/changes", name="changes", opt=VIEWER, include_in_schema=False)
async def changes(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render what changed between `since` and `until`; by default in the last hour."""
    view = scoped_view(services, request)
    earliest = find_earliest(view)
    query = {name: text.strip()[:200] for name, text in request.query_params.items()}
    since, until, problem, requested_since = read_moments(view, query)
    kind, namespace = query.get("kind", ""), query.get("namespace", "")
    differences, gap = await find_differences(view, since, until, kind, namespace)
    groups: dict[str, list[Difference]] = defaultdict(list)
    for difference in differences:
        groups[difference.kind].append(difference)
    counts = Counter(each.what if each.what in FIELDS else "changed" for each in differences)
    events = Filter(since=since, until=until)
    records = await view.history.events(events, limit=EVENTS, is_preview=True)
    times = {"since": to_text(since), "until": to_text(until)}
    at = {"at": times["until"]} if query.get("at") else {}
    chosen = {name: query[name] for name in ("kind", "namespace") if query.get(name)} | at
    limit = ROWS_ALONE if kind else ROWS
    return render_page(
        services,
        request,
        "changes_page.html",
        {
            "since": since,
            "until": until,
            "since_text": times["since"],
            "until_text": times["until"],
            "problem": problem or gap,
            "kind": kind,
            "namespace": namespace,
            "kinds": view.resources.kinds(),
            "counts": {name: counts[name] for name in (*FIELDS, "changed")},
            "event_count": await view.history.count(events, limit=EVENT_LIMIT),
            "event_limit": EVENT_LIMIT,
            "events_link": link_to_events(since=since, until=until),
            "ranges": [
                (label, "/changes" + encode_query({"range": text, **chosen}))
                for label, text in RANGES
            ],
            "is_past": bool(at),
            "earliest": earliest if since > requested_since else None,
            "before_link": "/" + encode_query({"at": times["since"]}),
            "after_link": "/" + encode_query({"at": times["until"]}),
            "rows": [event_row(record) for record in records],
            "groups": [
                {
                    **describe_group(name, rows, limit),
                    "is_open": bool(kind) or has_problem(rows),
                    "link": "/changes"
                    + encode_query({**times, "kind": name, "namespace": namespace}),
                }
                for name, rows in sorted(
                    groups.items(), key=lambda group: (not has_problem(group[1]), group[0])
                )
            ],
        },
        name="changes",
        title="What changed",
        status_code=400 if problem or gap else 200,
    )


def read_moments(view: View, query: dict[str, str]) -> tuple[int, int, str, int]:
    """Return the two moments of an address, or the nearest valid ones, what is wrong, and the
    start as the address has it."""
    moment, earliest = now(), find_earliest(view)
    parsed = parse_period(query, now=moment, earliest=earliest)
    since, until = parsed.window.bounds(moment)
    first = since
    problem = parsed.message
    if earliest is not None and since < earliest:
        # Of a stretch that starts before the stored past, what is stored is displayed.
        since = min(earliest, until - 1)
    return since, max(until, since + 1), problem, first


def find_earliest(view: View) -> int | None:
    """Return the start of the stored past; None where it is not known."""
    return None if view.resources.recorder is None else view.resources.recorder.earliest


def has_problem(differences: Sequence[Difference]) -> bool:
    """Whether a resource has a problem at the later moment."""
    return any(difference.severity >= Severity.WARN for difference in differences)


def describe_group(kind: str, differences: Sequence[Difference], limit: int) -> dict[str, Any]:
    """Return the values of a kind of resource: how many differ in what, and the first rows, those
    with a problem first."""
    counts = Counter(difference.what for difference in differences)
    first = sorted(differences, key=lambda difference: -difference.severity)[:limit]
    return {
        "kind": kind,
        "count": len(differences),
        "summary": ", ".join(f"{count:,} {what}" for what, count in counts.most_common()),
        "rows": [describe_difference(difference) for difference in first],
        "more": max(len(differences) - limit, 0),
    }


def describe_difference(difference: Difference) -> dict[str, Any]:
    """Return the values of a row."""
    return {
        "namespace": difference.namespace,
        "name": difference.name,
        "what": difference.what,
        "before": describe_value(difference.before),
        "after": describe_value(difference.after),
        "severity": difference.severity.name,
        "events_link": link_to_events(subject=difference.name),
    }
