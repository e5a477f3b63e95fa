"""Which events are wanted: the filters of pages, of the API and of the terminal."""

import functools
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import msgspec

from almenara.patterns import compile_pattern
from almenara.signals import Event, Severity, format_time, now, parse_severity, parse_time

WORD: Final = re.compile(r'"([^"]*)"|(\S+)')
TOKEN: Final = re.compile(r"[^\W_]+", re.UNICODE)
AGO: Final = re.compile(r"(\d{1,9})\s*(s|m|h|d|w)", re.IGNORECASE)
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
LONGEST: Final = 512


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What an event must be like. A part that is None lets everything through.

    `source`, `origin`, `type` and `subject` are patterns as in NATS subjects: `*` stands for one
    part between dots, a last `>` for all the parts that remain.
    """

    source: str | None = None
    origin: str | None = None
    type: str | None = None
    subject: str | None = None
    severity: Severity | None = None
    """At least this severe."""
    text: str | None = None
    """Words that all occur in the subject or the payload; `"quoted words"` follow one another, and
    a last `*` stands for the rest of a word."""
    correlation: str | None = None
    since: int | None = None
    """Microseconds since the epoch, included."""
    until: int | None = None
    """Microseconds since the epoch, not included."""

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """The filter that the parameters of an address describe; others are left alone.

        Times are RFC 3339 or, as `15m` or `2h`, that long ago. Raises `ValueError` with the name
        of the parameter, what was found and what would be right.
        """
        values: dict[str, Any] = {}
        for name in (*PATTERNS, "text", "correlation"):
            value = query.get(name, "").strip()
            if len(value) > LONGEST:
                raise ValueError(f"{name} is {len(value)} characters long; {LONGEST} are read")
            if value and value != ">":
                values[name] = value
        if severity := query.get("severity", "").strip():
            values["severity"] = parse_severity(severity)
        for name in ("since", "until"):
            if value := query.get(name, "").strip():
                values[name] = _moment(name, value)
        if text := values.get("text"):
            phrases(text)
        return cls(**values)

    def to_query(self) -> dict[str, str]:
        """The parameters that `from_query` reads back as this filter."""
        query = {}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, Severity):
                query[name] = value.name
            elif isinstance(value, int):
                query[name] = _written(value)
            else:
                query[name] = value
        return query

    def matches(self, event: Event) -> bool:
        """Whether an event is wanted; the same events that a query of the history finds."""
        return all(check(event) for check in _checks(self))

    def matcher(self) -> Callable[[Event], bool]:
        """`matches` for many events one after the other."""
        checks = _checks(self)
        if not checks:
            return lambda event: True
        if len(checks) == 1:
            return checks[0]
        return lambda event: all(check(event) for check in checks)

    def exact_match(self) -> tuple[str, str] | None:
        """A part of it that is no pattern, and the name that all wanted events have there."""
        for name in ("correlation", "subject", "type", "source", "origin"):
            text = getattr(self, name)
            if text is not None and (name == "correlation" or compile_pattern(text) is None):
                return name, text
        return None


PATTERNS: Final = ("source", "origin", "type", "subject")


def phrases(text: str) -> list[tuple[str, bool]]:
    """Each phrase in a text search as it is written, and whether its last word is only a beginning.

    Raises `ValueError` for a text without a letter or a digit.
    """
    parts = [quoted or bare for quoted, bare in WORD.findall(text)]
    found = [(part, part.endswith("*")) for part in parts if words(part)]
    if not found:
        raise ValueError(f"text {text!r} has no letter or digit to look for")
    return found


def _moment(name: str, value: str) -> int:
    if ago := AGO.fullmatch(value):
        # No longer ago than the epoch, before which nobody has sent anything.
        return max(now() - int(ago[1]) * SECONDS[ago[2].lower()] * 1_000_000, 0)
    if value.lstrip("-").isdigit() and len(value) <= 18:
        return int(value)
    try:
        # A plus sign that was not encoded in an address arrives as a space.
        return parse_time(value.replace(" ", "+") if "T" in value else value)
    except ValueError:
        raise ValueError(
            f"{name} {value[:40]!r} is no time; write 2026-01-31T12:00:00Z, or 15m for 15 minutes"
            " ago"
        ) from None


def _written(microseconds: int) -> str:
    try:
        text = format_time(microseconds)
    except OverflowError:
        return str(microseconds)
    return text.replace(".000000Z", "Z")


@functools.lru_cache(maxsize=512)
def _checks(wanted: Filter) -> tuple[Callable[[Event], bool], ...]:
    checks: list[Callable[[Event], bool]] = []
    if wanted.severity is not None:
        least = wanted.severity
        checks.append(lambda event: event.severity >= least)
    checks += [
        _pattern_check(name, text)
        for name in PATTERNS
        if (text := getattr(wanted, name)) is not None
    ]
    if wanted.correlation is not None:
        checks.append(lambda event: event.correlation == wanted.correlation)
    if (since := wanted.since) is not None:
        checks.append(lambda event: event.time >= since)
    if (until := wanted.until) is not None:
        checks.append(lambda event: event.time < until)
    if wanted.text is not None:
        searched = [(words(phrase), beginning) for phrase, beginning in phrases(wanted.text)]
        checks.append(lambda event: _contains(event, searched))
    return tuple(checks)


def _pattern_check(name: str, text: str) -> Callable[[Event], bool]:
    expression = compile_pattern(text)
    if expression is None:
        return lambda event: getattr(event, name) == text
    return lambda event: expression.fullmatch(getattr(event, name)) is not None


def words(text: str) -> list[str]:
    """The words of a text as the index knows them: in lower case, without accents."""
    if not text.isascii():
        text = "".join(
            it for it in unicodedata.normalize("NFD", text) if unicodedata.category(it) != "Mn"
        )
    return TOKEN.findall(text.lower())


def _contains(event: Event, searched: list[tuple[list[str], bool]]) -> bool:
    data = event.data if isinstance(event.data, msgspec.Raw) else msgspec.json.encode(event.data)
    text = bytes(data).decode("utf-8", "replace").replace("\\n", "  ").replace("\\t", "  ")
    fields = [words(event.subject), words(text)]
    return all(
        any(_follow(phrase, field, beginning) for field in fields) for phrase, beginning in searched
    )


def _follow(phrase: list[str], field: list[str], beginning: bool) -> bool:
    count = len(phrase)
    for place in range(len(field) - count + 1):
        part = field[place : place + count]
        if part == phrase:
            return True
        if beginning and part[:-1] == phrase[:-1] and part[-1].startswith(phrase[-1]):
            return True
    return False
