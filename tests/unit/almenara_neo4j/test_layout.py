"""Positions: stable between updates, apart from each other, the same for the same graph."""

import itertools
import math

from hypothesis import given, settings, strategies as st

from almenara_neo4j.layout import Layout

NAMES = st.text(alphabet="abcdefgh", min_size=1, max_size=2)
EDGES = st.lists(st.tuples(NAMES, NAMES), max_size=40)


def names(edges: list[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(itertools.chain.from_iterable(edges)))


@settings(deadline=None, max_examples=40)
@given(EDGES, EDGES)
def test_nodes_stay_where_they_are(
    before: list[tuple[str, str]], added: list[tuple[str, str]]
) -> None:
    layout = Layout()
    layout.update(names(before), before)
    positions = dict(layout.positions)
    new = names(added)
    after = [*names(before), *(name for name in new if name not in positions)]
    layout.update(after, [*before, *added])
    assert set(layout.positions) == set(after)
    assert all(math.isfinite(value) for point in layout.positions.values() for value in point)
    if len(after) - len(positions) <= len(after) / 2:
        assert {name: layout.positions[name] for name in positions} == positions


def test_removed_nodes_are_forgotten_and_others_stay() -> None:
    layout = Layout()
    layout.update(["a", "b", "c"], [("a", "b"), ("b", "c")])
    before = dict(layout.positions)
    layout.update(["a", "c"], [])
    assert layout.positions == {name: before[name] for name in ("a", "c")}


def test_same_graph_has_the_same_layout() -> None:
    edges = [(f"n{number}", f"n{number // 3}") for number in range(1, 60)]
    first, second = Layout(), Layout()
    first.update(names(edges), edges)
    second.update(names(edges), edges)
    assert first.positions == second.positions


def test_nodes_of_a_large_graph_are_apart() -> None:
    edges = [(f"n{number}", f"n{number // 4}") for number in range(1, 300)]
    layout = Layout()
    layout.update([*names(edges), "alone"], edges)
    points = list(layout.positions.values())
    nearest = [
        min(math.dist(point, other) for other in points if other is not point) for point in points
    ]
    assert min(nearest) > 18
    assert sum(nearest) / len(nearest) > 35
