"""Queries over stored samples: series in steps of time, limited to what a scope shows."""

import copy
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import islice
from operator import attrgetter
from typing import Final, Literal, Self, TypeVar

import msgspec

from almenara.bus.readers import QueryTooSlowError, check_deadline
from almenara.errors import LimitExceeded
from almenara.patterns import compile_pattern
from almenara.scope import ALERT_KIND
from almenara.state.resources import Resources
from almenara.state.rollups import coarsen, measure_spans, roll_up, single_rollups
from almenara.state.sample_chunks import (
    Chunks,
    cut_rollups,
    read_points,
    read_rollups,
    split_windows,
)
from almenara.state.sample_codec import Points, Rollups
from almenara.state.sample_retention import list_levels
from almenara.state.sample_schema import (
    DAY_WINDOW,
    HOUR_WIDTH,
    MINUTE_WIDTH,
    WINDOW,
    SeriesName,
    StoredSeries,
)
from almenara.state.sample_store import SampleStore

MAX_POINTS: Final = 600
"""Points of a series, about; a longer stretch of time has longer steps."""
SECOND: Final = 1_000
"""Milliseconds; steps are whole seconds."""
MAX_SERIES: Final = 50_000
"""Series that one query may be about."""
SERIES_PER_CHECK: Final = 1_000
"""Series that are tested before it is checked whether anyone still waits for the result."""
MAX_CHUNKS: Final = 60_000
"""Chunks that one query reads: some seconds of work."""
SERIES_PER_READ: Final = 50
"""Series that are read before other queries have their turn."""

T = TypeVar("T")

Function = Literal["mean", "min", "max", "sum", "rate"]
FUNCTIONS: Final[tuple[Function, ...]] = ("mean", "min", "max", "sum", "rate")


class SeriesMatch(msgspec.Struct, frozen=True, kw_only=True):
    """Which series a query is about: those with these names that pass the test."""

    metric: str | None = None
    prefix: str | None = None
    """How the metric starts."""
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    origin: str | None = None
    test: Callable[[SeriesName], bool] | None = None

    def equal(self) -> list[tuple[int, str]]:
        """The names that are given, by their place in the name of a series."""
        names = (self.metric, self.kind, self.namespace, self.name, self.origin)
        return [(place, name) for place, name in enumerate(names) if name is not None]


def match_patterns(
    names: Mapping[str, str], test: Callable[[SeriesName], bool] | None = None
) -> SeriesMatch:
    """Return what matches names, each a plain name or a pattern, that pass a test as well; an empty
    name matches all."""
    equal: dict[str, str] = {}
    patterns: list[tuple[int, str, re.Pattern[str]]] = []
    for field, text in names.items():
        if not text or text == ">":
            continue
        if (expression := compile_pattern(text)) is None:
            equal[field] = text
        else:
            patterns.append((SeriesName._fields.index(field), text, expression))

    def matches(name: SeriesName) -> bool:
        return all(
            name[place] == text or expression.fullmatch(name[place]) is not None
            for place, text, expression in patterns
        ) and (test is None or test(name))

    return SeriesMatch(**equal, test=matches if patterns else test)


class SeriesRollups(msgspec.Struct, frozen=True):
    """A series and its rollups in steps of time; a step without a sample is missing."""

    name: SeriesName
    unit: str
    rollups: Rollups


class Resolution(msgspec.Struct, frozen=True):
    """From what a query is answered: buckets of milliseconds, 0 for single samples."""

    width: int

    def chunks(self, since: int, until: int) -> int:
        """How many chunks of a series are between two times."""
        span = DAY_WINDOW if self.width == HOUR_WIDTH else WINDOW
        return (until - since) // span + 2


