"""The time of a message, where it has a plausible one."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from almenara.signals import parse_time
from almenara.units import DAY, SECOND

EARLIEST: Final = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * SECOND
EPOCH_SCALES: Final = ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0), (1e20, 1e-3))
"""Numbers below the first are seconds, milliseconds, microseconds and nanoseconds since the epoch;
the second makes them microseconds."""
OTHER_FIELDS: Final = (
    "time", "ts", "@timestamp", "@t", "Timestamp", "asctime", "timeUnixNano", "time_unix_nano",
)  # fmt: skip
"""Where common loggers write the time. They may mean something else, so nothing is reported."""
SHOWN: Final = 80
SHORTEST_NUMBER, LONGEST_NUMBER = 10, 19
"""Digits of a number since the epoch that is written as text; `20260131` is a date."""


def is_plausible(moment: int, received: int) -> bool:
    """Whether a time lies between the year 2000 and a day after the message was received."""
    return EARLIEST <= moment <= received + DAY


def parse_timestamp(value: Any) -> int | None:
    """Return text or a number since the epoch in microseconds; None for anything else."""
    if isinstance(value, str):
        if value.isascii() and value.isdigit() and len(value) <= LONGEST_NUMBER:
            return parse_timestamp(int(value)) if len(value) >= SHORTEST_NUMBER else None
        try:
            return parse_time(value)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        size = abs(value)
        for bound, scale in EPOCH_SCALES:
            if size < bound:
                return int(value * scale)
    return None


def read_timestamp(fields: Mapping[str, Any], received: int, problems: list[str]) -> int:
    """Return the time in the fields of a message, else the time when it was received."""
    value = fields.get("timestamp")
    if value is None:
        for name in OTHER_FIELDS:
            moment = parse_timestamp(fields[name]) if name in fields else None
            if moment is not None and is_plausible(moment, received):
                return moment
        return received
    moment = parse_timestamp(value)
    if moment is not None and is_plausible(moment, received):
        return moment
    shown = msgspec.json.encode(value).decode()[:SHOWN]
    reason = "is not a time" if moment is None else "is out of bounds"
    problems.append(f"timestamp {shown} {reason}; the time of arrival is used")
    return received
