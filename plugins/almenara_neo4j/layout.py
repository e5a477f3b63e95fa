"""Positions of the nodes of a graph that change as it does, and otherwise stay where they are.

A new node is placed beside its neighbours, where there is space, and then moves by spring forces;
nodes that have a position keep it. Only a graph of which most nodes are new is laid out as a whole.
The same graph always has the same first layout.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

Point = tuple[float, float]

SPACING: Final = 80.0
"""The length of a relationship, in the units of the drawing."""
CELL: Final = 2 * SPACING
"""Nodes farther apart than this do not repel each other."""
ANGLES: Final = 16
RINGS: Final = (1.0, 1.5, 2.0, 2.6, 3.4, 4.4, 5.6)
"""Distances from its neighbours at which a new node may be placed, in spacings."""
ENOUGH: Final = 0.8 * SPACING
"""The distance to all others at which a place counts as free."""
ITERATIONS: Final = 60
RELAYOUT_SHARE: Final = 0.5
"""The share of new nodes above which all nodes may move."""
GOLDEN_ANGLE: Final = math.pi * (3 - math.sqrt(5))


class Grid:
    """Points by the cell of a grid that they are in, to find those near a place."""

    def __init__(self, positions: Mapping[str, Point]) -> None:
        self._cells: dict[tuple[int, int], dict[str, Point]] = {}
        for node, point in positions.items():
            self.put(node, point)

    def put(self, node: str, point: Point) -> None:
        self._cells.setdefault(_cell(point), {})[node] = point

    def move(self, node: str, before: Point, after: Point) -> None:
        self._cells[_cell(before)].pop(node, None)
        self.put(node, after)

    def near(self, point: Point) -> Iterable[tuple[str, Point]]:
        """The points in the cell of a point and in the eight around it."""
        column, row = _cell(point)
        for x in (column - 1, column, column + 1):
            for y in (row - 1, row, row + 1):
                cell = self._cells.get((x, y))
                if cell:
                    yield from cell.items()

    def clearance(self, point: Point) -> float:
        """The distance to the nearest point; `CELL` where none is that near."""
        x, y = point
        return min((math.hypot(x - a, y - b) for _, (a, b) in self.near(point)), default=CELL)


def _cell(point: Point) -> tuple[int, int]:
    return int(point[0] // CELL), int(point[1] // CELL)


class Layout:
    """The positions of one graph."""

    def __init__(self, positions: Mapping[str, Point] | None = None) -> None:
        self.positions: dict[str, Point] = dict(positions or {})

    def update(self, nodes: Sequence[str], edges: Iterable[tuple[str, str]]) -> None:
        """Give each of `nodes` a position, and forget those of all others."""
        present = set(nodes)
        self.positions = {node: point for node, point in self.positions.items() if node in present}
        new = [node for node in dict.fromkeys(nodes) if node not in self.positions]
        if not new:
            return
        neighbours: dict[str, set[str]] = {node: set() for node in nodes}
        for start, end in edges:
            if start in present and end in present and start != end:
                neighbours[start].add(end)
                neighbours[end].add(start)
        grid = Grid(self.positions)
        for node in _order(new, neighbours, self.positions):
            anchors = [self.positions[each] for each in neighbours[node] if each in self.positions]
            point = _place(node, anchors, grid)
            self.positions[node] = point
            grid.put(node, point)
        is_whole = len(new) > RELAYOUT_SHARE * len(nodes)
        self._relax(list(self.positions) if is_whole else new, neighbours, grid)

    def _relax(self, mobile: Sequence[str], neighbours: Mapping[str, set[str]], grid: Grid) -> None:
        """Move nodes by springs along relationships and repulsion of what is near."""
        positions = self.positions
        for iteration in range(ITERATIONS):
            limit = SPACING * 0.5 * (1 - iteration / ITERATIONS)
            for node in mobile:
                x, y = positions[node]
                force_x = force_y = 0.0
                for each in neighbours[node]:
                    a, b = positions[each]
                    distance = math.hypot(a - x, b - y) or 1.0
                    # Hubs have long springs, so that there is space around them.
                    length = SPACING * max(1.0, math.sqrt(len(neighbours[each])) / 2)
                    pull = (distance - length) / distance / max(len(neighbours[node]), 2)
                    force_x += (a - x) * pull
                    force_y += (b - y) * pull
                for other, (a, b) in grid.near((x, y)):
                    distance = math.hypot(x - a, y - b)
                    if other == node or distance >= CELL:
                        continue
                    if distance < 1.0:
                        a, b = a + _unit(node) - 0.5, b + _unit(other) - 0.5
                        distance = max(math.hypot(x - a, y - b), 0.1)
                    push = ((CELL - distance) / CELL) ** 2 * SPACING / distance
                    force_x += (x - a) * push
                    force_y += (y - b) * push
                length = math.hypot(force_x, force_y)
                if length < 0.5:
                    continue
                scale = min(length, limit) / length
                moved = (x + force_x * scale, y + force_y * scale)
                grid.move(node, (x, y), moved)
                positions[node] = moved


def _order(
    new: Sequence[str], neighbours: Mapping[str, set[str]], positions: Mapping[str, Point]
) -> list[str]:
    """New nodes in the order of a search from those placed, then from the best connected ones, so
    that as many as possible have a neighbour that is placed."""
    pending = dict.fromkeys(sorted(new, key=lambda node: (-len(neighbours[node]), node)))
    queue = [node for node in pending if any(each in positions for each in neighbours[node])]
    order: list[str] = []
    while pending:
        if not queue:
            queue = [next(iter(pending))]
        following: list[str] = []
        for node in queue:
            if node in pending:
                del pending[node]
                order.append(node)
                following += sorted(each for each in neighbours[node] if each in pending)
        queue = following
    return order


def _place(node: str, anchors: Sequence[Point], grid: Grid) -> Point:
    """A place beside the neighbours of a node or, without any, the free one nearest the centre."""
    turn = _unit(node) * 2 * math.pi
    if not anchors:
        number = 0
        while True:
            radius = SPACING * 0.7 * math.sqrt(number)
            angle = number * GOLDEN_ANGLE
            point = (radius * math.cos(angle) * 1.5, radius * math.sin(angle))
            if grid.clearance(point) >= 1.5 * SPACING:
                return point
            number += 1
    x = sum(point[0] for point in anchors) / len(anchors)
    y = sum(point[1] for point in anchors) / len(anchors)
    best, best_clearance = (x, y), grid.clearance((x, y))
    if best_clearance >= ENOUGH:
        return best
    for ring in RINGS:
        for number in range(ANGLES):
            angle = turn + 2 * math.pi * number / ANGLES
            radius = ring * SPACING
            point = (x + radius * math.cos(angle), y + radius * math.sin(angle))
            clearance = grid.clearance(point)
            if clearance >= ENOUGH:
                return point
            if clearance > best_clearance:
                best, best_clearance = point, clearance
    return best


def _unit(text: str) -> float:
    """A number from 0 to 1 for a name, the same in every process."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) / 0xFFFFFFFF
