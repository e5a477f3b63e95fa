"""The newest records in memory."""

from unittest.mock import patch

from hypothesis import given, strategies as st

from almenara.bus import Record
from almenara.bus.codec import normalize
from almenara.bus.tail import Tail
from support.bus import make_event


@given(
    st.lists(st.lists(st.integers(1, 3), max_size=9), max_size=9),
    st.integers(1, 12),
    st.integers(1, 4),
)
def test_tail_has_all_records_after_its_start(
    batches: list[list[int]], bound: int, part: int
) -> None:
    signal = normalize(make_event(1), "x")
    with (
        patch("almenara.bus.tail.MAX_SIGNALS", bound),
        patch("almenara.bus.tail.PART_SIGNALS", part),
    ):
        tail = Tail(0)
        stored: list[Record] = []
        sequence = 0
        for steps in batches:
            batch = []
            for step in steps:
                sequence += step
                batch.append(Record(sequence, signal))
            tail.extend(batch)
            stored += batch
        for after in range(sequence + 2):
            records = tail.after(after)
            if records is None:
                # No more than a part beyond the bound is left out.
                assert sum(record.sequence > after for record in stored) > bound - part
            else:
                assert records == [record for record in stored if record.sequence > after]
        assert tail.after(sequence) is not None


def test_tail_is_bounded_in_bytes() -> None:
    records = [
        Record(number, normalize(make_event(number, data="x" * 100_000), "x"))
        for number in range(1, 101)
    ]
    tail = Tail(0)
    tail.extend(records[:90])
    tail.extend(records[90:])
    assert tail.after(0) is None
    assert tail.after(90) == records[90:]
