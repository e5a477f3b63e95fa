"""Severities, times and texts as senders write them."""

from typing import Any, Final

import msgspec

from almenara.signals import Severity, parse_time
from almenara.units import SECOND

SEVERITIES: Final = {
    "trace": Severity.DEBUG,
    "debug": Severity.DEBUG,
    "info": Severity.INFO,
    "information": Severity.INFO,
    "informational": Severity.INFO,
    "notice": Severity.INFO,
    "none": Severity.INFO,
    "ok": Severity.INFO,
    "success": Severity.INFO,
    "warn": Severity.WARN,
    "warning": Severity.WARN,
    "minor": Severity.WARN,
    "err": Severity.ERROR,
    "error": Severity.ERROR,
    "major": Severity.ERROR,
    "high": Severity.ERROR,
    "failure": Severity.ERROR,
    "failed": Severity.ERROR,
    "fatal": Severity.FATAL,
    "critical": Severity.FATAL,
    "crit": Severity.FATAL,
    "page": Severity.FATAL,
    "alert": Severity.FATAL,
    "emergency": Severity.FATAL,
    "emerg": Severity.FATAL,
    "panic": Severity.FATAL,
}
LONGEST_SHOWN: Final = 80
LARGEST_SECONDS: Final = 10**11
"""Numbers below it are seconds since the epoch, and each further unit is a thousand times that."""
LARGEST_MICROSECONDS: Final = 253_402_300_799 * SECOND
"""The end of the year 9999."""


def read_severity(value: Any) -> Severity | None:
    """Return the severity of a word as senders use it; None where it is unknown."""
    return SEVERITIES.get(value.strip().lower()) if isinstance(value, str) else None


def read_time(value: Any) -> int | None:
    """Return the microseconds of RFC 3339 text, or of a number since the epoch in seconds,
    milliseconds, microseconds or nanoseconds; None where it is neither."""
    moment: int
    if isinstance(value, str):
        try:
            moment = parse_time(value)
        except (ValueError, OverflowError):
            return None
    elif isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        if value < LARGEST_SECONDS:
            moment = int(value * SECOND)
        elif value < LARGEST_SECONDS * 1_000:
            moment = int(value * 1_000)
        elif value < LARGEST_SECONDS * 1_000_000:
            moment = int(value)
        elif value < LARGEST_SECONDS * 1_000_000_000:
            moment = int(value / 1_000)
        else:
            return None
    else:
        return None
    return moment if 0 <= moment <= LARGEST_MICROSECONDS else None


def write_text(value: Any) -> str:
    """Return a value of decoded JSON as text: a string unchanged, other values as JSON, and the
    empty text for null."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def shorten(text: str) -> str:
    """Return a text for an error, cut."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
