"""Pods as cells and as parts of a bar: the geometry of small SVG pictures."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

import msgspec

from almenara.signals import Resource, Severity

TONES: Final = ("bad", "wait", "ok", "done")
"""The tones of pods, worst first: each has a colour and a shape of its own. The interface calls
them failing, pending, ready and completed."""
TONE_OF: Final[Mapping[Severity, str]] = {
    Severity.DEBUG: "done", Severity.INFO: "ok", Severity.WARN: "wait",
    Severity.ERROR: "bad", Severity.FATAL: "bad",
}  # fmt: skip
SEVERITY_AND_STATUS: Final = attrgetter("severity", "status")
ORDER: Final = {tone: place for place, tone in enumerate(TONES)}
WIDTH: Final = 160
GAP: Final = 2
MOST: Final = (0.1, 0.5, 2.0)
"""Upper bounds of requested cores."""
LARGEST: Final = 15
"""The side of a cell beyond, and of pods that request devices."""
SIDES: Final = (6, 8, 11, LARGEST)
"""The side of a cell up to each bound."""
RANKS: Final = LARGEST + 1
"""Ranks of a tone: see `rank_cell`."""
REMEMBERED_CELLS: Final = 128
REMEMBERED_PICTURES: Final = 2_048
"""Pictures of so many cells at most that stay in memory, which takes 4 MB at most: few pods change
between two renders, or between two moments."""


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Cells, drawn as one path for each tone, or as one for each pod where each is a link."""

    height: int
    paths: Sequence[tuple[str, str]]
    """Tone and path."""
    cells: Sequence[tuple[Resource, str, str]] = ()
    """Pod, tone and path."""
    left_out: int = 0
    """Cells without room; the worst are never among them."""


def rank_cell(pod: Resource) -> int:
    """The rank of a pod's cell: by tone, the worst first, and then by side, the largest first."""
    state = pod.state
    if "devices" in state:
        side = LARGEST
    else:
        side = SIDES[bisect_left(MOST, state.get("cpu_request", 0.0))]
    return ORDER[TONE_OF.get(pod.severity, "bad")] * RANKS - side


def draw_cells(pods: Sequence[Resource], *, room: int, each: bool) -> Picture:
    """Arrange the cells of pods in rows, the worst and largest first, `room` of them at most.

    `each` makes a path for every cell instead of one for every tone.
    """
    if each:
        ordered = sorted(pods, key=rank_cell)
        height, shapes = _arrange(map(rank_cell, ordered[:room]))
        cells = [(pod, tone, path) for pod, (tone, path) in zip(ordered, shapes, strict=False)]
        return Picture(height=height, paths=(), cells=cells, left_out=max(len(ordered) - room, 0))
    counts = tuple(sorted(Counter(map(rank_cell, pods)).items()))
    draw = _draw_remembered if len(pods) <= REMEMBERED_CELLS else _draw_counts
    return draw(counts, min(room, len(pods)))


def _draw_counts(counts: tuple[tuple[int, int], ...], room: int) -> Picture:
    """Draw so many cells of each rank, with one path for every tone."""
    ranks = [rank for rank, count in counts for _ in range(count)]
    paths: dict[str, list[str]] = {}
    height, shapes = _arrange(ranks[:room])
    for tone, path in shapes:
        paths.setdefault(tone, []).append(path)
    return Picture(
        height=height,
        paths=[(tone, "".join(parts)) for tone, parts in paths.items()],
        left_out=len(ranks) - room,
    )


_draw_remembered = lru_cache(REMEMBERED_PICTURES)(_draw_counts)


def _arrange(ranks: Iterable[int]) -> tuple[int, list[tuple[str, str]]]:
    """Return the height of a picture, and the tone and path of each of its cells."""
    shapes: list[tuple[str, str]] = []
    x = y = tallest = 0
    for rank in ranks:
        place = -(-rank // RANKS)
        tone, side = TONES[place], place * RANKS - rank
        if x + side > WIDTH:
            x, y, tallest = 0, y + tallest + GAP, 0
        shapes.append((tone, _shape(tone, x, y, side)))
        x += side + GAP
        tallest = max(tallest, side)
    return max(y + tallest, 1), shapes


def _shape(tone: str, x: int, y: int, side: int) -> str:
    if tone == "bad":
        half = side / 2
        return f"M{x + half:g} {y}l{half:g} {half:g}-{half:g} {half:g}-{half:g}-{half:g}z"
    if tone == "wait":
        return f"M{x} {y + side}h{side}l-{side / 2:g}-{side}z"
    if tone == "done":
        # An outline, a unit wide.
        return f"M{x} {y}h{side}v{side}h-{side}zm1 1v{side - 2}h{side - 2}v-{side - 2}z"
    return f"M{x} {y}h{side}v{side}h-{side}z"


def display_status(pod: Resource) -> str:
    """The status of a pod among others: one that runs and is not ready is `NotReady`.

    kubectl prints `Running` for both, beside a column of its own.
    """
    return _display_status(pod.severity, pod.status)


def _display_status(severity: Severity, status: str) -> str:
    return "NotReady" if status == "Running" and severity == Severity.WARN else status


def count_statuses(pods: Iterable[Resource]) -> list[tuple[str, str, int]]:
    """Tone, status and number of pods, the worst and then the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    for (severity, status), count in Counter(map(SEVERITY_AND_STATUS, pods)).items():
        counts[TONE_OF.get(severity, "bad"), _display_status(severity, status)] += count
    return sorted(
        ((tone, status, count) for (tone, status), count in counts.items()),
        key=lambda row: (ORDER[row[0]], -row[2], row[1]),
    )


def draw_bar(counts: Sequence[tuple[str, str, int]], width: int = 100) -> list[dict[str, Any]]:
    """The parts of a bar of a width: the start, width and tone of each."""
    total = sum(count for _, _, count in counts) or 1
    parts: list[dict[str, Any]] = []
    start = 0.0
    for tone in TONES:
        count = sum(count for part_tone, _, count in counts if part_tone == tone)
        if count:
            # Few failing pods stay visible among many.
            part_width = max(count / total * width, 1.5)
            parts.append({"tone": tone, "x": round(start, 1), "width": round(part_width, 1)})
            start += part_width
    return parts
