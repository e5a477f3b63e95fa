"""Which nodes of a drawing have a caption: as many as fit without overlapping."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

SCREEN: Final = (1150, 640)
"""Width and height, in pixels, of the drawing in a page of a usual screen."""
FONT: Final = 11
"""Size of captions in pixels on such a screen, and their least size in units of the drawing."""
LARGEST_FONT: Final = 44
CHARACTER: Final = 0.58
"""Mean width of a character, in font sizes."""
WELL_CONNECTED: Final = 5
"""Relationships from which on a node is important."""
CELL: Final = 128
"""Side of the cells by which boxes are looked up, in units of the drawing."""


class Box(msgspec.Struct, frozen=True):
    """A rectangle in units of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: "Box") -> bool:
        """Whether the two have a point in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def cells(self) -> Iterable[tuple[int, int]]:
        """The cells that it extends over."""
        for column in range(int(self.left // CELL), int(self.right // CELL) + 1):
            for row in range(int(self.top // CELL), int(self.bottom // CELL) + 1):
                yield column, row


class Boxes:
    """Boxes with an owner each, which are looked up by place."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], list[tuple[str, Box]]] = {}

    def add(self, owner: str, box: Box) -> None:
        """Add a box."""
        for cell in box.cells():
            self._cells.setdefault(cell, []).append((owner, box))

    def is_free(self, owner: str, box: Box) -> bool:
        """Whether a box overlaps none of another owner."""
        return not any(
            other != owner and box.overlaps(each)
            for cell in box.cells()
            for other, each in self._cells.get(cell, ())
        )


def choose_font(width: float, height: float) -> int:
    """The size of captions that can be read in a drawing of this size, in its units: a browser
    scales it to fit the page."""
    scale = max(width / SCREEN[0], height / SCREEN[1])
    return min(max(round(FONT * scale), FONT), LARGEST_FONT)


def place_captions(nodes: Sequence[Mapping[str, Any]], font: int) -> dict[str, int]:
    """The vertical places of the captions that are drawn, by the ids of their nodes: what is
    searched, selected or new comes first, then the nodes with the most relationships.

    A caption is below or above its node, where it overlaps no other caption and no node. That of an
    important node overlaps nodes rather than being left out.
    """
    captions, circles = Boxes(), Boxes()
    for node in nodes:
        x, y, radius = node["x"], node["y"], node["radius"]
        circles.add(node["id"], Box(x - radius, y - radius, x + radius, y + radius))
    placed = {}
    for node in sorted(nodes, key=_rank):
        name, below, above = node["id"], place_below(node, font), node["y"] - node["radius"] - 4
        places = [y for y in (below, above) if captions.is_free(name, frame_caption(node, y, font))]
        free = [y for y in places if circles.is_free(name, frame_caption(node, y, font))]
        is_important = node["is_match"] or node["is_centre"] or node["degree"] >= WELL_CONNECTED
        y = next(iter([*free, *(places if is_important else [])]), None)
        if node["short"] and y is not None:
            captions.add(name, frame_caption(node, y, font))
            placed[name] = y
    return placed


def place_below(node: Mapping[str, Any], font: int) -> int:
    """The vertical place of a caption below its node."""
    return int(node["y"]) + int(node["radius"]) + font


def _rank(node: Mapping[str, Any]) -> tuple[bool, bool, bool, int, str]:
    # Degrees by powers of two: with each relationship more, other captions would be drawn.
    return (
        not node["is_centre"],
        not node["is_match"],
        node["change"] != "new",
        -int(node["degree"]).bit_length(),
        node["id"],
    )


def frame_caption(node: Mapping[str, Any], y: int, font: int) -> Box:
    """The box of the caption of a node whose baseline is at `y`."""
    half = len(node["short"]) * font * CHARACTER / 2
    return Box(node["x"] - half, y - 0.8 * font, node["x"] + half, y + 0.25 * font)
