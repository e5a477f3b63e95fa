"""What a page shows of time: the present, a range of the past, or everything as of a moment.

Addresses have it in `range`, `since` and `until`, or `at`, with `play` and `started` for a moment
that moves; pages, the API and live channels read it here alike.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal, Self

import msgspec

from almenara.history.filter import UNITS, format_moment, parse_moment
from almenara.units import DAY, HOUR, MINUTE, SECOND

TIME_PARAMETERS: Final = ("range", "since", "until", "at", "play", "started")
"""The parameters of an address that choose a time window."""
DEFAULT_SPAN: Final = HOUR
"""The length of time that charts show where the address names none."""
SHORTEST_SPAN: Final = SECOND
LONGEST_SPAN: Final = 366 * DAY
DURATION: Final = re.compile(r"(\d{1,9})\s*(s|min|m|h|d|w)", re.IGNORECASE)
DURATION_UNITS: Final = ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (SECOND, "s"))
TOLERANCE: Final = 2 * SECOND
"""How far ahead of the server's clock a moment still counts as now."""

SPEEDS: Final = (1, 10, 60, 600)
"""How many times as fast as it passed a playback can be."""
PLAYBACK_STEP: Final = SECOND
"""How long a playback shows one moment, so that all its panels and viewers share it."""

PRESENT: Final = "The present is displayed instead."
WITHOUT: Final = "The rest of the address is displayed."
MOMENT_ALONE: Final = "The moment is displayed."

Mode = Literal["live", "window", "moment"]


class TimeWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time, in microseconds since the epoch.

    `live` follows the present: `span` up to now, or everything from `since` on. `window` is the
    range from `since` to `until`, and `moment` is `span` up to `until`, which is the moment.
    """

    mode: Mode = "live"
    span: int = DEFAULT_SPAN
    """Microseconds that charts show."""
    since: int | None = None
    until: int | None = None
    speed: int = 0
    """How many times as fast as it passed a playback moves on from `until`; 0 for a moment that
    stands still."""
    started: int = 0
    """When the playback started; it identifies the playback, with its moment and speed."""

    @property
    def is_live(self) -> bool:
        """Whether it follows the present."""
        return self.mode == "live"

    @property
    def moment(self) -> int | None:
        """As of when resources are displayed: the end of the window; None for the present."""
        return self.until

    def bounds(self, now: int) -> tuple[int, int]:
        """Return start, included, and end, not included, of what charts show."""
        until = now if self.until is None else self.until
        return (until - self.span if self.since is None else self.since), until

    def position(self, now: int) -> Self:
        """Return the moment that a playback shows now; other windows are returned unchanged."""
        if not self.speed or self.until is None:
            return self
        passed = max(now - self.started, 0) // PLAYBACK_STEP * PLAYBACK_STEP
        moment = min(self.until + passed * self.speed, max(now, self.until))
        return msgspec.structs.replace(self, until=moment, speed=0, started=0)

    def to_query(self) -> dict[str, str]:
        """Return the parameters that `parse_time_window` reads back; empty for the default."""
        query: dict[str, str] = {}
        if self.mode == "moment" and self.until is not None:
            query["at"] = format_moment(self.until)
            if self.speed:
                query |= {"play": str(self.speed), "started": str(self.started)}
        else:
            if self.since is not None:
                query["since"] = format_moment(self.since)
            if self.until is not None:
                query["until"] = format_moment(self.until)
        if self.since is None and self.span != DEFAULT_SPAN:
            query["range"] = format_span(self.span)
        return query


LIVE: Final = TimeWindow()


class ParsedTime(msgspec.Struct, frozen=True):
    """The time window of an address."""

    window: TimeWindow
    """What the address says or, where that is not possible, the nearest window that is."""
    problem: str = ""
    """What is wrong with the address; empty where it is valid."""
    displayed: str = ""
    """What the window shows instead."""

    @property
    def message(self) -> str:
        """Both in one text, for a page that displays the window."""
        return " ".join(filter(None, (self.problem, self.displayed)))


def format_span(span: int) -> str:
    """Return a length of time in its largest unit, such as `6h`."""
    unit, letter = next((pair for pair in DURATION_UNITS if not span % pair[0]), DURATION_UNITS[-1])
    return f"{span // unit}{letter}"


def parse_span(text: str) -> int:
    """Return the microseconds of a length of time such as `6h`. Raises `ValueError`."""
    matched = DURATION.fullmatch(text.strip())
    span = int(matched[1]) * UNITS[matched[2].lower()] if matched else 0
    if not SHORTEST_SPAN <= span <= LONGEST_SPAN:
        raise ValueError(
            f"range {text[:40]!r} is not a length of time between 1 second and 366 days; write 15m,"
            " 6h or 7d"
        )
    return span


def parse_time_window(
    query: Mapping[str, str], *, now: int, earliest: int | None = None
) -> ParsedTime:
    """Return the time window of an address, whose other parameters are ignored.

    `earliest` is the start of the stored past; None where it is not known. Raises nothing: a value
    that is malformed, reversed, in the future or before the stored past has a problem, and the
    nearest valid window.
    """
    values = {name: text for name in TIME_PARAMETERS if (text := query.get(name, "").strip())}
    span, problem = DEFAULT_SPAN, ""
    if "range" in values:
        try:
            span = parse_span(values["range"])
        except ValueError as error:
            problem = _sentence(error)
    live = TimeWindow(span=span)
    moments: dict[str, int] = {}
    for name in ("at", "since", "until"):
        if name in values:
            try:
                moments[name] = parse_moment(name, values[name])
            except ValueError as error:
                return ParsedTime(live, _sentence(error), PRESENT)
    if "at" in moments:
        parsed = _check_moment(moments["at"], span, now, earliest)
        if len(moments) > 1:
            problem = "The address has both a moment (at) and a range (since, until)."
            parsed = msgspec.structs.replace(parsed, displayed=parsed.displayed or MOMENT_ALONE)
        if "play" in values and parsed.window.mode == "moment":
            parsed = _check_playback(parsed, values, now)
    elif moments:
        parsed = _check_range(moments.get("since"), moments.get("until"), span, now, earliest)
    else:
        parsed = ParsedTime(live)
    if problem and not parsed.displayed:
        shown = "The last hour is displayed instead." if parsed.window == LIVE else WITHOUT
        parsed = msgspec.structs.replace(parsed, displayed=shown)
    return msgspec.structs.replace(
        parsed, problem=" ".join(filter(None, (problem, parsed.problem)))
    )


def parse_period(query: Mapping[str, str], *, now: int, earliest: int | None = None) -> ParsedTime:
    """Return the time window of an address that compares its start with its end.

    A moment (`at`) is the end of the period where the address has no other. As
    `parse_time_window`, it raises nothing.
    """
    values = {name: text for name in TIME_PARAMETERS if (text := query.get(name, "").strip())}
    if "since" in values or "until" in values:
        at = values.pop("at", "")
        values.setdefault("until", at)
    parsed = parse_time_window(values, now=now, earliest=earliest)
    return msgspec.structs.replace(parsed, window=parsed.window.position(now))


def _check_moment(at: int, span: int, now: int, earliest: int | None) -> ParsedTime:
    if at > now + TOLERANCE:
        return ParsedTime(TimeWindow(span=span), f"{format_moment(at)} is in the future.", PRESENT)
    if earliest is not None and at < earliest:
        return ParsedTime(
            TimeWindow(mode="moment", span=span, until=earliest),
            f"{format_moment(at)} is before the stored past, which starts at"
            f" {format_moment(earliest)}.",
            "That moment is displayed instead.",
        )
    return ParsedTime(TimeWindow(mode="moment", span=span, until=min(at, now)))


def _check_playback(parsed: ParsedTime, values: Mapping[str, str], now: int) -> ParsedTime:
    speeds = {str(speed): speed for speed in SPEEDS}
    if (speed := speeds.get(values["play"])) is None:
        problem = (
            f"Play {values['play'][:20]!r} is not a speed; the speeds are {', '.join(speeds)}."
        )
        return ParsedTime(
            parsed.window,
            " ".join(filter(None, (parsed.problem, problem))),
            parsed.displayed or MOMENT_ALONE,
        )
    text = values.get("started", "")
    started = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else now
    window = msgspec.structs.replace(parsed.window, speed=speed, started=min(started, now))
    return msgspec.structs.replace(parsed, window=window)


def _check_range(
    since: int | None, until: int | None, span: int, now: int, earliest: int | None
) -> ParsedTime:
    problems: list[str] = []
    displayed = ""
    if since is not None and until is not None and since >= until:
        if since == until:
            problems.append("The range is empty: it ends when it starts.")
            displayed, since = "The time before its end is displayed instead.", None
        else:
            problems.append("The range is reversed: it ends before it starts.")
            displayed, since, until = "It is displayed in order.", until, since
    if since is not None and since > now + TOLERANCE:
        problems.append(f"{format_moment(since)} is in the future.")
        return ParsedTime(TimeWindow(span=span), " ".join(problems), PRESENT)
    if until is not None and until > now + TOLERANCE:
        problems.append(f"{format_moment(until)} is in the future.")
        displayed, until = "The range up to now is displayed instead.", now
    if until is None:
        return ParsedTime(TimeWindow(since=since), " ".join(problems), displayed)
    start = until - span if since is None else since
    if earliest is not None and until <= earliest:
        problems.append(
            f"The range ends before the stored past, which starts at {format_moment(earliest)}."
        )
        displayed = "The start of the stored past is displayed instead."
        length = until - start
        start, until = earliest, max(min(earliest + length, now), earliest + 1)
    start = min(start, until - 1)
    window = TimeWindow(mode="window", span=until - start, since=start, until=until)
    return ParsedTime(window, " ".join(problems), displayed)


def _sentence(error: ValueError) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
