import pytest

from almenara_nats.deliveries import (
    RequestLimits,
    Status,
    parse_delivery,
    parse_duration,
    parse_status,
)


@pytest.mark.parametrize("place", ["", "hub.ACCOUNTHASH."])
def test_delivery_is_parsed_with_and_without_domain(place: str) -> None:
    reply = f"$JS.ACK.{place}S.almenara.1.7.5.1795000000000000001.3".encode()
    delivery = parse_delivery(b"s.a", reply, b"{}", b"")
    assert delivery is not None
    assert (delivery.stream_sequence, delivery.consumer_sequence) == (7, 5)
    assert (delivery.time, delivery.pending) == (1795000000000000001, 3)


@pytest.mark.parametrize(
    "reply", [b"", b"_INBOX.x", b"$JS.ACK.S.almenara", b"$JS.ACK.a.b.c.d.e.f.g"]
)
def test_anything_else_is_not_a_delivery(reply: bytes) -> None:
    assert parse_delivery(b"s", reply, b"", b"") is None


def test_status_is_parsed() -> None:
    status = parse_status(b"NATS/1.0 409 Consumer Deleted\r\n\r\n")
    assert (status.code, str(status)) == (b"409", "Consumer Deleted")


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (b"Exceeded MaxRequestBatch of 100", (100, 30.0, 1000)),
        (b"Exceeded MaxRequestExpires of 1m30s", (500, 30.0, 1000)),
        (b"Exceeded MaxRequestExpires of 10s", (500, 10.0, 1000)),
        (b"Exceeded MaxRequestMaxBytes of 512", (500, 30.0, 512)),
    ],
)
def test_limits_are_lowered_to_those_of_the_server(
    description: bytes, expected: tuple[int, float, int]
) -> None:
    limits = RequestLimits(batch=500, expires=30.0, max_bytes=1000)
    assert limits.lower(Status(b"409", description))
    assert (limits.batch, limits.expires, limits.max_bytes) == expected


def test_other_statuses_change_no_limit() -> None:
    limits = RequestLimits(batch=500, expires=30.0, max_bytes=1000)
    assert not limits.lower(Status(b"409", b"Consumer Deleted"))
    for number in (b"many", b"9" * 5_000):
        assert not limits.lower(Status(b"409", b"Exceeded MaxRequestBatch of " + number))
    assert limits.lower(Status(b"409", b"Exceeded MaxRequestExpires of 1.1.1h"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("1m30s", 90), ("250ms", 0.25), ("", 0)]
)
def test_duration_of_go_is_parsed(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


def test_long_digits_without_a_unit_take_linear_time() -> None:
    # Quadratic time would take minutes.
    assert parse_duration("1" * 300_000) == 0