class SampleHistory:
    """Stored samples and those in memory, as one."""

    def __init__(self, store: SampleStore, resources: Resources) -> None:
        self.store = store
        self._resources = resources
        self._user = ""

    def within(self, resources: Resources, user: str = "") -> Self:
        """Return the same samples, limited to the scope of resources, on behalf of a user."""
        narrowed = copy.copy(self)
        narrowed._resources, narrowed._user = resources, user
        return narrowed

    def resolve(self, since: int, until: int, step: int, moment: int) -> tuple[Resolution, int]:
        """Return what answers a query of a step, and the step of its points.

        The step is the least that is at least `step`, gives about `MAX_POINTS`, and is a multiple
        of the rollups that are still stored since then. Times in milliseconds.
        """
        step = max(step, -(-(until - since) // MAX_POINTS), 1)
        if step > SECOND:
            step = -(-step // SECOND) * SECOND
        raw, minutes, _ = list_levels(self.store.settings)
        width = 0
        if since < moment - raw.age or step >= MINUTE_WIDTH:
            width = MINUTE_WIDTH
        if since < moment - minutes.age or step >= HOUR_WIDTH:
            width = HOUR_WIDTH
        return Resolution(width), -(-step // width) * width if width else step

    def _limit(self, since: int, until: int, moment: int) -> tuple[int, int]:
        """Return a stretch of time without what can't be stored, so that it costs nothing."""
        hours = list_levels(self.store.settings)[-1]
        return max(since, moment - hours.age - DAY_WINDOW), min(until, moment + DAY_WINDOW)

    async def collect(
        self,
        match: SeriesMatch,
        since: int,
        until: int,
        summarize: Callable[[Iterable[StoredSeries]], T],
    ) -> T:
        """Return what a function makes of the visible series that match and may have samples
        between two times, in no order.

        It runs in a reading thread, since a store has a million of them; so do the test of the
        match and that of the scope. Times in milliseconds. Raises what the function raises.
        """
        equal = match.equal()
        # Before the database is read: what is flushed meanwhile is then in both.
        in_memory = self.store.series_in_memory(equal)
        condition, values = _select_series(match, self._resources.scope.needed_namespaces())

        def list_all(connection: sqlite3.Connection) -> Iterator[StoredSeries]:
            pending = dict(in_memory)
            # What is written of the first and last sample is at most a window off.
            rows = connection.execute(
                "SELECT metric, kind, namespace, name, origin, unit, number FROM series"  # nosec B608 # constant fragments, bound values
                f" WHERE first < ? AND last >= ?{condition}",
                (until + WINDOW, since - WINDOW, *values),
            )
            while part := rows.fetchmany(SERIES_PER_CHECK):
                check_deadline()
                for row in part:
                    name = SeriesName(*row[:5])
                    pending.pop(name, None)
                    yield StoredSeries(name, row[5], row[6])
            for name, unit in pending.items():
                if not match.prefix or name.metric.startswith(match.prefix):
                    yield StoredSeries(name, unit)

        def query(connection: sqlite3.Connection) -> T:
            resources, test = self._resources, match.test
            permitted: dict[tuple[str, str, str, str], bool] = {}

            def is_visible(name: SeriesName) -> bool:
                if (is_known := permitted.get(name[1:])) is None:
                    is_known = permitted[name[1:]] = resources.permits_series(name)
                return is_known

            return summarize(
                series
                for series in list_all(connection)
                if (test is None or test(series.name)) and is_visible(series.name)
            )

        return await self.store.read(query, self._user)

    async def find(self, match: SeriesMatch, since: int, until: int) -> list[StoredSeries]:
        """Return the visible series that match and may have samples between two times, sorted.

        Times in milliseconds. Raises `LimitExceeded` where they are too many.
        """
        return await self.collect(match, since, until, sort_series)

    async def rollups(
        self, match: SeriesMatch, *, since: int, until: int, step: int, moment: int
    ) -> tuple[int, list[SeriesRollups]]:
        """Return the series that match, rolled up in steps between two times, and the step.

        Steps start at multiples of the step since the epoch. Times in milliseconds; `moment` is
        now. Raises `LimitExceeded` and `Unavailable`.
        """
        resolution, step = self.resolve(since, until, step, moment)
        since, until = self._limit(since // step * step, until, moment)

        def read(
            chunks: Chunks, series: StoredSeries, pieces: Mapping[int, Points]
        ) -> SeriesRollups:
            if width := resolution.width:
                # The bucket before the first says how long the increase of that took.
                fine = read_rollups(chunks, series.number, since - width, until, width, pieces)
                fine.spans = measure_spans(fine, width)
                fine = cut_rollups(fine, since, until)
                rollups = fine if step == width else coarsen(fine, step)
            else:
                points, before = read_points(chunks, series.number, since, until, pieces)
                rollups = roll_up(points, step, before, with_spans=True)
            return SeriesRollups(series.name, series.unit, rollups)

        groups = self._read(match, since, until, resolution, read)
        return step, [series async for group in groups for series in group if series.rollups.times]

    async def evaluate(
        self,
        match: SeriesMatch,
        function: Callable[[Rollups, int], T],
        *,
        since: int,
        until: int,
        step: int,
        moment: int,
    ) -> AsyncIterator[list[tuple[SeriesName, T]]]:
        """Yield what a function makes of each series that matches, some series at a time.

        It runs in a reading thread, and is called with rollups and their width: 0 where each is a
        single sample. Those before `since` by that width are included. Times and errors as above.
        """
        resolution, _ = self.resolve(since, until, step, moment)
        width = resolution.width
        since, until = self._limit(since, until, moment)

        def read(
            chunks: Chunks, series: StoredSeries, pieces: Mapping[int, Points]
        ) -> tuple[SeriesName, T]:
            if width:
                rollups = read_rollups(chunks, series.number, since - width, until, width, pieces)
                rollups.spans = measure_spans(rollups, width)
            else:
                points, before = read_points(chunks, series.number, since, until, pieces)
                rollups = single_rollups(points, before)
            return series.name, function(rollups, width)

        async for group in self._read(match, since, until, resolution, read):
            yield group

    async def _read(
        self,
        match: SeriesMatch,
        since: int,
        until: int,
        resolution: Resolution,
        read: Callable[[Chunks, StoredSeries, Mapping[int, Points]], T],
    ) -> AsyncIterator[list[T]]:
        deadline = time.monotonic() + self.store.query_timeout
        if since >= until:
            return
        matching = await self.find(match, since, until)
        if len(matching) * (count := resolution.chunks(since, until)) > MAX_CHUNKS:
            raise LimitExceeded(
                f"the query needs {len(matching) * count:,} chunks of samples, {count:,} of each of"
                f" {len(matching):,} series, and may read {MAX_CHUNKS:,}; narrow it to fewer"
                " series or a shorter time, or use a longer step"
            )
        for first in range(0, len(matching), SERIES_PER_READ):
            group = matching[first : first + SERIES_PER_READ]
            # Before the database is read: what is flushed meanwhile is then in both, and counts
            # once.
            pieces = [self.store.in_memory(series.name) for series in group]

            def query(
                connection: sqlite3.Connection,
                group: Sequence[StoredSeries] = group,
                pieces: Sequence[list[Points]] = pieces,
            ) -> list[T]:
                chunks = Chunks(connection)
                rows = []
                for series, buffered in zip(group, pieces, strict=True):
                    if time.monotonic() > deadline:
                        raise QueryTooSlowError("too slow")
                    rows.append(read(chunks, series, _split(buffered)))
                return rows

            yield await self.store.read(query, self._user)


def sort_series(all_series: Iterable[StoredSeries]) -> list[StoredSeries]:
    """Return series by name. Raises `LimitExceeded` where they are too many."""
    limited = list(islice(all_series, MAX_SERIES + 1))
    if len(limited) > MAX_SERIES:
        raise LimitExceeded(
            f"more than {MAX_SERIES:,} series match; narrow them by kind, namespace or name"
        )
    return sorted(limited, key=attrgetter("name"))


def _select_series(match: SeriesMatch, namespaces: Set[str] | None) -> tuple[str, list[str]]:
    """Return the condition of SQL for what has the names of a match and may be visible, and its
    values."""
    equal = match.equal()
    condition = "".join(f" AND {SeriesName._fields[place]} = ?" for place, _ in equal)
    values = [value for _, value in equal]
    if match.prefix:
        condition += " AND metric >= ? AND metric < ?"
        values += [match.prefix, match.prefix[:-1] + chr(ord(match.prefix[-1]) + 1)]
    if namespaces is not None:
        # A namespace itself has none, and an alert that of its rule.
        condition += (
            " AND (namespace IN (SELECT value FROM json_each(?)) OR kind = ?"
            " OR (namespace = '' AND kind LIKE '%.namespace'))"
        )
        values += [msgspec.json.encode(sorted(namespaces)).decode(), ALERT_KIND]
    return condition, values


def _split(buffered: Sequence[Points]) -> dict[int, Points]:
    times = [time for points in buffered for time in points.times]
    values = [value for points in buffered for value in points.values]
    return split_windows(Points(times, values)) if times else {}


def compute(rollups: Rollups, function: Function) -> list[tuple[int, float]] | None:
    """Return the time and a number of each step; None for the rate of a series that is no counter.

    A rate is by the time that the increase took, whatever the step: from the sample before it to
    its last one. A step of which that is not known has none.
    """
    values: Iterable[float]
    match function:
        case "mean":
            values = (
                total / count for total, count in zip(rollups.totals, rollups.counts, strict=True)
            )
        case "min":
            values = rollups.lows
        case "max":
            values = rollups.highs
        case "sum":
            values = rollups.totals
        case "rate":
            if rollups.increases is None or rollups.spans is None:
                return None
            return [
                (time, increase * SECOND / span)
                for time, increase, span in zip(
                    rollups.times, rollups.increases, rollups.spans, strict=True
                )
                if span
            ]
    return list(zip(rollups.times, values, strict=True))
