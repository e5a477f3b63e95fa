import pytest
from hypothesis import given, strategies as st

from almenara.signals import Severity, format_time, parse_severity, parse_time


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_format_time_round_trips_every_moment_of_the_calendar(moment: int) -> None:
    assert parse_time(format_time(moment)) == moment


def test_parse_severity_accepts_opentelemetry_names() -> None:
    assert parse_severity(" warn ") is Severity.WARN
    with pytest.raises(ValueError, match="DEBUG, INFO, WARN, ERROR, FATAL"):
        parse_severity("bad")
