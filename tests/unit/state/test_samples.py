"""Series: the last samples of a metric."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from almenara.state.samples import SAMPLES_PER_SERIES, Series


@given(
    samples=st.lists(
        st.tuples(st.integers(-(2**63) + 1, 2**63 - 1), st.floats(allow_nan=False)),
        max_size=SAMPLES_PER_SERIES * 3,
    )
)
def test_series_keeps_its_last_samples_unchanged(samples: list[tuple[int, float]]) -> None:
    series, kept = Series(), deque[tuple[int, float]](maxlen=SAMPLES_PER_SERIES)
    for moment, value in samples:
        series.append(moment, value)
        kept.append((moment, value))

        assert series.newest == value

    assert series.points() == list(kept)
