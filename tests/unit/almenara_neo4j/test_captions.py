"""Captions of a drawing: none overlaps another, and the most important ones are drawn."""

import itertools
from typing import Any

from hypothesis import given, strategies as st

from almenara_neo4j.captions import FONT, LARGEST_FONT, choose_font, frame_caption, place_captions


def make_node(name: str, x: int, y: int, degree: int = 0, **values: Any) -> dict[str, Any]:
    return {
        "id": name, "x": x, "y": y, "radius": min(9 + degree, 18), "degree": degree,
        "short": f"Caption {name}", "change": "", "is_match": False, "is_centre": False, **values,
    }  # fmt: skip


PLACES = st.lists(
    st.tuples(st.integers(-400, 400), st.integers(-400, 400), st.integers(0, 40)), max_size=60
)


@given(PLACES, st.integers(FONT, LARGEST_FONT))
def test_captions_do_not_overlap(places: list[tuple[int, int, int]], font: int) -> None:
    nodes = [make_node(str(number), *place) for number, place in enumerate(places)]
    placed = place_captions(nodes, font)
    frames = [
        frame_caption(node, placed[node["id"]], font) for node in nodes if node["id"] in placed
    ]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(frames, 2))
    assert place_captions(nodes[::-1], font) == placed


def test_node_with_most_relationships_has_the_caption() -> None:
    few, many = make_node("few", 0, 0, 1), make_node("many", 50, 0, 9)
    other = make_node("other", 25, -40, 1)
    assert "many" in place_captions([few, many, other], FONT)
    # One relationship more does not exchange the places of captions.
    nodes = [make_node("a", 0, 0, 4), make_node("b", 50, 0, 5)]
    more = [nodes[0] | {"degree": 5, "radius": 13}, nodes[1] | {"degree": 4, "radius": 14}]
    below = [place_captions(each, FONT)["a"] > 0 for each in (nodes, more)]
    assert below == [True, True]


def test_caption_is_above_where_there_is_a_node_below() -> None:
    node, below, above = make_node("n", 0, 0), make_node("b", 0, 25), make_node("a", 0, -25)
    assert place_captions([node], FONT)["n"] > 0
    assert place_captions([node, below], FONT)["n"] < 0
    assert "n" not in place_captions([node, below, above], FONT)
    # What is searched, or has many relationships, is drawn over nodes.
    for important in ({"is_match": True}, {"degree": 5}):
        assert place_captions([node | important, below, above], FONT)["n"] > 0


def test_captions_are_larger_in_a_larger_drawing() -> None:
    assert choose_font(600, 300) == FONT
    assert FONT < choose_font(2_400, 1_300) < choose_font(4_000, 1_300) <= LARGEST_FONT
    assert choose_font(100_000, 100_000) == LARGEST_FONT
