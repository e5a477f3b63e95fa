"""A page of metrics, read and mapped to samples.

The text format: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import accumulate
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
    lines = body.decode("utf-8", "replace").split("\n")
    # By what is said of types, the parser gives counters names that the page does not have.
    said = [line for line in lines if not _is_comment(line)]
    try:
        return Page(list(_series("\n".join(said) + "\n")), [])
    except Exception:
        # The parser raises what it happens to run into. Line by line, the rest can still be read.
        return _line_by_line(lines)


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _series(text: str) -> Iterable[Series]:
    for family in text_string_to_metric_families(text):
        for it in family.samples:
            yield Series(it.name, it.labels, float(it.value))


def _line_by_line(lines: Sequence[str]) -> Page:
    found: list[Series] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or _is_comment(line):
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


Place = tuple[int, str]
"""Which mapping, by its `id`, and the name that it gives."""
SeriesKey = tuple[int, Set[tuple[str, str]]]
"""Which mapping, and the labels of a series of it, without the limit of a bucket."""
Counts = Mapping[float, float]
"""How many there are up to each limit; of a counter, which has no limits, up to infinity."""


class Mapper:
    """Makes readings of pages; remembers the last page, for what counts up.

    What a counter or a histogram has grown by is taken of each series alone and then added up, so
    that neither one that goes nor one that is new makes a peak: as `rate` of Prometheus has it, a
    series counts from its second page on.
    """

    def __init__(self, target: str, mappings: Sequence[MetricSettings]) -> None:
        self.target = target
        self._by_name: dict[str, list[MetricSettings]] = defaultdict(list)
        for mapping in mappings:
            name = f"{mapping.metric}_bucket" if mapping.quantile is not None else mapping.metric
            self._by_name[name].append(mapping)
        self._moment = 0.0
        self._before: Mapping[SeriesKey, Counts] = {}
        """The counts of each series that counts up."""
        self._held: set[tuple[str, str]] = set()

    def map(self, page: Page, moment: float) -> list[Reading]:
        """The readings of a page that was read at `moment`, in seconds that never go back."""
        sums: dict[Place, float] = defaultdict(float)
        counts: dict[SeriesKey, dict[float, float]] = defaultdict(lambda: defaultdict(float))
        grown: dict[Place, dict[float, float]] = defaultdict(lambda: defaultdict(float))
        mappings: dict[int, MetricSettings] = {}
        names: dict[SeriesKey, str] = {}
        self._held = set()
        for series in page.series:
            for mapping in self._by_name.get(series.name, ()):
                if any(series.labels.get(it) != value for it, value in mapping.labels.items()):
                    continue
                if math.isnan(series.value):
                    continue
                name = self._named(mapping, series.labels)
                mappings[id(mapping)] = mapping
                self._held.add((mapping.kind, name))
                if not mapping.rate and mapping.quantile is None:
                    sums[id(mapping), name] += series.value
                    continue
                limit = math.inf if mapping.rate else _number(series.labels.get("le", ""))
                if limit is not None and math.isfinite(series.value):
                    labels = frozenset(it for it in series.labels.items() if it[0] != "le")
                    counts[id(mapping), labels][limit] += series.value
                    names[id(mapping), labels] = name
        for key, after in counts.items():
            if (before := self._before.get(key)) is not None:
                total = grown[key[0], names[key]]
                for limit, count in increase(before, after).items():
                    total[limit] += count
        passed = moment - self._moment
        self._before, self._moment = counts, moment
        values = list(sums.items())
        for place, more in grown.items():
            share = mappings[place[0]].quantile
            if share is None:
                values += [(place, more[math.inf] / passed)] if passed > 0 else []
            elif (value := quantile(share, more)) is not None:
                values.append((place, value))
        return [
            Reading(mapping=mappings[which], name=name, value=value * mappings[which].scale)
            for (which, name), value in values
            if math.isfinite(value * mappings[which].scale)
        ]

    def holds(self, kind: str, name: str) -> bool:
        """Whether the last page had something of this name, even if no reading came of it."""
        return (kind, name) in self._held

    def _named(self, mapping: MetricSettings, labels: Mapping[str, str]) -> str:
        name = PLACE.sub(
            lambda it: self.target if it[1] == "target" else labels.get(it[1], ""), mapping.name
        )
        return name[:LONGEST_NAME] or self.target


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def increase(before: Counts, after: Counts) -> Counts:
    """What came between two pages. Counts that are lower than before were started over: all of
    them is new."""
    if any(after[limit] < before.get(limit, 0.0) for limit in after):
        return after
    return {limit: count - before.get(limit, 0.0) for limit, count in after.items()}


def quantile(share: float, counts: Counts) -> float | None:
    """The value below which a share of what was counted lies; None where nothing was.

    As `histogram_quantile` of Prometheus has it: evenly spread within a bucket; the upper limit of
    the last but one where the rank is in the last, which has none.
    """
    limits = sorted(counts)
    if not limits or limits[-1] != math.inf:
        return None
    # Buckets are read one after another while the server counts; make them rise.
    risen = list(accumulate((counts[it] for it in limits), max))
    total = risen[-1]
    if total <= 0:
        return None
    rank = share * total
    place = next(it for it, count in enumerate(risen) if count >= rank)
    if limits[place] == math.inf:
        return limits[place - 1] if place else None
    lower = limits[place - 1] if place else min(0.0, limits[0])
    under = risen[place - 1] if place else 0.0
    within = risen[place] - under
    return lower + (limits[place] - lower) * ((rank - under) / within if within else 1.0)
