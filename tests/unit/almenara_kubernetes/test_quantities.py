"""Quantities and timestamps of the Kubernetes API."""

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import example, given, strategies as st

from almenara_kubernetes.quantities import SUFFIXES, parse_quantity, parse_timestamp


@given(
    number=st.decimals(-(10**6), 10**6, places=3), suffix=st.sampled_from(sorted(SUFFIXES)),
    exponent=st.none() | st.integers(-9, 9),
)  # fmt: skip
def test_parse_quantity_reads_every_suffix(number: Any, suffix: str, exponent: int | None) -> None:
    written = f"{number}{suffix if exponent is None else f'e{exponent}'}"
    factor = SUFFIXES[suffix] if exponent is None else 10.0**exponent

    match = parse_quantity(written)

    assert match is not None
    assert math.isclose(match, float(number) * factor, rel_tol=1e-12, abs_tol=1e-30)


@given(written=st.text(max_size=12) | st.from_regex(r"[0-9.eE+\-kKMGmi]{1,70}") | st.floats()
       | st.integers() | st.booleans() | st.none())  # fmt: skip
@example(written="1e999")
@example(written="9" * 400)
@example(written=10**400)
@example(written="\u0661\u0662")
def test_parse_quantity_returns_a_finite_number_or_none(
    written: Any,
) -> None:
    match = parse_quantity(written)

    assert match is None or math.isfinite(match)


@given(
    when=st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1)),  # noqa: DTZ001
    offset=st.integers(-14 * 60, 14 * 60),
)
def test_parse_timestamp_is_exact_to_the_microsecond(when: datetime, offset: int) -> None:
    zone = timezone(timedelta(minutes=offset))
    expected = (when.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        microseconds=1
    )

    assert parse_timestamp(when.isoformat() + "Z") == expected
    assert parse_timestamp(when.replace(tzinfo=UTC).astimezone(zone).isoformat()) == expected


@given(written=st.text(max_size=40) | st.from_regex(r"[0-9TZ:+.\-]{1,40}"))
@example(written="0001-01-01T00:00:00Z")
@example(written="9999-12-31T23:59:59-23:59")
@example(written="2026-01-01T00:00:00.123456789Z")
def test_parse_timestamp_returns_a_time_or_none(written: str) -> None:
    match = parse_timestamp(written)

    assert match is None or isinstance(match, int)
