"""Values as text."""

import pytest

from almenara.panels.formats import format_age, format_duration, format_remaining, format_value
from almenara.panels.line_chart import round_up


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (None, "number", "\u2013"), (True, "text", "yes"), (1234567, "number", "1,234,567"),
        (0.0421, "seconds", "42 ms"), (0.0000124, "seconds", "12 µs"),
        (0.0000001, "seconds", "< 1 µs"), (0.0002, "seconds", "0.2 ms"),
        (75.0, "seconds", "1 min 15 s"), (-5, "seconds", "\u22125.0 s"),
        (0.5, "percent", "50 %"), (0.99, "percent", "99 %"), (0.9951, "percent", "99.51 %"),
        (0.99999, "percent", "99.99 %"), (1.0, "percent", "100 %"),
        (1536, "bytes", "1.5 KiB"), ("x", "bytes", "x"),
        ({"a": [1]}, "text", '{"a":[1]}'), (float("nan"), "number", "\u2013"),
        (float("inf"), "bytes", "\u2013"), (float("inf"), "seconds", "\u2013"),
    ],
)  # fmt: skip
def test_format_value_writes_what_people_read(value: object, form: str, text: str) -> None:
    assert text in format_value(value, form)


def test_durations_and_axes_are_round() -> None:
    assert [format_duration(number) for number in (0, 0.003, 3600, 200_000)] == [
        "0 s", "3.0 ms", "1 h 0 min", "2 d 7 h",
    ]  # fmt: skip
    assert [round_up(number) for number in (0, 0.03, 7, 10, 101, 240)] == [
        1.0,
        0.05,
        10,
        10,
        200,
        250,
    ]


def test_format_age_is_as_short_as_that_of_kubectl() -> None:
    ages = {
        0: "0s", 90: "90s", 185: "3m5s", 600: "10m", 3_420: "57m", 11_520: "3h12m", 28_800: "8h",
        140_400: "39h", 561_600: "6d12h", 1_555_200: "18d", 94_608_000: "3y", -5: "0s",
        float("inf"): "\u2013", float("nan"): "\u2013",
    }  # fmt: skip
    assert {seconds: format_age(seconds) for seconds in ages} == ages


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (7 * 86_400 - 0.2, "7 d"), (6 * 86_400 + 82_000, "6 d 23 h"), (14_399.5, "4 h"),
        (3_599.8, "1 h"), (185, "3 min 5 s"), (59.8, "1 min"),
    ],
)  # fmt: skip
def test_format_remaining_rounds_to_the_nearest_unit(seconds: float, text: str) -> None:
    assert format_remaining(seconds) == text
