"""Series: the last samples of a metric."""

from collections import deque

from hypothesis import given, strategies as st

from almenara.signals import Sample
from almenara.state.samples import SAMPLES_PER_SERIES, SERIES_STALE, Series, SeriesTable
from almenara.units import MINUTE


@given(
    samples=st.lists(
        st.tuples(st.integers(-(2**63) + 1, 2**63 - 1), st.floats(allow_nan=False)),
        max_size=SAMPLES_PER_SERIES * 3,
    )
)
def test_series_keeps_its_last_samples_unchanged(samples: list[tuple[int, float]]) -> None:
    series, expected = Series(), deque[tuple[int, float]](maxlen=SAMPLES_PER_SERIES)
    for moment, value in samples:
        series.append(moment, value)
        expected.append((moment, value))

        assert series.newest == value

    assert series.points() == list(expected)


def sample(name: str, origin: str = "x", time: int = 0) -> Sample:
    return Sample(kind="k", name=name, metric="m", value=1.0, origin=origin, time=time)


def test_series_table_bounds_the_series_of_one_origin_and_counts_what_is_left_out() -> None:
    table = SeriesTable(max_series=100)
    for number in range(250):
        table.add(sample(f"{number}", time=MINUTE))
        table.add(sample("one", origin="other", time=MINUTE))
    assert len(table.keys("m")) == 101
    assert table.dropped == {"x": 150}
    table.add(sample("7", time=2 * MINUTE))
    assert table.dropped == {"x": 150}


def test_series_table_removes_stale_series_of_a_full_origin_only() -> None:
    table = SeriesTable(max_series=100)
    table.add(sample("0", origin="other", time=MINUTE))
    for number in range(100):
        table.add(sample(f"{number}", time=MINUTE))
    later = MINUTE + SERIES_STALE
    for number in range(50):
        table.add(sample(f"{number}", time=later))
    table.add(sample("new", time=later + 2 * MINUTE))
    assert table.dropped == {}
    assert len(table.keys("m")) == 51
    first = table.get("m", ("k", "", "0"))
    assert first is not None
    assert {each.origin for each in first.chain()} == {"x", "other"}
    table.discard(("k", "", "0"))
    for number in range(200):
        table.add(sample(f"n{number}", time=later + 2 * MINUTE))
    assert len(table.keys("m")) == 100


def test_metrics_without_series_are_forgotten() -> None:
    table = SeriesTable(max_series=10)
    for number in range(100):
        metric = f"requests{{user={number}}}"
        moment = SERIES_STALE * (number // 20) * 2
        table.add(Sample(kind="k", name="a", metric=metric, value=1.0, origin="x", time=moment))
    assert len(table.metrics()) == 10
    assert table.dropped == {"x": 50}
    table.discard(("k", "", "a"))
    assert table.metrics() == []
