"""Windows and schedules in a time zone, over changes of the clocks."""

from datetime import datetime

import msgspec
import pytest
from hypothesis import given, strategies as st

from almenara.sdk.calendar import DAYS, Calendar, Schedule
from almenara.units import DAY, HOUR, MINUTE, SECOND


def at(text: str) -> int:
    return int(datetime.fromisoformat(text + "+00:00").timestamp()) * SECOND


NIGHT = Calendar(start="22:00", end="06:00", days=["fri"], zone="Europe/Madrid")
SUNDAY = Calendar(start="02:30", end="03:30", days=["sun"], zone="Europe/Madrid")


def test_window_over_midnight_belongs_to_the_day_on_which_it_starts() -> None:
    # Friday, 24 July 2026; two hours ahead of UTC.
    assert not NIGHT.is_active(at("2026-07-24T19:59:59"))
    assert NIGHT.is_active(at("2026-07-24T20:00:00"))
    assert NIGHT.is_active(at("2026-07-25T03:59:59"))
    assert not NIGHT.is_active(at("2026-07-25T04:00:00"))
    assert NIGHT.next_change(at("2026-07-25T04:00:00")) == at("2026-07-31T20:00:00")


@pytest.mark.parametrize(
    ("first", "last"),
    [
        # The clocks are set back at 03:00: from the first 02:30 to the only 03:30.
        ("2026-10-25T00:30:00", "2026-10-25T02:30:00"),
        # They are set ahead at 02:00: 02:30 does not exist, so the window starts with 03:00.
        ("2026-03-29T01:00:00", "2026-03-29T01:30:00"),
        ("2026-06-07T00:30:00", "2026-06-07T01:30:00"),
    ],
)
def test_window_on_the_day_of_a_clock_change(first: str, last: str) -> None:
    start, end = at(first), at(last)
    assert SUNDAY.next_change(start - DAY) == start
    assert [SUNDAY.is_active(moment) for moment in (start - 1, start, end - 1, end)] == [
        False, True, True, False,
    ]  # fmt: skip
    assert SUNDAY.next_change(start) == end


def test_window_that_ends_in_a_repeated_hour_ends_with_the_last() -> None:
    window = Calendar(start="00:00", end="02:30", zone="Europe/Madrid")
    assert window.is_active(at("2026-10-25T01:29:00"))
    assert not window.is_active(at("2026-10-25T01:30:00"))


@given(
    st.integers(0, 4_000_000_000), st.integers(0, 1439), st.integers(0, 1439),
    st.lists(st.sampled_from(DAYS), unique=True),
    st.sampled_from(["UTC", "Europe/Madrid", "America/New_York", "Australia/Lord_Howe"]),
)  # fmt: skip
def test_nothing_changes_before_the_next_change(
    second: int, start: int, end: int, days: list[str], zone: str
) -> None:
    texts = [f"{minute // 60:02}:{minute % 60:02}" for minute in (start, end)]
    fields = {"start": texts[0], "end": texts[1], "days": days, "zone": zone}
    calendar = msgspec.convert(fields, Calendar)
    moment = second * SECOND
    change = calendar.next_change(moment)
    assert change is not None
    assert moment < change <= moment + 9 * DAY
    is_active = calendar.is_active(moment)
    for part in range(1, 8):
        assert calendar.is_active(moment + (change - 1 - moment) * part // 8) == is_active


def test_wrong_calendar_is_refused_with_the_nearest_zone() -> None:
    for fields in ({"start": "24:00", "end": "01:00"}, {"start": "1:00", "end": "02:00"},
                   {"start": "01:00", "end": "02:00", "days": ["monday"]}):  # fmt: skip
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(fields, Calendar)
    with pytest.raises(ValueError, match="did you mean Europe/Madrid"):
        msgspec.convert({"start": "01:00", "end": "02:00", "zone": "Europe/Madrd"}, Calendar)


def test_schedule_follows_the_clocks_of_its_zone() -> None:
    schedule = Schedule("30 2 * * *", "Europe/Madrid")
    assert schedule.next_after(at("2026-01-10T00:00:00")) == at("2026-01-10T01:30:00")
    assert schedule.next_after(at("2026-07-10T00:00:00")) == at("2026-07-10T00:30:00")
    # 02:30 does not exist on that day, and is there twice on the other.
    assert schedule.next_after(at("2026-03-28T12:00:00")) == at("2026-03-29T01:00:00")
    first = schedule.next_after(at("2026-10-24T12:00:00"))
    assert first == at("2026-10-25T00:30:00")
    assert schedule.next_after(first) == at("2026-10-26T01:30:00")
    assert Schedule("*/5 * * * *", "UTC").next_after(0) == 5 * MINUTE
    assert Schedule("0 * * * *", "UTC").next_after(HOUR) == 2 * HOUR


@pytest.mark.parametrize("expression", ["", "61 * * * *", "* * *", "x", "0 0 30 2 *"])
def test_wrong_schedule_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"cron expression|never comes"):
        Schedule(expression, "UTC")
