"""Chunks of samples and rollups: what is written is what is read."""

from collections import defaultdict

import pytest
from hypothesis import given, strategies as st

from almenara.state.rollups import LONGEST_STEP, add_floats, coarsen, join, roll_up
from almenara.state.sample_codec import (
    DamagedChunkError,
    Points,
    Rollups,
    decode_points,
    decode_rollups,
    encode_points,
    encode_rollups,
    scale_values,
)

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(10**12), 10**12).map(lambda number: number / 1e9),
    st.integers(-(2**62), 2**62).map(float),
    st.integers(0, 40).map(lambda number: number * 1024.0),
)
TIMES = st.lists(st.integers(-(2**53), 2**53), unique=True, max_size=60).map(sorted)
COUNTERS = st.lists(st.integers(0, 50), min_size=1, max_size=60)


@st.composite
def points(draw: st.DrawFn) -> Points:
    times = draw(TIMES)
    of_a_kind = draw(st.sampled_from((NUMBERS, st.integers(0, 9).map(float))))
    values = draw(st.lists(of_a_kind, min_size=len(times), max_size=len(times)))
    return Points(times, values)


@given(points())
def test_chunk_of_samples_is_read_as_written(written: Points) -> None:
    assert decode_points(encode_points(written)) == written


@given(points(), st.integers(1, 10**7))
def test_chunk_of_rollups_is_read_as_written(written: Points, width: int) -> None:
    rollups = roll_up(written, width)
    assert decode_rollups(encode_rollups(rollups)) == rollups


@given(points(), st.data())
def test_changed_byte_of_a_chunk_is_an_error(written: Points, data: st.DataObject) -> None:
    chunk = bytearray(encode_points(written))
    place = data.draw(st.integers(0, len(chunk) - 1))
    chunk[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedChunkError):
        decode_points(bytes(chunk))
    with pytest.raises(DamagedChunkError):
        decode_points(bytes(chunk[:place]))


def test_decimal_values_are_scaled_and_others_are_not() -> None:
    assert scale_values([0.013472, 1.5, 2.0]) == (6, [13472, 1500000, 2000000])
    assert scale_values([0.1 + 0.2, 1.0]) is None
    assert scale_values([2.0**60]) is None
    assert scale_values([]) == (0, [])


def test_usage_takes_less_than_four_bytes_a_sample() -> None:
    times = [1_760_000_000_000 + 15_000 * number for number in range(480)]
    cores = [((number * 7919) % 4_000_000 + 12_000_000) / 1e9 for number in range(480)]
    assert len(encode_points(Points(times, cores))) < 4 * 480


@given(points(), st.integers(1, 10**9))
def test_rollups_are_plain_arithmetic(samples: Points, width: int) -> None:
    buckets = defaultdict[int, list[float]](list)
    for time, value in zip(samples.times, samples.values, strict=True):
        buckets[time // width * width].append(value)
    rollups = roll_up(samples, width)
    assert rollups.times == sorted(buckets)
    ordered = [buckets[time] for time in rollups.times]
    assert rollups.lows == [min(values) for values in ordered]
    assert rollups.highs == [max(values) for values in ordered]
    assert rollups.counts == [len(values) for values in ordered]
    assert rollups.totals == pytest.approx(
        [add_floats(values) for values in ordered], rel=1e-9, abs=1e-6
    )


@given(COUNTERS, st.integers(1, 20), st.sampled_from((None, (-15_000, 3.0))))
def test_counter_rises_by_its_steps_and_starts_over_at_a_reset(
    steps: list[int], width: int, before: tuple[int, float] | None
) -> None:
    values, reset_at = [float(sum(steps[: end + 1])) for end in range(len(steps))], len(steps) // 2
    values[reset_at:] = [value - values[reset_at] for value in values[reset_at:]]
    times = [15_000 * number for number in range(len(steps))]
    rollups = roll_up(Points(times, values), 15_000 * width, before)
    previous = None if before is None else before[1]
    expected = defaultdict[int, float](float)
    for time, value in zip(times, values, strict=True):
        if previous is not None:
            expected[time // (15_000 * width)] += value - previous if value >= previous else value
        previous = value
    falls = rollups.increases is None
    if not falls:
        assert rollups.increases == [expected[time // (15_000 * width)] for time in rollups.times]
    assert not falls or before is not None


def test_rise_over_a_long_pause_is_unknown() -> None:
    times = [0, 1_000, 1_000 + LONGEST_STEP + 1, 2_000 + LONGEST_STEP + 1]
    rollups = roll_up(Points(times, [1.0, 2.0, 50.0, 52.0]), 10**9)
    assert rollups.increases == [3.0]
    assert roll_up(Points([LONGEST_STEP + 1], [5.0]), 1, (0, 1.0)).increases == [0.0]


def test_gauge_has_no_increase() -> None:
    values = [float(number % 2) for number in range(40)]
    assert roll_up(Points(list(range(40)), values), 10).increases is None


@given(points(), st.integers(1, 1000), st.integers(2, 50))
def test_coarse_rollups_equal_those_of_the_samples(
    samples: Points, width: int, factor: int
) -> None:
    coarse, direct = (
        coarsen(roll_up(samples, width), width * factor),
        roll_up(samples, width * factor),
    )
    assert (coarse.times, coarse.lows, coarse.highs, coarse.counts) == (
        direct.times, direct.lows, direct.highs, direct.counts,
    )  # fmt: skip
    assert coarse.totals == pytest.approx(direct.totals, rel=1e-9, abs=1e-6)


def test_join_prefers_the_later_part() -> None:
    first = Rollups([0, 10], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1, 1], [0.0, 0.0])
    second = Rollups([10, 20], [2.0, 2.0], [2.0, 2.0], [2.0, 2.0], [1, 1], [1.0, 1.0])
    joined = join((first, second))
    assert (joined.times, joined.lows, joined.increases) == (
        [0, 10, 20], [1.0, 2.0, 2.0], [0.0, 1.0, 1.0],
    )  # fmt: skip
    assert join((first, Rollups([30], [1.0], [1.0], [1.0], [1]))).increases is None
