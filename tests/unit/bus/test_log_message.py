"""Batches in the messages of a shared log."""

import pytest
from hypothesis import given, strategies as st

from almenara.bus.log_message import (
    HEADER,
    MARK,
    MAX_OPEN_DISTANCE,
    LogBatch,
    PartAssembler,
    decode_batch,
    encode_batch,
    parse_part,
)
from almenara.bus.wire import from_wire, to_wire
from almenara.shared_log import LogMessage
from almenara.signals import Resource, Sample

BATCHES = st.builds(
    LogBatch,
    st.text(max_size=20),
    st.integers(0, 2**63),
    st.just([]),
    st.lists(
        st.tuples(st.text(max_size=9), st.text(max_size=9), st.binary(max_size=2_000) | st.none()),
        max_size=9,
    ),
)


def test_to_wire_keeps_large_integers() -> None:
    for signal in (
        Resource(kind="a", name="b", state={"n": 2**80}, time=1, origin="o"),
        Sample(kind="a", name="b", metric="m", value=0.5, time=1, origin="o"),
    ):
        assert from_wire(to_wire(signal)) == signal


@given(st.lists(BATCHES, min_size=1, max_size=4), st.integers(60, 400), st.randoms())
def test_assembler_joins_mixed_batches(batches, size, chance) -> None:
    parts = [
        encode_batch(batch, number.to_bytes(16, "big"), size)
        for number, batch in enumerate(batches)
    ]
    assert all(len(part) <= size for of_batch in parts for part in of_batch)
    order = [number for number, of_batch in enumerate(parts) for _ in of_batch]
    chance.shuffle(order)
    assembler, joined = PartAssembler(), {}
    for position, number in enumerate(order, 1):
        message = LogMessage(position, 0, parts[number].pop(0))
        if (completed := assembler.add(message)) is not None:
            assert completed[0] == number.to_bytes(16, "big")
            joined[number] = decode_batch(completed[1])
    assert joined == dict(enumerate(batches))
    assert assembler.resume_at(len(order)) == len(order) + 1


@given(st.binary(max_size=200), st.booleans())
def test_hostile_message_raises_only_value_errors(payload, has_mark) -> None:
    content = MARK + payload if has_mark else payload
    try:
        completed = PartAssembler().add(LogMessage(1, 0, content))
        if completed is not None:
            decode_batch(completed[1])
    except ValueError:
        pass


def test_parse_part_names_a_newer_format() -> None:
    with pytest.raises(ValueError, match="version 2 of the format; upgrade"):
        parse_part(HEADER.pack(b"ALM\x02", bytes(16), 0, 1))


def test_resume_at_is_the_first_part_of_what_is_incomplete() -> None:
    assembler = PartAssembler()
    for position, (batch, number, count) in enumerate([(1, 0, 1), (2, 0, 3), (3, 0, 2)], 7):
        payload = HEADER.pack(MARK, bytes([batch]) * 16, number, count)
        assembler.add(LogMessage(position, 0, payload))
    assert assembler.resume_at(9) == 8
    last = HEADER.pack(MARK, bytes([9]) * 16, 0, 1)
    assembler.add(LogMessage(8 + MAX_OPEN_DISTANCE, 0, last))
    assert assembler.resume_at(9) == 8
    assembler.add(LogMessage(10 + MAX_OPEN_DISTANCE, 0, last))
    assert assembler.resume_at(10 + MAX_OPEN_DISTANCE) == 11 + MAX_OPEN_DISTANCE


def make_part(position: int, batch: int, number: int, count: int) -> LogMessage:
    return LogMessage(position, 0, HEADER.pack(MARK, bytes([batch]) * 16, number, count) + b"x")


@pytest.mark.parametrize("start", range(1, 6))
def test_messages_that_are_read_again_open_no_batch_that_is_complete(start: int) -> None:
    log = [
        make_part(1, 1, 0, 2), make_part(2, 2, 0, 3), make_part(3, 1, 1, 2),
        make_part(4, 2, 1, 3), make_part(5, 2, 2, 3),
    ]  # fmt: skip
    assembler = PartAssembler()
    for message in log[start - 1 :]:
        assembler.add(message, is_repeated=True)
    assert assembler.resume_at(5) == 6


def test_messages_that_are_read_again_leave_open_what_is_incomplete() -> None:
    assembler = PartAssembler()
    assert assembler.add(make_part(7, 1, 0, 2), is_repeated=True) is None
    assert assembler.resume_at(7) == 7
    assert assembler.add(make_part(8, 1, 1, 2)) == (bytes([1]) * 16, b"xx")
