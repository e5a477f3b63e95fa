"""Current state: the latest of every resource and its last samples, derived from the bus."""

import copy
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence, Set
from itertools import chain
from typing import Final, Self

import msgspec
import structlog

from almenara.bus import Bus, LogReader, Record
from almenara.bus.codec import read_latest_observations
from almenara.errors import LimitExceeded, Unavailable, describe_error
from almenara.scope import ALERT_KIND, FULL_SCOPE, INHIBITED_BY, Scope, namespace_of
from almenara.signals import OBSERVED_BY, UNKNOWN, Resource, Sample, mark_unknown
from almenara.state.past_states import PastStates
from almenara.state.recorder import StateRecorder
from almenara.state.sample_codec import Points
from almenara.state.sample_schema import SeriesName
from almenara.state.sample_store import SampleStore
from almenara.state.samples import MAX_SERIES, Key, Series, SeriesTable
from almenara.units import MILLISECOND

logger = structlog.get_logger(__name__)

OBSERVATIONS_READ: Final = 5_000
"""Newest resources and samples that are read from the log at start."""
OWN_ORIGINS: Final = "almenara"
"""How the origins of what Almenara itself publishes start."""
DELETED_VISIBLE: Final = 300.0
"""Seconds for which a deleted resource is still listed."""


