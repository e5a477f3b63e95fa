"""The timeline: jobs of the last hours as bars, with a row for each entrypoint."""

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from almenara.hookspecs import DataView, ResourceQuery
from almenara.sdk import now
from almenara.signals import UNKNOWN
from almenara.units import HOUR
from almenara_ray.durations import normalize_entrypoint
from almenara_ray.kinds import JOB
from almenara_ray.views.job_rows import decode_data, make_row, read_ends
from almenara_ray.views.jobs import CURRENT, CURRENT_LIMIT

SPANS: Final[Mapping[str, int]] = {"1h": 1, "3h": 3, "12h": 12, "48h": 48}
"""Hours of each span that can be chosen."""
DEFAULT_SPAN: Final = "1h"
END_LIMIT: Final = 400
ROW_LIMIT: Final = 16
LANE_LIMIT: Final = 5
"""Lanes of a row, in which runs at the same time are drawn above one another."""
WIDTH: Final = 1_000.0
LANE_HEIGHT: Final = 9
BAR_MARGIN: Final = 1
LEAST_WIDTH: Final = 3.0

Record = Mapping[str, Any]
Run = tuple[int, int, Record, str]
"""Start, end, record and status of a job."""


async def prepare_timeline(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the rows of bars for the filters `namespace` and `span`."""
    cluster, span = filters.get("namespace", ""), filters.get("span", "")
    span = span if span in SPANS else DEFAULT_SPAN
    last = now()
    first = last - SPANS[span] * HOUR
    query = ResourceQuery(kind=JOB, namespace=cluster, limit=CURRENT_LIMIT)
    records: list[tuple[Record, str]] = [
        (job.state, job.status) for job in data.resources(query) if job.status in CURRENT
    ]
    # What is unknown is drawn until it was last known.
    records += [
        ({**job.state, "ended": job.state.get("stale_since")}, job.status)
        for job in data.resources(query)
        if job.status == UNKNOWN
    ]
    ends = await read_ends(data, cluster, "", "", limit=END_LIMIT)
    for _, event in ends:
        record = decode_data(event)
        if (record.get("ended") or event.time) >= first:
            records.append((record, str(record.get("status", ""))))
    rows = lay_out(records, first, last)
    return {
        "rows": rows[:ROW_LIMIT],
        "more": max(len(rows) - ROW_LIMIT, 0),
        "cut": len(ends) == END_LIMIT,
        "drawn": END_LIMIT,
        "width": WIDTH,
        "ticks": [first + (last - first) * quarter // 4 for quarter in range(5)],
        "grid": [WIDTH * quarter / 4 for quarter in range(1, 4)],
        "spans": [
            {"name": name, "chosen": name == span, "link": _span_address(name, cluster)}
            for name in SPANS
        ],
    }


def _span_address(span: str, cluster: str) -> str:
    query = {"span": span, **({"namespace": cluster} if cluster else {})}
    return f"/panels/ray.timeline?{urlencode(query)}"


def lay_out(records: Iterable[tuple[Record, str]], first: int, last: int) -> list[dict[str, Any]]:
    """Return a row for each entrypoint of each cluster, the most recent first, with a bar for each
    run. Bars of a row do not overlap, unless more than `LANE_LIMIT` ran at the same time."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for record, status in records:
        start = int(record.get("submitted") or record.get("ended") or last)
        end = max(int(record.get("ended") or last), start)
        entrypoint = normalize_entrypoint(str(record.get("entrypoint", "")))
        name = entrypoint or str(record.get("id", ""))
        key = (str(record.get("cluster", "")), name)
        grouped.setdefault(key, []).append((start, end, record, status))
    rows = [
        _lay_out_row(cluster, name, runs, first, last) for (cluster, name), runs in grouped.items()
    ]
    rows.sort(key=lambda row: (-row["newest"], str(row["name"])))
    return rows


def _lay_out_row(cluster: str, name: str, runs: list[Run], first: int, last: int) -> dict[str, Any]:
    lane_ends: list[int] = []
    bars = [
        {**_place_bar(_find_lane(lane_ends, start, end), start, end, first, last),
         **make_row(record, status, last)}
        for start, end, record, status in sorted(runs, key=lambda run: run[0])
    ]  # fmt: skip
    return {
        "cluster": cluster,
        "name": name,
        "bars": bars,
        "height": len(lane_ends) * LANE_HEIGHT,
        "failed": sum(bar["status"] == "FAILED" for bar in bars),
        "newest": max(end for _, end, _, _ in runs),
    }


def _find_lane(lane_ends: list[int], start: int, end: int) -> int:
    """Return the first lane that is free at `start`, and mark it as used until `end`."""
    lane = next((lane for lane, free in enumerate(lane_ends) if free <= start), len(lane_ends))
    if lane == len(lane_ends) and lane < LANE_LIMIT:
        lane_ends.append(end)
    lane = min(lane, LANE_LIMIT - 1)
    lane_ends[lane] = max(lane_ends[lane], end)
    return lane


def _place_bar(lane: int, start: int, end: int, first: int, last: int) -> dict[str, float]:
    span = max(last - first, 1)
    left = max((start - first) / span, 0.0) * WIDTH
    right = min((end - first) / span, 1.0) * WIDTH
    return {
        "x": round(min(left, WIDTH - LEAST_WIDTH), 1),
        "width": round(max(right - left, LEAST_WIDTH), 1),
        "y": lane * LANE_HEIGHT + BAR_MARGIN,
        "height": LANE_HEIGHT - 2 * BAR_MARGIN,
    }
