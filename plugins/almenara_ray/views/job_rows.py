"""Jobs as rows of a list: the current ones from resources, those that ended from history."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from almenara.hookspecs import DataView
from almenara.signals import UNKNOWN, Event, Severity
from almenara.units import SECOND
from almenara_ray.kinds import END_EVENTS, JOB_STATUSES
from almenara_ray.views.links import job_address

SLOW: Final = 1.5
"""A job is marked once it takes this many times its median duration; a running one is overdue."""


def decode_data(event: Event) -> dict[str, Any]:
    """Return the data of an event of this plugin; empty where it is not an object."""
    data = event.data
    if isinstance(data, msgspec.Raw):
        data = msgspec.json.decode(data)
    return data if isinstance(data, dict) else {}


def end_filter(status: str, cluster: str, text: str) -> dict[str, str]:
    """Return the event filter for jobs that ended with a status, in one cluster or in all."""
    event_type = END_EVENTS[status]
    # The origin of an end names its cluster and its type, so that one index serves both conditions.
    event_filter = {"type": event_type}
    if cluster:
        event_filter = {"origin": f"ray/{cluster}/{event_type.rpartition('.')[2]}"}
    if text:
        event_filter["text"] = text
    return event_filter


async def read_ends(
    data: DataView, cluster: str, status: str, text: str, *, before: int | None = None, limit: int
) -> list[tuple[int, Event]]:
    """Return the last ends of jobs with their sequence, newest first.

    Raises `ValueError` for a text that is not a valid search.
    """
    ends: list[tuple[int, Event]] = []
    # One query per type: each follows its index from the newest entry, however long history is.
    for end in [status] if status in END_EVENTS else END_EVENTS:
        ends += await data.events(end_filter(end, cluster, text), limit=limit, before=before)
    ends.sort(key=lambda end: -end[0])
    return ends[:limit]


def make_event_row(event: Event, moment: int) -> dict[str, Any]:
    """Return the row of a job that ended, from the event of its end."""
    record = decode_data(event)
    status = str(record.get("status") or event.type.rpartition(".")[2].upper())
    return make_row(record, status, moment)


def make_row(record: Mapping[str, Any], status: str, moment: int) -> dict[str, Any]:
    """Return the row of a job from its record, which resources and events share.

    `known_at` is for the caller to set where the job is unknown since some time.
    """
    name, cluster = str(record.get("id", "")), str(record.get("cluster", ""))
    submitted, ended = record.get("submitted") or 0, record.get("ended")
    median = record.get("median")
    seconds = ((ended or moment) - submitted) / SECOND if submitted else None
    ratio = seconds / median if seconds is not None and median else None
    is_slow = ratio is not None and ratio > SLOW
    is_overdue = is_slow and ended is None
    severity = Severity.WARN if status == UNKNOWN else JOB_STATUSES.get(status, Severity.INFO)
    return {
        "name": name,
        "link": job_address(cluster, name),
        "cluster": cluster,
        "status": status,
        "severity": (Severity.WARN if is_overdue or record.get("stuck") else severity).name,
        "entrypoint": record.get("entrypoint", ""),
        "driver": bool(record.get("driver")),
        "submitted": submitted or None,
        "ended": ended,
        "known_at": None,
        "seconds": seconds,
        "median": median,
        "ratio": ratio,
        # The bar is as wide as twice the median, so that a usual run fills half of it.
        "bar": round(min(ratio / 2, 1.0) * 100, 1) if ratio is not None else None,
        "slow": is_slow,
        "overdue": is_overdue,
        "reason": record.get("reason", ""),
        "message": record.get("message", "") if status == "PENDING" else "",
    }
