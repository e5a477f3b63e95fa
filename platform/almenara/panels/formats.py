"""Values as text: numbers, sizes, durations, ages and times, as people read them."""

import functools
import hashlib
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from almenara.signals import format_time, now
from almenara.units import SECOND

DASH: Final = "\u2013"
"""Stands for a value that is missing."""
MAX_TEXT: Final = 400
"""Characters of a value that are written; the rest is cut off."""
COLORS: Final = 8
EARLIEST_TIME: Final = -62_135_596_800_000_000
LATEST_TIME: Final = 253_402_300_799_999_999
"""The first and the last microsecond that a calendar of years 1 to 9999 has."""


@functools.lru_cache(maxsize=64)
def format_timestamp(microseconds: int) -> str:
    """RFC 3339 to the millisecond, in UTC; a plain statement for a time outside the calendar."""
    if EARLIEST_TIME <= microseconds <= LATEST_TIME:
        return format_time(microseconds)[:-4] + "Z"
    return f"{microseconds} \u00b5s, outside the calendar"


def format_date_and_time(microseconds: int) -> str:
    """The date and the time of day to the second, in UTC."""
    return format_timestamp(microseconds)[:19].replace("T", " ")


def format_time_of_day(microseconds: int) -> str:
    """The time of day to the millisecond, in UTC."""
    text = format_timestamp(microseconds)
    return text[11:-1] if text.endswith("Z") else text


def encode_query(parameters: Mapping[str, str]) -> str:
    """`?a=b`, ready for an address; empty without parameters."""
    return f"?{urlencode(parameters)}" if parameters else ""


def format_number(value: float | None) -> str:
    """A number with separators, and one decimal below ten: `12,345`, `0.4`."""
    if value is None or not math.isfinite(value):
        return DASH
    if value and abs(value) < 10 and value != int(value):
        return f"{value:.1f}"
    return f"{value:,.0f}"


def format_bytes(value: float | None) -> str:
    """A size with a binary prefix: `1.5 KiB`."""
    if value is None or not math.isfinite(value):
        return DASH
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


@functools.lru_cache(maxsize=1024)
def color_index(text: str) -> int:
    """One of a few colours for a name, the same on every page and after every start."""
    # The lowest bits of a checksum are much alike for names that are much alike.
    return zlib.crc32(text.encode("utf-8", "replace")) // 7 % COLORS


def format_duration(seconds: float | None) -> str:
    """A length of time: `12 µs`, `3 ms`, `4.2 s`, `3 min 5 s`, `2 h 3 min`, `9 d 4 h`."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 0:
        return f"\u2212{format_duration(-seconds)}"
    if 0 < seconds < 0.0001:
        return f"{seconds * 1e6:.0f} \u00b5s" if seconds >= 0.000001 else "< 1 \u00b5s"
    if seconds < 0.0095:
        return f"{seconds * 1000:.1f} ms" if seconds else "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def format_remaining(seconds: float) -> str:
    """A time that is left, to the nearest unit: `7 d`, `6 d 23 h`, `4 h`, `3 min 5 s`."""
    unit = 3600 if seconds >= 172_700 else 60 if seconds >= 3570 else 1
    text = format_duration(round(seconds / unit) * unit)
    for nothing in (" 0 h", " 0 min", " 0 s"):
        text = text.removesuffix(nothing)
    return text


AGE_UNITS: Final = (
    # Below how many seconds, the unit, and the smaller unit of the remainder.
    (120, "s", ""), (600, "m", "s"), (10_800, "m", ""), (28_800, "h", "m"), (172_800, "h", ""),
    (691_200, "d", "h"), (63_072_000, "d", ""), (math.inf, "y", ""),
)  # fmt: skip
UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "y": 31_536_000}


def format_age(seconds: float) -> str:
    """How long ago, as kubectl writes it: `13s`, `3m5s`, `57m`, `8d12h`."""
    if not math.isfinite(seconds):
        return DASH
    passed = max(int(seconds), 0)
    unit, smaller = next((unit, smaller) for limit, unit, smaller in AGE_UNITS if passed < limit)
    whole, rest = divmod(passed, UNIT_SECONDS[unit])
    remainder = rest // UNIT_SECONDS[smaller] if smaller else 0
    return f"{whole}{unit}{remainder}{smaller}" if remainder else f"{whole}{unit}"


NEARLY_ALL: Final = 0.99


def format_percent(share: float | None) -> str:
    """A share of one, in percent. What is nearly all is never rounded up to all."""
    if share is None or not math.isfinite(share):
        return DASH
    if NEARLY_ALL <= share < 1:
        return f"{math.floor(share * 10_000 + 1e-6) / 100:g} %"
    return f"{share * 100:.1f} %" if abs(share) < 0.1 else f"{share * 100:.0f} %"


NUMBER_FORMATS: Final[Mapping[str, Callable[[float | None], str]]] = {
    "number": format_number,
    "bytes": format_bytes,
    "seconds": format_duration,
    "percent": format_percent,
}


def format_value(value: Any, form: str) -> str:
    """A value in one of the formats of `hookspecs.Format`; as text where it does not fit."""
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if form in NUMBER_FORMATS:
            return NUMBER_FORMATS[form](value)
        if form == "time" and math.isfinite(value):
            return format_timestamp(int(value))
        if form == "age":
            return format_age((now() - value) / SECOND)
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, float):
        return f"{value:g}"
    return _cut(msgspec.json.encode(value, enc_hook=str).decode("utf-8", "replace"))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "\u2026"


def text_anchor(panel_anchor: str, key: str) -> str:
    """The id of the element of a live text, in characters that are safe in a selector."""
    digest = hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=6).hexdigest()
    return f"{panel_anchor}-text-{digest}"


FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "timestamp": format_timestamp,
    "time_of_day": format_time_of_day,
    "date_and_time": format_date_and_time,
    "query": encode_query,
    "number": format_number,
    "color_index": color_index,
    "size": format_bytes,
    "duration": format_duration,
    "percent": format_percent,
    "formatted": format_value,
    "text_anchor": text_anchor,
}
"""The filters of templates, by name."""
