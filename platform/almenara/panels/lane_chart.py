"""The picture of a story in lanes: marks that are too near to each other become one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.panels.formats import format_duration, format_time_of_day, format_timestamp
from almenara.panels.lanes import Bar, Fact, Lane
from almenara.units import DAY, HOUR, MINUTE, SECOND

LABEL_WIDTH: Final = 250
WIDTH: Final = 1200
PLOT_WIDTH: Final = WIDTH - LABEL_WIDTH - 20
LANE_HEIGHT: Final = 34
TOP: Final = 26
NEAREST: Final = 24.0
"""Units between two marks at least; nearer ones become a group."""
GROUP_WIDTH: Final = 18
MARK_RADIUS: Final = 6
LONGEST_LABEL: Final = 30
LEAST_BAR: Final = 2.0
TICKS: Final = 6
TICK_STEPS: Final = (
    1_000, 10_000, 100_000, SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 30 * SECOND, MINUTE,
    2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 6 * HOUR, 12 * HOUR, DAY,
    2 * DAY, 7 * DAY,
)  # fmt: skip


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """One event, or a group of events."""

    x: float
    first: Fact
    last: Fact
    count: int
    severity: str


class Scale(msgspec.Struct, frozen=True):
    """Where a time is on the plot."""

    since: int
    until: int

    def __call__(self, time: int) -> float:
        share = (time - self.since) / max(self.until - self.since, 1)
        return LABEL_WIDTH + min(max(share, 0.0), 1.0) * PLOT_WIDTH


def group_marks(facts: Sequence[Fact], scale: Scale) -> list[Mark]:
    """Return the marks of a lane; the events are in the order of time."""
    groups: list[list[Fact]] = []
    for fact in facts:
        if groups and scale(fact.event.time) - scale(groups[-1][0].event.time) < NEAREST:
            groups[-1].append(fact)
        else:
            groups.append([fact])
    return [
        Mark(
            # A group is beside its first event, so that neighbours do not overlap.
            x=scale(group[0].event.time) + (GROUP_WIDTH / 2 if len(group) > 1 else 0),
            first=group[0], last=group[-1], count=len(group),
            severity=max(fact.event.severity for fact in group).name,
        )
        for group in groups
    ]  # fmt: skip


def draw_lanes(
    lanes: Sequence[Lane],
    causes: Sequence[tuple[Fact, Fact]],
    since: int,
    until: int,
    link: Callable[[int, int], str],
) -> dict[str, Any]:
    """Return the values of `lanes.html`. `link` gives the address that zooms to a stretch."""
    scale = Scale(since, until)
    rows = []
    middles: dict[tuple[str, str, str], float] = {}
    for place, lane in enumerate(lanes):
        y = TOP + place * LANE_HEIGHT
        middles[lane.key] = y + LANE_HEIGHT / 2
        rows.append(_draw_lane(lane, y, scale, link))
    return {
        "lanes": rows,
        "width": WIDTH,
        "height": TOP + len(lanes) * LANE_HEIGHT + 4,
        "top": TOP,
        "label_width": LABEL_WIDTH,
        "lane_height": LANE_HEIGHT,
        "ticks": draw_ticks(scale),
        "causes": [_draw_cause(*pair, scale, middles) for pair in causes],
    }


def _draw_lane(
    lane: Lane, y: float, scale: Scale, link: Callable[[int, int], str]
) -> dict[str, Any]:
    title = lane.title
    return {
        "y": y,
        "middle": y + LANE_HEIGHT / 2,
        "title": title,
        "label": title if len(title) <= LONGEST_LABEL else f"{title[: LONGEST_LABEL - 1]}…",
        "kind": lane.kind or "origin",
        "is_related": lane.is_related,
        "bars": [
            _draw_bar(bar, y, scale)
            for bar in sorted(lane.bars, key=lambda bar: bar.since - bar.until)
            if bar.until >= scale.since and bar.since <= scale.until
        ],
        "marks": [_draw_mark(mark, link) for mark in group_marks(lane.facts, scale)],
    }


def _draw_bar(bar: Bar, y: float, scale: Scale) -> dict[str, Any]:
    x, end = scale(bar.since), scale(bar.until)
    length = format_duration((bar.until - bar.since) / SECOND)
    return {
        "x": round(x, 1),
        "width": round(max(end - x, LEAST_BAR), 1),
        "y": y + (11 if bar.is_status else 5),
        "height": LANE_HEIGHT - (22 if bar.is_status else 10),
        "severity": bar.severity.name,
        "sequence": bar.sequence,
        "title": f"{bar.title}, {length}",
    }


def _draw_mark(mark: Mark, link: Callable[[int, int], str]) -> dict[str, Any]:
    first, last = mark.first.event, mark.last.event
    if mark.count == 1:
        title = f"{first.type} {first.subject}".strip()
        return {
            "x": round(mark.x, 1), "count": 1, "severity": mark.severity,
            "sequence": mark.first.sequence, "link": f"/events/{mark.first.sequence}",
            "title": f"{format_time_of_day(first.time)} {title}",
        }  # fmt: skip
    return {
        "x": round(mark.x, 1),
        "count": mark.count,
        "severity": mark.severity,
        "sequence": 0,
        "link": link(first.time, last.time + 1),
        "title": f"{mark.count} events from {format_timestamp(first.time)} to"
        f" {format_timestamp(last.time)}, {first.type} the first",
    }


def _draw_cause(
    cause: Fact, effect: Fact, scale: Scale, middles: Mapping[tuple[str, str, str], float]
) -> str:
    """Return the path from a cause to its effect."""
    x, y = scale(cause.event.time - cause.duration), middles.get(cause.lane, TOP)
    to_x, to_y = scale(effect.event.time - effect.duration), middles.get(effect.lane, TOP)
    bend = max(abs(to_x - x) / 2, 14)
    # The head of the arrow is beside the mark.
    start, end = f"{x:.1f},{y:.1f}", f"{to_x - MARK_RADIUS - 1:.1f},{to_y:.1f}"
    return f"M{start}C{x + bend:.1f},{y:.1f} {to_x - bend:.1f},{to_y:.1f} {end}"


def draw_ticks(scale: Scale) -> list[dict[str, Any]]:
    """Return the lines of the time axis, at round times."""
    span = scale.until - scale.since
    step = next((step for step in TICK_STEPS if span / step <= TICKS), 30 * DAY)
    first = -(-scale.since // step) * step
    length = 12 if step < SECOND else 8
    times = range(first, scale.until + 1, step)
    texts = (
        format_time_of_day(time)[:length] if step < DAY else format_timestamp(time)[:10]
        for time in times
    )
    return [
        {"x": round(scale(time), 1), "time": time, "text": text}
        for time, text in zip(times, texts, strict=True)
    ]
