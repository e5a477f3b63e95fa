"""The last samples of every metric of every resource, in memory."""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from typing import Final

from almenara.signals import Sample
from almenara.units import MILLISECOND, MINUTE

SAMPLES_PER_SERIES: Final = 120
MAX_SERIES: Final = 250_000
"""Series of one origin; each takes up to 2 KiB of memory."""
SERIES_STALE: Final = 10 * MINUTE
PRUNE_INTERVAL: Final = MINUTE

Key = tuple[str, str, str]
"""Kind, namespace and name."""


class Series:
    """The last samples that one origin published of one metric of one resource.

    A ring of two numbers of 8 bytes each. Where several origins publish the same metric of the same
    resource, their series are chained by `other`: a viewer sees those of the origins that the scope
    shows and never the samples of a hidden one.
    """

    __slots__ = ("_oldest", "_times", "_values", "origin", "other")

    def __init__(self, origin: str = "") -> None:
        self.origin = origin
        self.other: Series | None = None
        self._oldest = 0
        self._times, self._values = array("q"), array("d")

    def append(self, moment: int, value: float) -> None:
        """Add a sample; the oldest is overwritten once there are `SAMPLES_PER_SERIES`."""
        if len(self._times) < SAMPLES_PER_SERIES:
            self._times.append(moment)
            self._values.append(value)
            return
        self._times[self._oldest] = moment
        self._values[self._oldest] = value
        self._oldest = (self._oldest + 1) % SAMPLES_PER_SERIES

    def prepend(self, moments: Sequence[int], values: Sequence[float]) -> None:
        """Add samples that are older than those that are there; the newest of all stay."""
        if not self._times:
            self._times = array("q", moments[-SAMPLES_PER_SERIES:])
            self._values = array("d", values[-SAMPLES_PER_SERIES:])
            return
        points = self.points()
        oldest = points[0][0] // MILLISECOND if points else None
        older = [
            (moment, value)
            for moment, value in zip(moments, values, strict=True)
            if oldest is None or moment // MILLISECOND < oldest
        ]
        points = (older + points)[-SAMPLES_PER_SERIES:]
        self._times = array("q", [moment for moment, _ in points])
        self._values = array("d", [value for _, value in points])
        self._oldest = 0

    @property
    def newest(self) -> float:
        """The value of the last sample; a stored series has at least one."""
        return self._values[self._oldest - 1]

    @property
    def newest_time(self) -> int:
        """When the last sample was measured, in microseconds since the epoch."""
        return self._times[self._oldest - 1]

    def points(self) -> list[tuple[int, float]]:
        """Return time in microseconds and value, oldest first."""
        points = list(zip(self._times, self._values, strict=True))
        return points[self._oldest :] + points[: self._oldest]

    def chain(self) -> "Iterator[Series]":
        """Yield the series of every origin, this one first."""
        series: Series | None = self
        while series is not None:
            yield series
            series = series.other


class SeriesTable:
    """Series by metric and key."""

    misses: int = 0
    """How often something was looked up that was not read yet; here everything is in memory."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._by_metric: dict[str, dict[Key, Series]] = {}
        """Without metrics that have no series: names can have labels, and any number come."""
        self._max_series = max_series
        self._counts: Counter[str] = Counter()
        self._pruned: dict[str, int] = {}
        self.dropped: Counter[str] = Counter()
        """Samples that were left out, because their origin has too many series."""

    def add(self, sample: Sample) -> bool:
        """Append a sample to the series of its origin, and return whether there was space.

        A new series of an origin that has `max_series` is left out, once those without a sample for
        `SERIES_STALE` have been removed.
        """
        series = self._find(sample.metric, sample.key, sample.origin)
        if series is None:
            if not self._has_space(sample.origin, sample.time):
                self.dropped[sample.origin] += 1
                return False
            series = self._create(sample.metric, sample.key, sample.origin)
        series.append(sample.time, sample.value)
        return True

    def restore(
        self, metric: str, key: Key, origin: str, moments: Sequence[int], values: Sequence[float]
    ) -> None:
        """Add stored samples before those that were published since; times in microseconds."""
        if not moments:
            return
        series = self._find(metric, key, origin)
        if series is None:
            if self._counts[origin] >= self._max_series:
                return
            series = self._create(metric, key, origin)
        series.prepend(moments, values)

    def _find(self, metric: str, key: Key, origin: str) -> Series | None:
        series = self._by_metric.get(metric, {}).get(key)
        while series is not None and series.origin != origin:
            series = series.other
        return series

    def _create(self, metric: str, key: Key, origin: str) -> Series:
        self._counts[origin] += 1
        series, of_metric = Series(origin), self._by_metric.setdefault(metric, {})
        series.other = of_metric.get(key)
        of_metric[key] = series
        return series

    def get(self, metric: str, key: Key) -> Series | None:
        """Return the series of a metric of one resource; those of further origins follow it."""
        of_metric = self._by_metric.get(metric)
        return None if of_metric is None else of_metric.get(key)

    def newest(self, metric: str, key: Key) -> Series | None:
        """Return the same series, of which the last sample alone is needed."""
        return self.get(metric, key)

    async def load(self, seen: int) -> bool:
        """Read what was missing; return whether there were misses after the first `seen`."""
        return False

    async def prefetch(self, pairs: Set[tuple[str, Key]]) -> None:
        """Read the last sample of the series of metrics and resources, where they are missing."""

    def metrics(self) -> list[str]:
        """List the names of all metrics, in the order of their first sample."""
        return list(self._by_metric)

    def keys(self, metric: str) -> list[Key]:
        """List the resources that have samples of a metric, sorted."""
        return sorted(self._by_metric.get(metric, {}))

    def discard(self, key: Key) -> None:
        """Remove all series of a resource."""
        for metric, of_metric in list(self._by_metric.items()):
            first = of_metric.pop(key, None)
            if first is not None:
                self._counts.subtract(series.origin for series in first.chain())
                self._forget_empty(metric)

    def _has_space(self, origin: str, moment: int) -> bool:
        if self._counts[origin] < self._max_series:
            return True
        # Looking at every series is expensive, and so is done rarely while an origin is full.
        if moment - self._pruned.get(origin, 0) >= PRUNE_INTERVAL:
            self._pruned[origin] = moment
            self._prune(origin, moment - SERIES_STALE)
        return self._counts[origin] < self._max_series

    def _prune(self, origin: str, before: int) -> None:
        """Remove the series of an origin whose newest sample is older than a time."""
        for metric, of_metric in list(self._by_metric.items()):
            for key, first in list(of_metric.items()):
                chain = list(first.chain())
                fresh = [
                    series
                    for series in chain
                    if series.origin != origin or series.newest_time >= before
                ]
                if len(fresh) == len(chain):
                    continue
                self._counts[origin] -= len(chain) - len(fresh)
                for series, following in zip(fresh, [*fresh[1:], None], strict=False):
                    series.other = following
                if fresh:
                    of_metric[key] = fresh[0]
                else:
                    del of_metric[key]
            self._forget_empty(metric)

    def _forget_empty(self, metric: str) -> None:
        if not self._by_metric[metric]:
            del self._by_metric[metric]
