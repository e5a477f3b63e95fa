"""Maps the series of a page to readings: values of samples."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final

import msgspec

from almenara.sdk.exposition import MetricFilter, MetricsPage, Series
from almenara.sdk.histograms import increase, parse_limit, quantile
from almenara_prometheus.settings import MetricSettings

PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
LONGEST_NAME: Final = 200

Combine = Callable[[Sequence[float]], float]

COMBINE: Final[Mapping[str, Combine]] = {
    "sum": math.fsum,
    "mean": lambda values: math.fsum(values) / len(values),
    "max": max,
    "min": min,
}


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a page for a sample."""

    mapping: MetricSettings
    name: str
    value: float


class Slot(msgspec.Struct, frozen=True):
    """What several series are combined into: one metric of one resource."""

    mapping: int
    """Index of the mapping."""
    name: str
    """Name of the resource."""


class SeriesKey(msgspec.Struct, frozen=True):
    """One series of a mapping, over several pages."""

    mapping: int
    labels: Set[tuple[str, str]]
    """Its labels without the limit of a bucket."""


class Counter(msgspec.Struct):
    """The counts of one series that counts up."""

    slot: Slot
    counts: dict[float, float]


class MetricMapper:
    """Makes readings of the pages of one target; remembers the last page, for counters.

    The increase of a counter or a histogram is computed for each series alone and then combined, so
    that neither one that disappears nor a new one makes a peak: as with `rate` of Prometheus, a
    series counts from its second page on.
    """

    def __init__(self, target: str, mappings: Sequence[MetricSettings]) -> None:
        self.target, self.mappings = target, mappings
        self._by_metric: dict[str, list[int]] = defaultdict(list)
        for index, mapping in enumerate(mappings):
            suffix = "_bucket" if mapping.quantile is not None else ""
            self._by_metric[f"{mapping.metric}{suffix}"].append(index)
        self.filter = MetricFilter(self._by_metric.keys())
        """Selects the lines of a page that are mapped."""
        self._moment = 0.0
        self._counters: dict[SeriesKey, Counter] = {}
        self._present: set[tuple[str, str]] = set()

    def map(self, page: MetricsPage, moment: float) -> list[Reading]:
        """Return the readings of a page that was read at `moment`, in seconds of a monotonic
        clock."""
        gauges: dict[Slot, list[float]] = defaultdict(list)
        counters: dict[SeriesKey, Counter] = {}
        self._present = set()
        for series in page.series:
            for index in self._by_metric.get(series.name, ()):
                self._collect(index, series, gauges, counters)
        interval = moment - self._moment
        rates, histograms = increases(self._counters, counters)
        self._counters, self._moment = counters, moment
        readings = [self._combine(slot, values) for slot, values in gauges.items()]
        for slot, growth in rates.items():
            if self.mappings[slot.mapping].rate and interval > 0:
                readings.append(self._combine(slot, [each / interval for each in growth]))
        for slot, counts in histograms.items():
            share = self.mappings[slot.mapping].quantile
            if share is not None and (value := quantile(share, counts)) is not None:
                readings.append(self._combine(slot, [value]))
        return [reading for reading in readings if math.isfinite(reading.value)]

    def _collect(
        self,
        index: int,
        series: Series,
        gauges: dict[Slot, list[float]],
        counters: dict[SeriesKey, Counter],
    ) -> None:
        """Note a series under its mapping, if its labels fit."""
        mapping = self.mappings[index]
        if any(series.labels.get(label) != value for label, value in mapping.labels.items()):
            return
        if math.isnan(series.value):
            return
        slot = Slot(index, self._resource_name(mapping, series.labels))
        self._present.add((mapping.kind, slot.name))
        if not mapping.rate and mapping.quantile is None:
            gauges[slot].append(series.value)
            return
        limit = math.inf if mapping.rate else parse_limit(series.labels.get("le", ""))
        if limit is None or not math.isfinite(series.value):
            return
        labels = frozenset(item for item in series.labels.items() if item[0] != "le")
        counter = counters.setdefault(SeriesKey(index, labels), Counter(slot, {}))
        counter.counts[limit] = counter.counts.get(limit, 0.0) + series.value

    def _combine(self, slot: Slot, values: Sequence[float]) -> Reading:
        mapping = self.mappings[slot.mapping]
        try:
            value = COMBINE[mapping.how_to_combine](values) * mapping.scale
        except (OverflowError, ValueError):
            # `fsum` of infinities of both signs, or of what exceeds a float.
            value = math.nan
        return Reading(mapping=mapping, name=slot.name, value=value)

    def is_present(self, kind: str, name: str) -> bool:
        """Whether the last page had a series of this resource, even without a reading."""
        return (kind, name) in self._present

    def _resource_name(self, mapping: MetricSettings, labels: Mapping[str, str]) -> str:
        def fill(match: re.Match[str]) -> str:
            return self.target if match[1] == "target" else labels.get(match[1], "")

        return PLACEHOLDER.sub(fill, mapping.name)[:LONGEST_NAME] or self.target


def increases(
    before: Mapping[SeriesKey, Counter], after: Mapping[SeriesKey, Counter]
) -> tuple[dict[Slot, list[float]], dict[Slot, dict[float, float]]]:
    """Return what each series has grown by since the last page: in total, a value per series, and
    per limit, added up over the series of a histogram."""
    totals: dict[Slot, list[float]] = defaultdict(list)
    limits: dict[Slot, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for key, counter in after.items():
        if key not in before:
            continue
        growth = increase(before[key].counts, counter.counts)
        totals[counter.slot].append(growth.get(math.inf, 0.0))
        for limit, count in growth.items():
            limits[counter.slot][limit] += count
    return totals, limits