class Resources:
    """What exists now, restored from the log at start and followed from there."""

    def __init__(
        self, store: SampleStore | None = None, recorder: StateRecorder | None = None
    ) -> None:
        self.sequence = 0
        self._store, self._recorder = store, recorder
        self.scope = FULL_SCOPE
        self._kinds: MutableMapping[str, dict[Key, Resource]] = defaultdict(dict)
        self._order: dict[str, list[Key]] = {}
        """The sorted keys of a kind, until one is added or removed."""
        self._samples = SeriesTable()
        self._states = None if recorder is None else PastStates(recorder, store)
        self._observed: frozenset[Key] = frozenset()
        """The resources that the log had at start."""
        self._deleted: deque[tuple[float, Resource]] = deque()
        self.unproven_sources: Callable[[], Mapping[str, int]] = dict
        """Returns the sources that do not work, by name, and since when: what they published is
        shown as unknown, as no one reports what becomes of it."""

    def within(self, scope: Scope) -> Self:
        """Return the same resources, limited to a scope."""
        narrowed = copy.copy(self)
        narrowed.scope = scope
        return narrowed

    async def rebuild(self, log: LogReader) -> None:
        """Read the newest checkpoint and what follows it in the log.

        Without a checkpoint, they are the newest observations of the log; sources soon publish the
        rest again. Where neither can be read, the state starts empty rather than not at all.
        """
        state = None if self._recorder is None else await self._recorder.restore()
        self._fill({} if state is None else state.resources)
        after = 0 if state is None else state.sequence
        try:
            records = await log.read(
                lambda connection: read_latest_observations(
                    connection, OBSERVATIONS_READ, log.decoder
                )
            )
        except (Unavailable, LimitExceeded) as error:
            logger.warning(
                "the current state could not be restored; sources publish it again",
                reason=describe_error(error),
            )
            return
        self._observed = frozenset(
            record.signal.key for record in records if isinstance(record.signal, Resource)
        )
        self.accept([record for record in records if record.sequence > after])

    def retain_sources(self, names: Set[str]) -> None:
        """Remove what a checkpoint had of sources that no longer exist, which no one reports on.
        Almenara's own stays, and what the log has, until retention removes it there."""
        for of_kind in self._kinds.values():
            for key, resource in list(of_kind.items()):
                is_own = resource.origin.startswith(OWN_ORIGINS)
                if key not in self._observed and not is_own and not has_source(resource, names):
                    del of_kind[key]
        self._order.clear()

    def _fill(self, resources: Mapping[Key, Resource]) -> None:
        for key, resource in resources.items():
            self._kinds[key[0]][key] = resource

    async def at(self, moment: int) -> Self | None:
        """Return the resources as of a moment in microseconds since the epoch.

        Their samples are read once they are needed: see `load_missing`. None where the moment is
        further back than checkpoints. Raises `Unavailable`.
        """
        if self._states is None:
            raise Unavailable("the past of resources is not stored")
        state = await self._states.read(moment)
        if state is None:
            return None
        past = type(self)()
        past.scope = self.scope
        # All views of a moment share what is read of it; nothing changes it.
        past._kinds, past._order = state.kinds, state.order
        if state.samples is not None:
            past._samples = state.samples
        return past

    @property
    def misses(self) -> int:
        """How often samples of the past were missing; 0 for the present."""
        return self._samples.misses

    async def prefetch(self, keys: Iterable[Key], metrics: Sequence[str]) -> None:
        """Read the newest samples of resources of the past at once. Raises as `load_missing`."""
        await self._samples.prefetch({(metric, key) for key in keys for metric in metrics})

    async def load_missing(self, seen: int) -> bool:
        """Read the samples of the past that were missing; return whether any were after the first
        `seen` misses. The present misses none.

        Raises `Unavailable` and `LimitExceeded`.
        """
        return await self._samples.load(seen)

    @property
    def recorder(self) -> StateRecorder | None:
        """What stores the past; None where it is not stored."""
        return self._recorder

    async def follow(self, bus: Bus, after: int) -> None:
        """Apply every signal after a sequence, until cancelled."""
        async for batch in bus.subscribe(after):
            self.accept(batch)

    def accept(self, batch: Sequence[Record]) -> None:
        """Apply records, in the order of the log."""
        stored: list[Record] = []
        changed: list[Resource] = []
        for record in batch:
            signal = record.signal
            if isinstance(signal, Sample):
                if self._samples.add(signal):
                    stored.append(record)
            elif isinstance(signal, Resource) and self._put(signal):
                changed.append(signal)
        if batch:
            self.sequence = batch[-1].sequence
            if self._recorder is not None:
                self._recorder.accept(changed, self.sequence)
            if self._store is not None:
                self._store.accept(stored, self.sequence)
        self._remove_deleted()

    def _put(self, resource: Resource) -> bool:
        """Store a resource, and return whether more than its time has changed."""
        of_kind, key = self._kinds[resource.kind], resource.key
        before = of_kind.get(key)
        if before is None:
            self._order.pop(resource.kind, None)
        of_kind[key] = resource
        if resource.deleted:
            self._deleted.append((time.monotonic(), resource))
        return before is None or msgspec.structs.replace(resource, time=before.time) != before

    def _remove_deleted(self) -> None:
        while self._deleted and self._deleted[0][0] < time.monotonic() - DELETED_VISIBLE:
            _, resource = self._deleted.popleft()
            # It may have been created again meanwhile.
            if self._kinds[resource.kind].get(resource.key) is resource:
                del self._kinds[resource.kind][resource.key]
                self._order.pop(resource.kind, None)
                self._samples.discard(resource.key)

    @property
    def warnings(self) -> list[str]:
        """What an operator should know about samples: those in memory, and the store."""
        return [
            *describe_dropped(self._samples.dropped),
            *(() if self._store is None else self._store.warnings),
            *(() if self._recorder is None else self._recorder.warnings),
        ]

    def present(self) -> list[Resource]:
        """List every resource that exists now, whatever the scope, in no order."""
        return [
            resource
            for of_kind in self._kinds.values()
            for resource in of_kind.values()
            if not resource.deleted
        ]

    def restore_series(self, name: SeriesName, points: Points) -> None:
        """Add stored samples of a series before those that were published since."""
        moments = [time * MILLISECOND for time in points.times]
        self._samples.restore(name.metric, name.key, name.origin, moments, points.values)

    def permits_series(self, name: SeriesName) -> bool:
        """Whether the scope shows a series, which may be that of a resource that is deleted."""
        return self.scope.is_full or self._permits(name.key, name.origin)

    def namespaces(self) -> set[str]:
        """Return the namespaces that resources are in, or are themselves."""
        all_kinds = chain.from_iterable(of_kind.values() for of_kind in self._kinds.values())
        return set(map(namespace_of, all_kinds))

    def kinds(self) -> list[str]:
        """List the kinds with visible resources, sorted."""
        return sorted(
            kind
            for kind, of_kind in self._kinds.items()
            if (of_kind if self.scope.is_full else any(map(self.scope.permits, of_kind.values())))
        )

    def all(self) -> list[Resource]:
        """List every resource, by kind, namespace and name."""
        return [resource for kind in self.kinds() for resource in self.of_kind(kind)]

    def of_kind(self, kind: str, namespace: str = "") -> list[Resource]:
        """List the resources of a kind, by namespace and name; of one namespace, or of all."""
        of_kind = self._kinds.get(kind, {})
        keys = self._sorted_keys(kind)
        if namespace:
            first = bisect_left(keys, (kind, namespace, ""))
            keys = keys[first : bisect_left(keys, (kind, namespace + "\0", ""))]
        resources = [of_kind[key] for key in keys]
        if not self.scope.is_full:
            resources = [*filter(self.scope.permits, resources)]
        return self._adjust(resources)

    def page(self, kind: str | None, after: Key | None, limit: int) -> list[Resource]:
        """List up to `limit` resources that follow a key; of one kind, or of all kinds."""
        kinds = [kind] if kind is not None else sorted(self._kinds)
        page: list[Resource] = []
        for name in kinds:
            if after is not None and name < after[0]:
                continue
            keys = self._sorted_keys(name)
            first = bisect_right(keys, after) if after is not None else 0
            for key in keys[first:]:
                resource = self._kinds[name][key]
                if self.scope.permits(resource):
                    page.append(resource)
                    if len(page) == limit:
                        return self._adjust(page)
        return self._adjust(page)

    def _adjust(self, resources: list[Resource]) -> list[Resource]:
        resources = hide_roots(resources, self._kinds.get(ALERT_KIND, {}), self.scope)
        unproven = self.unproven_sources()
        return mark_unproven(resources, unproven) if unproven else resources

    def _sorted_keys(self, kind: str) -> list[Key]:
        keys = self._order.get(kind)
        if keys is None:
            keys = self._order[kind] = sorted(self._kinds.get(kind, {}))
        return keys

    def get(self, kind: str, namespace: str, name: str) -> Resource | None:
        """Return one resource; None where it is unknown or hidden."""
        resource = self._kinds.get(kind, {}).get((kind, namespace, name))
        if resource is None or not self.scope.permits(resource):
            return None
        return self._adjust([resource])[0]

    def series(self, kind: str, namespace: str, name: str, metric: str) -> list[tuple[int, float]]:
        """Return time and value of the last samples of a metric, oldest first."""
        series = self._visible_series(metric, (kind, namespace, name))
        return [] if series is None else series.points()

    def with_metric(self, metric: str) -> list[Resource]:
        """List the resources that have samples of a metric, by kind, namespace and name.

        Where a source published samples and never the resource, only its names are filled in.
        """
        return self._adjust(
            [
                self._described(key, series.origin)
                for key in self._samples.keys(metric)
                if (series := self._visible_series(metric, key)) is not None
            ]
        )

    def latest(self, kind: str, namespace: str, name: str, metric: str) -> float | None:
        """Return the newest value of a metric; None without a sample."""
        series = self._visible_series(metric, (kind, namespace, name), last_only=True)
        return None if series is None else series.newest

    def latest_time(self, kind: str, namespace: str, name: str, metric: str) -> int | None:
        """Return when the newest sample of a metric was taken; None without a sample."""
        series = self._visible_series(metric, (kind, namespace, name), last_only=True)
        return None if series is None else series.newest_time

    def metrics(self, resource: Resource) -> dict[str, float]:
        """Return the newest value of every metric of a resource."""
        return {
            metric: series.newest
            for metric in self._samples.metrics()
            if (series := self._visible_series(metric, resource.key, last_only=True)) is not None
        }

    def _described(self, key: Key, origin: str) -> Resource:
        """The resource that a series is about; its names alone where it is unknown or hidden."""
        resource = self._kinds.get(key[0], {}).get(key)
        if resource is not None and self.scope.permits(resource):
            return resource
        return Resource(kind=key[0], namespace=key[1], name=key[2], origin=origin)

    def _visible_series(self, metric: str, key: Key, *, last_only: bool = False) -> Series | None:
        """The newest series of a metric among those of the origins that the scope shows."""
        find = self._samples.newest if last_only else self._samples.get
        first = find(metric, key)
        if first is None or (first.other is None and self.scope.is_full):
            return first
        visible = [series for series in first.chain() if self._permits(key, series.origin)]
        return max(visible, key=lambda series: series.newest_time, default=None)

    def _permits(self, key: Key, origin: str) -> bool:
        # The origin of the series decides, and never that of the resource: another source may own
        # it. Labels come from the resource, and only where that is visible too.
        described = self._described(key, origin)
        return self.scope.permits(msgspec.structs.replace(described, origin=origin))


