"""Current state: the latest of every resource and its last samples, as the bus tells them."""

import copy
import time
from array import array
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final, Self

from almenara.bus import Bus, Readable, Record
from almenara.bus.codec import latest_observations
from almenara.scope import FULL_SCOPE, Scope, namespace_of
from almenara.signals import Resource, Sample

SAMPLES_KEPT: Final = 120
OBSERVATIONS_READ: Final = 5_000
GONE_KEPT: Final = 300.0
"""Seconds a resource that is gone can still be seen."""

Key = tuple[str, str, str]


class Series:
    """The last samples of a metric of one thing: a ring of two numbers of 8 bytes each."""

    __slots__ = ("_oldest", "_times", "_values")

    def __init__(self) -> None:
        self._oldest = 0
        self._times, self._values = array("q"), array("d")

    def append(self, moment: int, value: float) -> None:
        """Take a sample; the oldest makes room where there are `SAMPLES_KEPT`."""
        if len(self._times) < SAMPLES_KEPT:
            self._times.append(moment)
            self._values.append(value)
            return
        self._times[self._oldest] = moment
        self._values[self._oldest] = value
        self._oldest = (self._oldest + 1) % SAMPLES_KEPT

    @property
    def newest(self) -> float:
        """The value of the last sample; there is one in every series that is kept."""
        return self._values[self._oldest - 1]

    def points(self) -> list[tuple[int, float]]:
        """Time in microseconds, and value, oldest first."""
        found = list(zip(self._times, self._values, strict=True))
        return found[self._oldest :] + found[: self._oldest]


class Resources:
    """What exists now, rebuilt from the log at start and followed from there."""

    def __init__(self) -> None:
        self.sequence = 0
        self._scope = FULL_SCOPE
        self._sampled_by: dict[Key, str] = {}
        """The origin of the last sample of each key."""
        self._kinds: dict[str, dict[Key, Resource]] = defaultdict(dict)
        self._order: dict[str, list[Key]] = {}
        """The keys of a kind as they are sorted, until one comes or goes."""
        self._series: dict[str, dict[Key, Series]] = defaultdict(dict)
        """The last samples of each key, by metric."""
        self._gone: deque[tuple[float, Resource]] = deque()

    def within(self, scope: Scope) -> Self:
        """The same resources as somebody with that scope may see them."""
        narrowed = copy.copy(self)
        narrowed._scope = scope
        return narrowed

    async def rebuild(self, log: Readable) -> None:
        """Take in the last observations of the log; sources soon tell the rest again."""
        self.accept(
            await log.read(lambda connection: latest_observations(connection, OBSERVATIONS_READ))
        )

    async def follow(self, bus: Bus, after: int) -> None:
        """Take in every signal after a sequence, until cancelled."""
        async for batch in bus.subscribe(after):
            self.accept(batch)

    def accept(self, batch: Sequence[Record]) -> None:
        """Take in records, in the order of the log."""
        for record in batch:
            signal = record.signal
            if isinstance(signal, Sample):
                of_metric, key = self._series[signal.metric], signal.key
                if (series := of_metric.get(key)) is None:
                    series = of_metric[key] = Series()
                series.append(signal.time, signal.value)
                self._sampled_by[key] = signal.origin
            elif isinstance(signal, Resource):
                found, key = self._kinds[signal.kind], signal.key
                if key not in found:
                    self._order.pop(signal.kind, None)
                found[key] = signal
                if signal.deleted:
                    self._gone.append((time.monotonic(), signal))
        if batch:
            self.sequence = batch[-1].sequence
        self._forget_gone()

    def _forget_gone(self) -> None:
        while self._gone and self._gone[0][0] < time.monotonic() - GONE_KEPT:
            _, resource = self._gone.popleft()
            if self._kinds[resource.kind].get(resource.key) is resource:
                del self._kinds[resource.kind][resource.key]
                self._order.pop(resource.kind, None)
                self._sampled_by.pop(resource.key, None)
                for series in self._series.values():
                    series.pop(resource.key, None)

    def namespaces(self) -> set[str]:
        """The namespaces that resources are in, or are themselves."""
        return {namespace_of(it) for found in self._kinds.values() for it in found.values()}

    def kinds(self) -> list[str]:
        """The kinds there are, sorted."""
        if self._scope.is_full:
            return sorted(kind for kind, found in self._kinds.items() if found)
        return sorted(
            kind
            for kind, found in self._kinds.items()
            if any(map(self._scope.permits, found.values()))
        )

    def all(self) -> list[Resource]:
        """Every resource, by kind, namespace and name."""
        return [resource for kind in self.kinds() for resource in self.of_kind(kind)]

    def of_kind(self, kind: str, namespace: str = "") -> list[Resource]:
        """The resources of a kind, by namespace and name; those of one namespace, or all."""
        found = self._kinds.get(kind, {})
        keys = self._order.get(kind)
        if keys is None:
            keys = self._order[kind] = sorted(found)
        if namespace:
            first = bisect_left(keys, (kind, namespace, ""))
            keys = keys[first : bisect_left(keys, (kind, namespace + "\0", ""))]
        if self._scope.is_full:
            return [found[key] for key in keys]
        return [it for key in keys if self._scope.permits(it := found[key])]

    def get(self, kind: str, namespace: str, name: str) -> Resource | None:
        """One resource, or None."""
        found = self._kinds.get(kind, {}).get((kind, namespace, name))
        return found if found is not None and self._scope.permits(found) else None

    def _known(self, key: Key) -> Resource:
        """The resource of a key or, where samples alone tell of it, its names and origin."""
        return self._kinds.get(key[0], {}).get(key) or Resource(
            kind=key[0], namespace=key[1], name=key[2], origin=self._sampled_by.get(key, "")
        )

    def _visible(self, key: Key) -> bool:
        return self._scope.is_full or self._scope.permits(self._known(key))

    def series(self, kind: str, namespace: str, name: str, metric: str) -> list[tuple[int, float]]:
        """Time and value of the last samples of a metric, oldest first."""
        key = (kind, namespace, name)
        series = self._series.get(metric, {}).get(key)
        return series.points() if series is not None and self._visible(key) else []

    def with_metric(self, metric: str) -> list[Resource]:
        """What there are samples of a metric of, by kind, namespace and name.

        Where a source told samples of something and never the thing itself, only its names are in
        the resource.
        """
        return [
            self._known(key) for key in sorted(self._series.get(metric, {})) if self._visible(key)
        ]

    def latest(self, kind: str, namespace: str, name: str, metric: str) -> float | None:
        """The newest value of a metric, or None."""
        key = (kind, namespace, name)
        series = self._series.get(metric, {}).get(key)
        return series.newest if series is not None and self._visible(key) else None

    def metrics(self, resource: Resource) -> dict[str, float]:
        """The newest value of every metric of a resource."""
        if not self._visible(resource.key):
            return {}
        return {
            metric: series.newest
            for metric, of_key in self._series.items()
            if (series := of_key.get(resource.key))
        }
