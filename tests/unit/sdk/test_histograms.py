"""What was counted between two pages."""

import math

from hypothesis import given, strategies as st

from almenara.sdk.histograms import quantile


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=8, unique=True),
    st.lists(st.integers(0, 1000), min_size=9, max_size=9),
    st.floats(0.01, 0.99),
)
def test_quantile_lies_within_the_limits_of_the_histogram(
    limits: list[float], counts: list[int], share: float
) -> None:
    limits = [*sorted(limits), math.inf]
    total, after = 0.0, {}
    for limit, count in zip(limits, counts, strict=False):
        total += count
        after[limit] = total
    value = quantile(share, after)
    assert value is None or 0 <= value <= limits[-2]
