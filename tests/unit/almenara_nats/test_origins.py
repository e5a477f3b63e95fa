"""The origin of a message that was copied from another stream, as its header has it."""

import pytest

from almenara_nats.stream_reader import parse_origin


@pytest.mark.parametrize(
    ("header", "origin"),
    [
        ("ORDERS 7 > > orders.new", ("ORDERS", 7)),
        (f"ORDERS {2**64 - 1}", ("ORDERS", 2**64 - 1)),
        ("ORDERS:hash 7 > > orders.new", None),
        ("ORDERS", None),
        ("ORDERS x", None),
        ("ORDERS \u0667", None),
        ("ORDERS " + "9" * 5_000, None),
        ("", None),
    ],
)
def test_origin_of_a_header_is_a_stream_and_a_sequence(
    header: str, origin: tuple[str, int] | None
) -> None:
    assert parse_origin({"nats-stream-source": header}) == origin
