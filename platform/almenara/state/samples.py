"""The last samples of every metric of every resource, in memory."""

from array import array
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from almenara.signals import Sample

SAMPLES_PER_SERIES: Final = 120

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

    def __init__(self) -> None:
        self._by_metric: dict[str, dict[Key, Series]] = defaultdict(dict)

    def add(self, sample: Sample) -> None:
        """Append a sample to the series of its origin."""
        of_metric, key = self._by_metric[sample.metric], sample.key
        first = of_metric.get(key)
        series = first
        while series is not None and series.origin != sample.origin:
            series = series.other
        if series is None:
            series = Series(sample.origin)
            series.other = first
            of_metric[key] = series
        series.append(sample.time, sample.value)

    def get(self, metric: str, key: Key) -> Series | None:
        """Return the series of a metric of one resource; those of further origins follow it."""
        of_metric = self._by_metric.get(metric)
        return None if of_metric is None else of_metric.get(key)

    def metrics(self) -> list[str]:
        """List the names of all metrics, in the order of their first sample."""
        return list(self._by_metric)

    def keys(self, metric: str) -> list[Key]:
        """List the resources that have samples of a metric, sorted."""
        return sorted(self._by_metric.get(metric, {}))

    def discard(self, key: Key) -> None:
        """Remove all series of a resource."""
        for of_metric in self._by_metric.values():
            of_metric.pop(key, None)
