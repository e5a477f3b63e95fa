"""A page of metrics, read and mapped to samples.

The text format: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from almenara_prometheus.settings import MetricSettings

PLACE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
LONGEST_NAME: Final = 200
PROBLEMS_TOLD: Final = 3


class Series(msgspec.Struct, frozen=True):
    """One line of a page."""

    name: str
    labels: Mapping[str, str]
    value: float


class Page(msgspec.Struct, frozen=True):
    """What a page says, and which of its lines could not be read."""

    series: Sequence[Series]
    problems: Sequence[str]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a page for a sample."""

    mapping: MetricSettings
    name: str
    value: float


def read_page(body: bytes) -> Page:
    """The series of a page; a line that cannot be read is a problem and spoils no other."""
    text = body.decode("utf-8", "replace")
    try:
        return Page(list(_series(text)), [])
    except Exception:
        # The parser raises what it happens to run into. Line by line, the rest can still be read.
        return _line_by_line(text)


def _series(text: str) -> Iterable[Series]:
    for family in text_string_to_metric_families(text):
        for it in family.samples:
            yield Series(it.name, it.labels, float(it.value))


def _line_by_line(text: str) -> Page:
    found: list[Series] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            found += _series(line + "\n")
        except Exception:
            problems.append(f"line {number}: {line.strip()[:60]!r}")
    return Page(found, problems)


def told(problems: Sequence[str]) -> str:
    """The lines that could not be read, in one sentence."""
    shown = "; ".join(problems[:PROBLEMS_TOLD])
    more = len(problems) - PROBLEMS_TOLD
    return f"cannot be read: {shown}" + (f" and {more} more" if more > 0 else "")


class Mapper:
    """Makes readings of pages; remembers the last page, for what counts up."""

    def __init__(self, target: str, mappings: Sequence[MetricSettings]) -> None:
        self.target = target
        self._by_name: dict[str, list[MetricSettings]] = defaultdict(list)
        for mapping in mappings:
            name = f"{mapping.metric}_bucket" if mapping.quantile is not None else mapping.metric
            self._by_name[name].append(mapping)
        self._counted: dict[tuple[int, str], tuple[float, float]] = {}
        self._buckets: dict[tuple[int, str], dict[float, float]] = {}
        self._names: set[str] = set()

    def map(self, page: Page, moment: float) -> list[Reading]:
        """The readings of a page that was read at `moment`, in seconds that never go back."""
        sums: dict[tuple[int, str], float] = defaultdict(float)
        buckets: dict[tuple[int, str], dict[float, float]] = defaultdict(lambda: defaultdict(float))
        known: dict[int, MetricSettings] = {}
        for series in page.series:
            for mapping in self._by_name.get(series.name, ()):
                if any(series.labels.get(it) != value for it, value in mapping.labels.items()):
                    continue
                if math.isnan(series.value):
                    continue
                key = (id(mapping), self._named(mapping, series.labels))
                known[id(mapping)] = mapping
                if mapping.quantile is None:
                    sums[key] += series.value
                elif (limit := _number(series.labels.get("le", ""))) is not None:
                    buckets[key][limit] += series.value
        found = [
            Reading(mapping=known[key[0]], name=key[1], value=value * known[key[0]].scale)
            for key, total in sums.items()
            if (value := self._value(known[key[0]], key, total, moment)) is not None
        ]
        for key, counts in buckets.items():
            mapping = known[key[0]]
            before = self._buckets.get(key)
            self._buckets[key] = dict(counts)
            if before is None or mapping.quantile is None:
                continue
            if (value := quantile(mapping.quantile, before, counts)) is not None:
                found.append(Reading(mapping=mapping, name=key[1], value=value * mapping.scale))
        self._forget(sums.keys(), buckets.keys())
        self._names = {name for _, name in (*sums, *buckets)}
        return found

    def holds(self, name: str) -> bool:
        """Whether the last page had something of this name, even if no reading came of it."""
        return name in self._names

    def _named(self, mapping: MetricSettings, labels: Mapping[str, str]) -> str:
        name = PLACE.sub(
            lambda it: self.target if it[1] == "target" else labels.get(it[1], ""), mapping.name
        )
        return name[:LONGEST_NAME] or self.target

    def _value(
        self, mapping: MetricSettings, key: tuple[int, str], total: float, moment: float
    ) -> float | None:
        if not mapping.rate:
            return total if math.isfinite(total) else None
        before = self._counted.get(key)
        self._counted[key] = (moment, total)
        if before is None or moment <= before[0]:
            return None
        # A counter that is lower than before was started over: all of it is new.
        grown = total - before[1] if total >= before[1] else total
        return grown / (moment - before[0])

    def _forget(self, counted: Iterable[tuple[int, str]], held: Iterable[tuple[int, str]]) -> None:
        present = set(counted)
        self._counted = {key: value for key, value in self._counted.items() if key in present}
        present = set(held)
        self._buckets = {key: value for key, value in self._buckets.items() if key in present}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def quantile(
    share: float, before: Mapping[float, float], after: Mapping[float, float]
) -> float | None:
    """The value below which a share of what came between two pages lies; None where nothing came.

    As `histogram_quantile` of Prometheus has it: evenly spread within a bucket; the upper limit of
    the last but one where the rank is in the last, which has none.
    """
    limits = sorted(after)
    if not limits or limits[-1] != math.inf:
        return None
    started_over = any(after[it] < before.get(it, 0.0) for it in limits)
    counts = [after[it] - (0.0 if started_over else before.get(it, 0.0)) for it in limits]
    # Buckets are read one after another while the server counts; make them rise.
    for place in range(1, len(counts)):
        counts[place] = max(counts[place], counts[place - 1])
    total = counts[-1]
    if total <= 0:
        return None
    rank = share * total
    place = next(it for it, count in enumerate(counts) if count >= rank)
    if limits[place] == math.inf:
        return limits[place - 1] if place else None
    lower = limits[place - 1] if place else min(0.0, limits[0])
    under = counts[place - 1] if place else 0.0
    within = counts[place] - under
    return lower + (limits[place] - lower) * ((rank - under) / within if within else 1.0)
