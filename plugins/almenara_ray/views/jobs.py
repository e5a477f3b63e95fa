"""The panel of jobs: unfinished ones first, then a page of those that ended, from history."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from almenara.hookspecs import DataView, ResourceQuery
from almenara.sdk import now
from almenara.signals import UNKNOWN, Event, Resource, Severity
from almenara_ray.kinds import CLUSTER, END_EVENTS, JOB, JOB_STATUSES
from almenara_ray.views.job_rows import end_filter, make_event_row, make_row, read_ends
from almenara_ray.views.links import page_address

CURRENT: Final = ("RUNNING", "PENDING")
STATUSES: Final = (*CURRENT, *END_EVENTS)
ALWAYS_VISIBLE: Final = ("RUNNING", "FAILED")
PAGE_SIZE: Final = 25
COUNT_LIMIT: Final = 1_000
CLUSTER_LIMIT: Final = 2_000
CURRENT_LIMIT: Final = 20_000
"""Jobs among which those that run or wait are searched; the others have ended."""


def list_unknown_clusters(data: DataView) -> dict[str, int]:
    """Return the clusters whose jobs are unknown now, with the time they were last known."""
    return {
        cluster.name: cluster.state.get("jobs_known_at") or cluster.time or 0
        for cluster in data.resources(ResourceQuery(kind=CLUSTER, limit=CLUSTER_LIMIT))
        if cluster.status in ("stale", "down") or cluster.state.get("jobs") is None
    }


async def prepare_jobs(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the jobs that pass the filters `namespace`, `status` and `text`, of the page that
    `before`, a sequence, starts."""
    cluster, text = filters.get("namespace", ""), filters.get("text", "").strip()
    status = filters.get("status", "").upper()
    before = _parse_sequence(filters.get("before", ""))
    moment, unknown = now(), list_unknown_clusters(data)
    query = ResourceQuery(kind=JOB, namespace=cluster, limit=CURRENT_LIMIT)
    current = [
        job
        for job in data.resources(query)
        if job.status in (*CURRENT, UNKNOWN) and contains_words(job, text)
    ]
    visible = [job for job in current if not status or last_status(job) == status]
    visible.sort(
        key=lambda job: (last_status(job) != "RUNNING", -int(job.state.get("submitted") or 0))
    )
    ended: list[tuple[int, Event]] = []
    problem = ""
    if status not in CURRENT:
        try:
            ended = await read_ends(data, cluster, status, text, before=before, limit=PAGE_SIZE + 1)
        except ValueError as error:
            problem = str(error)
    older = ended[PAGE_SIZE - 1][0] if len(ended) > PAGE_SIZE else None
    chosen = {"namespace": cluster, "status": status, "text": text}
    return {
        "current": []
        if before is not None
        else [_make_current_row(job, unknown.get(job.namespace), moment) for job in visible],
        "ended": [make_event_row(event, moment) for _, event in ended[:PAGE_SIZE]],
        "chips": await _make_chips(data, current, chosen, unknown),
        "older": page_address("ray", **chosen, before=str(older)) if older is not None else "",
        "newest": page_address("ray", **chosen) if before is not None else "",
        "several": len(data.resources(ResourceQuery(kind=CLUSTER))) > 1,
        "problem": problem,
    }


def _make_current_row(job: Resource, known_at: int | None, moment: int) -> dict[str, Any]:
    # The duration of a job that is unknown since some time does not go on.
    known_at = job.state.get("stale_since") or known_at
    return {**make_row(job.state, last_status(job), known_at or moment), "known_at": known_at}


def last_status(job: Resource) -> str:
    """Return the status of a job, of an unknown one the last that was known."""
    return str(job.state.get("last_status") or job.status)


async def _make_chips(
    data: DataView,
    current: list[Resource],
    chosen: Mapping[str, str],
    unknown: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Return a chip with its count for each status, which filters by it; `unknown` are the clusters
    whose jobs are not counted as running or pending."""
    counts = {
        name: sum(job.status == name and job.namespace not in unknown for job in current)
        for name in CURRENT
    }
    for name in END_EVENTS:
        event_filter = end_filter(name, chosen["namespace"], "")
        counts[name] = await data.count(event_filter, limit=COUNT_LIMIT)
    unsure = sum(chosen["namespace"] in ("", cluster) for cluster in unknown)
    return [
        {
            "name": name,
            "unknown": unsure if name in CURRENT else 0,
            "severity": JOB_STATUSES.get(name, Severity.INFO).name,
            "count": counts[name],
            "more": name in END_EVENTS and counts[name] >= COUNT_LIMIT,
            "chosen": name == chosen["status"],
            "link": page_address(
                "ray", **{**chosen, "status": "" if name == chosen["status"] else name}
            ),
        }
        for name in STATUSES
        if counts[name] or name == chosen["status"] or name in ALWAYS_VISIBLE
    ]


def _parse_sequence(text: str) -> int | None:
    # A sequence is an integer of 64 bits in the database.
    return int(text) if text.isdecimal() and len(text) < 19 else None


def contains_words(resource: Resource, text: str) -> bool:
    """Return whether a job contains all words of a search."""
    content = f"{resource.name} {msgspec.json.encode(resource.state).decode()}".casefold()
    return all(word.strip('"*') in content for word in text.casefold().split())