def has_source(resource: Resource, names: Set[str]) -> bool:
    """Whether a resource is of one of the sources: its origin is the source's name, or begins with
    it and a slash."""
    return any(name in names for name in _source_names(resource.origin))


def _source_names(origin: str) -> list[str]:
    """The names that the source of an origin may have: `ray` and `ray/prod`."""
    parts = origin.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def hide_roots(
    resources: list[Resource], alerts: Mapping[Key, Resource], scope: Scope
) -> list[Resource]:
    """Return resources, the alerts among them without the keys of hidden ones that inhibit them."""
    if scope.is_full:
        return resources
    return [_hide_root(each, alerts, scope) for each in resources]


def _hide_root(resource: Resource, alerts: Mapping[Key, Resource], scope: Scope) -> Resource:
    key = resource.state.get(INHIBITED_BY) if resource.kind == ALERT_KIND else None
    if key is None:
        return resource
    rule, _, name = str(key).partition("/")
    root = alerts.get((ALERT_KIND, rule, name))
    if root is not None and scope.permits(root):
        return resource
    state = {name: value for name, value in resource.state.items() if name != INHIBITED_BY}
    return msgspec.structs.replace(resource, state=state)


def mark_unproven(resources: Sequence[Resource], unproven: Mapping[str, int]) -> list[Resource]:
    """Show resources of sources that do not work, and what is derived from their events, as unknown
    since the times given."""
    return [_mark_unproven(resource, unproven) for resource in resources]


def _mark_unproven(resource: Resource, unproven: Mapping[str, int]) -> Resource:
    if resource.deleted or resource.status == UNKNOWN:
        return resource
    names = [resource.origin]
    if isinstance(origin := resource.state.get(OBSERVED_BY), str):
        names += _source_names(origin)
    for name in names:
        if name in unproven:
            return mark_unknown(resource, f"source {name} does not run", unproven[name])
    return resource


def describe_dropped(dropped: Mapping[str, int]) -> list[str]:
    """Return a warning for each origin with more series than fit in memory."""
    return [
        f"{origin} publishes more series of samples than fit in memory ({MAX_SERIES:,});"
        f" {count:,} samples are not in charts. Limit what the source observes."
        for origin, count in dropped.items()
    ]
