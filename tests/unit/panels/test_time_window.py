"""The time window of an address: valid ones are read back, others have the nearest valid one."""

import pytest
from hypothesis import given, strategies as st

from almenara.panels.time_window import (
    DEFAULT_SPAN,
    LIVE,
    SPEEDS,
    TIME_PARAMETERS,
    TimeWindow,
    parse_time_window,
)
from almenara.signals import format_time
from almenara.units import DAY, HOUR, MINUTE, SECOND

NOW = 1_767_225_600_000_000
EARLIEST = NOW - 7 * DAY


def parse(**query: str) -> tuple[TimeWindow, str]:
    parsed = parse_time_window(query, now=NOW, earliest=EARLIEST)
    return parsed.window, parsed.message


def test_address_without_time_is_live() -> None:
    assert parse(name="web") == (LIVE, "")
    assert LIVE.bounds(NOW) == (NOW - DEFAULT_SPAN, NOW)
    assert LIVE.moment is None


def test_range_follows_the_present() -> None:
    window, message = parse(range="6h")
    assert message == ""
    assert window.is_live
    assert window.bounds(NOW) == (NOW - 6 * HOUR, NOW)


def test_absolute_range_is_as_of_its_end() -> None:
    window, message = parse(since="2025-12-31T00:00:00Z", until="2025-12-31T06:00:00Z")
    assert message == ""
    assert (window.mode, window.span, window.moment) == ("window", 6 * HOUR, NOW - 18 * HOUR)


def test_moment_ends_what_charts_show() -> None:
    window, message = parse(at="2025-12-31T23:00:00Z", range="15m")
    assert message == ""
    assert window.bounds(NOW) == (NOW - HOUR - 15 * MINUTE, NOW - HOUR)


@pytest.mark.parametrize(
    ("query", "expected", "message"),
    [
        ({"at": "noon"}, LIVE, "not a time"),
        ({"range": "0h"}, LIVE, "not a length of time"),
        ({"range": "fortnight"}, LIVE, "not a length of time"),
        ({"since": "yesterday"}, LIVE, "not a time"),
        ({"at": "2026-06-01T00:00:00Z"}, LIVE, "is in the future"),
        ({"since": "2026-06-01T00:00:00Z"}, LIVE, "is in the future"),
        (
            {"at": "2020-01-01T00:00:00Z"},
            TimeWindow(mode="moment", until=EARLIEST),
            "before the stored past, which starts at 2025-12-25T00:00:00Z",
        ),
        (
            {"since": "2025-12-31T06:00:00Z", "until": "2025-12-31T00:00:00Z"},
            TimeWindow(
                mode="window", span=6 * HOUR, since=NOW - DAY, until=NOW - 18 * HOUR
            ),
            "reversed",
        ),
        (
            {"since": "2025-12-31T00:00:00Z", "until": "2025-12-31T00:00:00Z"},
            TimeWindow(mode="window", span=HOUR, since=NOW - 25 * HOUR, until=NOW - DAY),
            "empty",
        ),
        (
            {"since": "2025-12-31T00:00:00Z", "until": "2026-06-01T00:00:00Z"},
            TimeWindow(mode="window", span=DAY, since=NOW - DAY, until=NOW),
            "The range up to now is displayed instead",
        ),
        (
            {"since": "2020-01-01T00:00:00Z", "until": "2020-01-01T01:00:00Z"},
            TimeWindow(mode="window", span=HOUR, since=EARLIEST, until=EARLIEST + HOUR),
            "ends before the stored past",
        ),
        (
            {"at": "2025-12-31T00:00:00Z", "since": "2025-12-30T00:00:00Z"},
            TimeWindow(mode="moment", until=NOW - DAY),
            "both a moment (at) and a range",
        ),
        (
            {"at": "2025-12-31T00:00:00Z", "play": "7"},
            TimeWindow(mode="moment", until=NOW - DAY),
            "the speeds are 1, 10, 60, 600",
        ),
    ],
)  # fmt: skip
def test_invalid_window_has_a_message_and_the_nearest_one(
    query: dict[str, str], expected: TimeWindow, message: str
) -> None:
    parsed = parse_time_window(query, now=NOW, earliest=EARLIEST)
    assert parsed.window == expected
    assert message in parsed.message
    assert parsed.displayed
    nearest = parse_time_window(parsed.window.to_query(), now=NOW, earliest=EARLIEST)
    assert (nearest.window, nearest.message) == (expected, "")


TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(("15m", "6h", "7d", "0s", "", "now", "9" * 400, "-1", "2026-01-31T25:00Z")),
    st.integers(NOW - 20 * DAY, NOW + DAY).map(format_time),
    st.integers(-(2**70), 2**70).map(str),
)


@given(query=st.dictionaries(st.sampled_from(TIME_PARAMETERS), TEXTS))
def test_any_address_has_a_window_that_is_read_back(query: dict[str, str]) -> None:
    parsed = parse_time_window(query, now=NOW, earliest=EARLIEST)
    window = parsed.window
    since, until = window.bounds(NOW)
    assert since <= until <= NOW + 2 * SECOND
    assert bool(parsed.problem) == bool(parsed.displayed)
    if window.moment is not None:
        assert EARLIEST <= window.moment <= NOW
    again = parse_time_window(window.to_query(), now=NOW, earliest=EARLIEST)
    assert (again.window, again.message) == (window, "")


@pytest.mark.parametrize("speed", SPEEDS)
def test_playback_moves_with_the_clock_in_steps(speed: int) -> None:
    window, message = parse(at="2025-12-31T00:00:00Z", play=str(speed), started=str(NOW))
    assert message == ""
    assert window.position(NOW) == TimeWindow(mode="moment", until=NOW - DAY)
    assert window.position(NOW + 999_999).until == NOW - DAY
    assert window.position(NOW + SECOND).until == NOW - DAY + speed * SECOND
    reached = NOW - DAY + 30 * DAY * speed
    assert window.position(NOW + 30 * DAY).until == min(reached, NOW + 30 * DAY)
    assert LIVE.position(NOW) is LIVE
