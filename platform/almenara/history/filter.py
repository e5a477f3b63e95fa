"""Filters of events: what pages, the API and the terminal select."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import msgspec

from almenara.bus.text_index import searched_text, split_words
from almenara.patterns import compile_pattern
from almenara.signals import Event, Severity, format_time, now, parse_severity, parse_time
from almenara.units import DAY, HOUR, MINUTE, SECOND, WEEK

WORD: Final = re.compile(r'"([^"]*)"|(\S+)')
AGO: Final = re.compile(r"(\d{1,9})\s*(s|min|m|h|d|w)", re.IGNORECASE)
UNITS: Final = {"s": SECOND, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}
MAX_LENGTH: Final = 512


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What events to select. A part that is None selects all.

    `source`, `origin`, `type` and `subject` are patterns as in NATS subjects: `*` stands for one
    part between dots, a final `>` for all remaining parts, a final `/**` for the name before it and
    all below it.
    """

    source: str | None = None
    origin: str | None = None
    type: str | None = None
    subject: str | None = None
    severity: Severity | None = None
    """At least this severe."""
    text: str | None = None
    """Words that all occur in the subject or the payload; `"quoted words"` must follow one another,
    and a final `*` stands for the rest of a word."""
    correlation: str | None = None
    since: int | None = None
    """Microseconds since the epoch, included."""
    until: int | None = None
    """Microseconds since the epoch, not included."""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Return the filter that query parameters describe; other parameters are ignored.

        Times are RFC 3339, or `15m`, `2h` for that long ago. Raises `ValueError` that names the
        parameter, its value and what would be valid.
        """
        values: dict[str, Any] = {}
        for name in (*PATTERNS, "text", "correlation"):
            value = query.get(name, "").strip()
            if len(value) > MAX_LENGTH:
                raise ValueError(
                    f"{name} is {len(value)} characters long; at most {MAX_LENGTH} are allowed"
                )
            if value and value != ">":
                values[name] = value
        if severity := query.get("severity", "").strip():
            values["severity"] = parse_severity(severity)
        for name in ("since", "until"):
            if value := query.get(name, "").strip():
                values[name] = parse_moment(name, value)
        if "since" in values and "until" in values and values["since"] >= values["until"]:
            raise ValueError(
                f"the time range is empty: since {query['since']} is not before until"
                f" {query['until']}"
            )
        if text := values.get("text"):
            parse_phrases(text)
        return cls(**values)

    def to_query(self) -> dict[str, str]:
        """Return the query parameters that `from_query` reads back as this filter."""
        query = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, Severity):
                query[name] = value.name
            elif isinstance(value, int):
                query[name] = format_moment(value)
            else:
                query[name] = value
        return query

    def matches(self, event: Event) -> bool:
        """Whether an event matches; history finds the same events."""
        return all(check(event) for check in _compile_checks(self))

    def matcher(self) -> Callable[[Event], bool]:
        """Return `matches` as a function, for many events."""
        checks = _compile_checks(self)
        if not checks:
            return lambda event: True
        if len(checks) == 1:
            return checks[0]
        return lambda event: all(check(event) for check in checks)

    def exact_match(self) -> tuple[str, str] | None:
        """Return a part that is not a pattern, with the value that all matching events have."""
        for name in ("correlation", "subject", "type", "source", "origin"):
            text = getattr(self, name)
            if text is not None and (name == "correlation" or compile_pattern(text) is None):
                return name, text
        return None


PATTERNS: Final = ("source", "origin", "type", "subject")


def parse_phrases(text: str) -> list[tuple[str, bool]]:
    """Return each phrase of a text search, and whether its last word is only a prefix.

    Raises `ValueError` for a text without a letter or a digit.
    """
    parts = [quoted or bare for quoted, bare in WORD.findall(text)]
    phrases = [(part, part.endswith("*")) for part in parts if split_words(part)]
    if not phrases:
        raise ValueError(f"text {text!r} has no letter or digit to search for")
    return phrases


def parse_moment(name: str, value: str) -> int:
    """Return the microseconds since the epoch of RFC 3339, of a duration ago such as `15m`, or of a
    number of microseconds.

    Raises `ValueError` that names the parameter `name`.
    """
    if ago := AGO.fullmatch(value):
        # Not before the epoch: a duration that long means "everything".
        return max(now() - int(ago[1]) * UNITS[ago[2].lower()], 0)
    if value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 18:
        return int(value)
    try:
        # A plus sign that was not encoded in an address arrives as a space.
        return parse_time(value.replace(" ", "+") if "T" in value else value)
    except ValueError:
        raise ValueError(
            f"{name} {value[:40]!r} is not a time; write 2026-01-31T12:00:00Z, or 15m for 15"
            " minutes ago"
        ) from None


def format_moment(microseconds: int) -> str:
    """Return a time as an address has it: RFC 3339, or the number where no calendar has it."""
    try:
        text = format_time(microseconds)
    except OverflowError:
        return str(microseconds)
    return text.replace(".000000Z", "Z")


@functools.lru_cache(maxsize=512)
def _compile_checks(chosen: Filter) -> tuple[Callable[[Event], bool], ...]:
    checks: list[Callable[[Event], bool]] = []
    if chosen.severity is not None:
        least = chosen.severity
        checks.append(lambda event: event.severity >= least)
    checks += [
        _pattern_check(name, text)
        for name in PATTERNS
        if (text := getattr(chosen, name)) is not None
    ]
    if chosen.correlation is not None:
        checks.append(lambda event: event.correlation == chosen.correlation)
    if (since := chosen.since) is not None:
        checks.append(lambda event: event.time >= since)
    if (until := chosen.until) is not None:
        checks.append(lambda event: event.time < until)
    if chosen.text is not None:
        phrases = [
            (" ".join(split_words(phrase)), prefix) for phrase, prefix in parse_phrases(chosen.text)
        ]
        checks.append(lambda event: _contains(event, phrases))
    return tuple(checks)


def _pattern_check(name: str, text: str) -> Callable[[Event], bool]:
    expression = compile_pattern(text)
    if expression is None:
        return lambda event: getattr(event, name) == text
    return lambda event: expression.fullmatch(getattr(event, name)) is not None


def _contains(event: Event, phrases: list[tuple[str, bool]]) -> bool:
    fields = _SEARCH_TEXTS.get(event)
    return all(
        any((f" {phrase}" if is_prefix else f" {phrase} ") in field for field in fields)
        for phrase, is_prefix in phrases
    )


class _SearchTexts:
    """The words of events, computed once for all filters that a batch is tested against.

    An event is tested against the filter of every live list; its words cost far more than to search
    in them. The texts in memory are bounded: beyond that, all are dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        # By identity, because events with the same content are different events; the event is
        # stored as well, so that its identity can't be reused meanwhile.
        self._texts: dict[int, tuple[Event, tuple[str, str]]] = {}

    def get(self, event: Event) -> tuple[str, str]:
        """The words of the subject and of the payload, each with a space before and after."""
        known = self._texts.get(id(event))
        if known is not None:
            return known[1]
        fields = _spaced_words(event.subject), _spaced_words(_payload_text(event))
        size = len(fields[0]) + len(fields[1])
        if self._size + size > self._limit:
            self.clear()
        self._size += size
        self._texts[id(event)] = event, fields
        return fields

    def clear(self) -> None:
        self._texts.clear()
        self._size = 0


_SEARCH_TEXTS: Final = _SearchTexts(4 * 1024 * 1024)


def forget_search_texts() -> None:
    """Drop the words of events; to be called when a batch has been tested."""
    _SEARCH_TEXTS.clear()


def _payload_text(event: Event) -> str:
    data = event.data if isinstance(event.data, msgspec.Raw) else msgspec.json.encode(event.data)
    return searched_text(bytes(data).decode("utf-8", "replace"))


def _spaced_words(text: str) -> str:
    return f" {' '.join(split_words(text))} "
