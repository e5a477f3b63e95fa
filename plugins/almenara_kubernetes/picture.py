"""Pods as cells and numbers as lines: the geometry of small SVG pictures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from almenara.signals import Resource, Severity

TONES: Final = ("bad", "wait", "ok", "done")
"""How a pod fares, worst first: each has a colour and a shape of its own."""
TONE_OF: Final[Mapping[Severity, str]] = {
    Severity.DEBUG: "done", Severity.INFO: "ok", Severity.WARN: "wait",
    Severity.ERROR: "bad", Severity.FATAL: "bad",
}  # fmt: skip
WIDTH: Final = 160
GAP: Final = 2
SIDES: Final = ((0.1, 6), (0.5, 8), (2.0, 11))
LARGEST: Final = 15
"""Sides of cells by the cores that a pod asks for at most; one that asks for devices is large."""
CHART: Final = (600, 120)
PAUSE: Final = 6
"""A pause of so many usual steps between samples is drawn as one."""


class Cell(msgspec.Struct, frozen=True, gc=False):
    """A pod in a picture."""

    tone: str
    side: int
    pod: Resource


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Cells, drawn as one path for each tone, or each by itself where it is a link."""

    height: int
    paths: Sequence[tuple[str, str]]
    """Tone and path."""
    cells: Sequence[tuple[Resource, str, str]] = ()
    """Pod, tone and path."""
    left_out: int = 0
    """Cells that there was no room for; the worst are never among them."""


def cell(pod: Resource) -> Cell:
    """The cell of a pod."""
    cores = pod.state.get("cpu_request", 0.0)
    side = next((side for most, side in SIDES if cores <= most), LARGEST)
    if "devices" in pod.state:
        side = LARGEST
    return Cell(TONE_OF.get(pod.severity, "bad"), side, pod)


ORDER: Final = {tone: place for place, tone in enumerate(TONES)}


def drawn(cells: Iterable[Cell], *, room: int, each: bool) -> Picture:
    """The cells in rows, the worst and largest first, `room` of them at most; `each` makes a path
    of every one instead of one of every tone."""
    ordered = sorted(cells, key=lambda it: (ORDER[it.tone], -it.side))
    shown = ordered[:room]
    paths: dict[str, list[str]] = {}
    single: list[tuple[Resource, str, str]] = []
    x = y = tallest = 0
    for it in shown:
        if x + it.side > WIDTH:
            x, y, tallest = 0, y + tallest + GAP, 0
        path = _shape(it.tone, x, y, it.side)
        if each:
            single.append((it.pod, it.tone, path))
        else:
            paths.setdefault(it.tone, []).append(path)
        x += it.side + GAP
        tallest = max(tallest, it.side)
    return Picture(
        height=max(y + tallest, 1),
        paths=[(tone, "".join(parts)) for tone, parts in paths.items()],
        cells=single,
        left_out=len(ordered) - len(shown),
    )


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


def counted(pods: Iterable[Resource]) -> list[tuple[str, str, int]]:
    """Tone, status and how many pods have it, the worst and then the most first."""
    found = Counter((TONE_OF.get(it.severity, "bad"), it.status) for it in pods)
    return sorted(
        ((tone, status, count) for (tone, status), count in found.items()),
        key=lambda it: (ORDER[it[0]], -it[2], it[1]),
    )


def shares(counts: Sequence[tuple[str, str, int]], width: int = 100) -> list[dict[str, Any]]:
    """The parts of a bar that is `width` wide: where each begins, how wide it is, its tone."""
    total = sum(count for _, _, count in counts) or 1
    parts: list[dict[str, Any]] = []
    start = 0.0
    for tone in TONES:
        count = sum(one for its, _, one in counts if its == tone)
        if count:
            # What is bad is seen however few there are.
            wide = max(count / total * width, 1.5)
            parts.append({"tone": tone, "x": round(start, 1), "width": round(wide, 1)})
            start += wide
    return parts


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """A line over time, with levels it is measured against."""

    pieces: Sequence[str]
    """Points of the line, in pieces where samples are missing."""
    levels: Sequence[tuple[str, float, float]]
    """Name, value and height of each level."""
    top: float
    first: int
    last: int
    newest: float


def chart(points: Sequence[tuple[int, float]], levels: Mapping[str, float | None]) -> Chart | None:
    """The chart of samples; None where there are too few for a line."""
    if len(points) < 2:
        return None
    # They come in the order they were told, and some are told late.
    points = sorted(points)
    width, height = CHART
    known = {name: value for name, value in levels.items() if value}
    top = max(max(value for _, value in points), *known.values(), 1e-9) * 1.08
    first, last = points[0][0], points[-1][0]
    steps = sorted(after[0] - before[0] for before, after in pairwise(points))
    usual = steps[len(steps) // 2]

    def up(value: float) -> float:
        return round(height - max(value, 0.0) / top * height, 1)

    pieces: list[list[str]] = [[]]
    before = first
    for moment, value in points:
        if usual and moment - before > usual * PAUSE:
            pieces.append([])
        before = moment
        pieces[-1].append(f"{(moment - first) / max(last - first, 1) * width:.1f},{up(value)}")
    return Chart(
        pieces=[" ".join(piece) for piece in pieces if len(piece) > 1],
        levels=[(name, value, up(value)) for name, value in known.items()],
        top=top,
        first=first,
        last=last,
        newest=points[-1][1],
    )
