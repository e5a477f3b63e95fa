"""How far a part of a graph extends, as the address has it."""

import pytest

from almenara_neo4j.drawing import MAX_HOPS, read_hops


@pytest.mark.parametrize(
    ("text", "hops"),
    [("2", 2), ("0", 1), ("999", MAX_HOPS), ("", 1), ("-2", 1), ("x", 1), ("9" * 5_000, 1)],
)
def test_hops_are_within_their_bounds(text: str, hops: int) -> None:
    assert read_hops(text) == hops
