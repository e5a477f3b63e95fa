"""Parses a page of metrics; only the lines that are mapped.

The text format: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

SHOWN_PROBLEMS: Final = 3
SHOWN_LINE: Final = 60
PROBED_LINES: Final = 100
"""Lines that are parsed of a page without a mapped one, to see whether it is a page of metrics."""
LONGEST_LINE: Final = 16_384
"""Characters of a line that is parsed: the parser takes time quadratic in the labels of a line."""
CUT_OFF: Final = "its page is cut off: the last line has no line feed"
DATA_LINE: Final = re.compile(rb"^[ \t]*[^#\s]", re.MULTILINE)


class Series(msgspec.Struct, frozen=True):
    """One line of a page."""

    name: str
    labels: Mapping[str, str]
    value: float


class MetricsPage(msgspec.Struct, frozen=True):
    """The mapped series of a page, and which lines could not be parsed."""

    series: Sequence[Series]
    problems: Sequence[str]
    lines: int = 0
    """Lines of the page with a series, mapped or not."""
    is_readable: bool = True
    """Whether at least one line of the page is a series, and the page is complete."""
    is_complete: bool = True


class MetricFilter:
    """Finds the lines of some metrics, a hundred times faster than parsing all of them."""

    def __init__(self, names: Collection[str]) -> None:
        alternatives = b"|".join(re.escape(name.encode()) for name in sorted(names, reverse=True))
        self._line = re.compile(rb"^[ \t]*(?:" + alternatives + rb")[ \t{][^\n]*", re.MULTILINE)

    def select(self, body: bytes) -> list[tuple[int, str]]:
        """Return the numbers and the text of the lines."""
        lines = []
        number, end = 1, 0
        for match in self._line.finditer(body):
            number += body.count(b"\n", end, match.start())
            end = match.start()
            lines.append((number, match[0].decode("utf-8", "replace")))
        return lines


def read_page(body: bytes, only: MetricFilter | None = None) -> MetricsPage:
    """Return the series of a page, of some metrics or of all. A line that cannot be parsed is a
    problem and affects no other line.

    A page without the line feed that the format requires at its end is cut off: its last value may
    be a part of a number, and what follows is unknown. Prometheus refuses it as well.
    """
    count = sum(1 for _ in DATA_LINE.finditer(body))
    lines = only.select(body) if only is not None else _data_lines(body)
    series, problems = _parse(lines)
    is_readable = bool(series)
    if not series and not problems and only is not None:
        probed, problems = _parse(_data_lines(body, PROBED_LINES))
        is_readable = bool(probed)
    if is_readable and not body.endswith(b"\n"):
        return MetricsPage((), (), count, is_readable=False, is_complete=False)
    unique, repeated = _drop_repeats(series)
    return MetricsPage(unique, [*problems, *repeated], count, is_readable)


def describe_problems(problems: Sequence[str]) -> str:
    """Return the lines that could not be parsed, in one sentence."""
    shown = "; ".join(problems[:SHOWN_PROBLEMS])
    more = len(problems) - SHOWN_PROBLEMS
    return f"cannot be read: {shown}" + (f" and {more} more" if more > 0 else "")


def describe_unreadable(page: MetricsPage) -> str:
    """Return why a page is not a page of metrics."""
    if not page.is_complete:
        return CUT_OFF
    if not page.problems:
        return "its page has no series"
    return f"{len(page.problems)} lines of its page {describe_problems(page.problems)}"


def _data_lines(body: bytes, limit: int | None = None) -> list[tuple[int, str]]:
    lines = []
    for number, line in enumerate(body.decode("utf-8", "replace").split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            lines.append((number, line))
            if len(lines) == limit:
                break
    return lines


def _parse(lines: Sequence[tuple[int, str]]) -> tuple[list[Series], list[str]]:
    if any(len(line) > LONGEST_LINE for _, line in lines):
        return _parse_each(lines)
    # Comments are left out: by their types, the parser gives counters names the page does not have.
    try:
        return list(_read_series("\n".join(line for _, line in lines) + "\n")), []
    except Exception:
        # The parser raises what it happens to run into. Line by line, the rest can be parsed.
        return _parse_each(lines)


def _parse_each(lines: Sequence[tuple[int, str]]) -> tuple[list[Series], list[str]]:
    series: list[Series] = []
    problems: list[str] = []
    for number, line in lines:
        if len(line) > LONGEST_LINE:
            problems.append(f"line {number} has more than {LONGEST_LINE:,} characters")
            continue
        try:
            series += _read_series(line + "\n")
        except Exception:
            problems.append(f"line {number}: {line.strip()[:SHOWN_LINE]!r}")
    return series, problems


def _read_series(text: str) -> Iterable[Series]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield Series(sample.name, sample.labels, float(sample.value))


def _drop_repeats(series: Sequence[Series]) -> tuple[list[Series], list[str]]:
    """A series that is on the page twice is a fault of the page; its first value counts."""
    unique: dict[tuple[str, frozenset[tuple[str, str]]], Series] = {}
    repeats: dict[str, None] = {}
    for each in series:
        if unique.setdefault((each.name, frozenset(each.labels.items())), each) is not each:
            repeats[f"{each.name} is on the page twice with the same labels"] = None
    return list(unique.values()), list(repeats)
