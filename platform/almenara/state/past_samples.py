"""The last samples of series as of a moment, which are read once something needs them."""

import asyncio
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from operator import itemgetter
from typing import Final

from almenara.state.sample_chunks import Chunks, merge_points, read_rollups
from almenara.state.sample_codec import Points
from almenara.state.sample_schema import MINUTE_WIDTH, SLOT, WINDOW, SeriesName
from almenara.state.sample_store import SampleStore
from almenara.state.samples import SAMPLES_PER_SERIES, Key, Series, SeriesTable
from almenara.units import MILLISECOND

WINDOWS: Final = 2
"""Windows of which the newest samples are read, as at a start."""
SERIES_PER_READ: Final = 200

Pair = tuple[str, Key]
"""A metric, and the resource that it is of."""


class PastSeriesTable(SeriesTable):
    """Series as of a moment in microseconds.

    Panels read series without waiting, so the table starts empty: it notes what it was read for
    and does not have, and `load` fetches that. A panel is prepared again until nothing is missing.
    """

    def __init__(self, store: SampleStore, moment: int, known: Mapping[Key, object]) -> None:
        super().__init__()
        self._store, self._moment = store, moment // MILLISECOND
        self._known, self._kinds = known, {key[0] for key in known}
        self._names: dict[str, list[Key]] = {}
        self._loaded: set[Pair] = set()
        self._newest = SeriesTable()
        """Series of which the last sample alone was needed so far."""
        self._loaded_newest: set[Pair] = set()
        self._listed: list[str] | None = None
        self._missing_names: set[str] = set()
        self._missing_series: set[Pair] = set()
        self._missing_newest: set[Pair] = set()
        self._is_list_missing = False
        self.loads = 0
        """How often something was read."""
        self._lock = asyncio.Lock()

    def get(self, metric: str, key: Key) -> Series | None:
        if (metric, key) not in self._loaded:
            self._missing_series.add((metric, key))
        return super().get(metric, key)

    def newest(self, metric: str, key: Key) -> Series | None:
        if (metric, key) in self._loaded:
            return super().get(metric, key)
        if (metric, key) not in self._loaded_newest:
            self._missing_newest.add((metric, key))
        return self._newest.get(metric, key)

    def keys(self, metric: str) -> list[Key]:
        if metric not in self._names:
            self._missing_names.add(metric)
        return self._names.get(metric, [])

    def metrics(self) -> list[str]:
        self._is_list_missing = self._listed is None
        return self._listed or []

    async def load(self, seen: int) -> bool:
        """Read what was missing since the last call; return whether there is more than after the
        first `seen` loads.

        Raises `Unavailable` and `LimitExceeded`.
        """
        async with self._lock:
            names, self._missing_names = self._missing_names, set()
            # Another panel may have needed the same.
            series, self._missing_series = self._missing_series - self._loaded, set()
            newest = self._missing_newest - self._loaded_newest - self._loaded - series
            self._missing_newest = set()
            if self._is_list_missing:
                self._is_list_missing = False
                self._listed = await self._store.read(self._read_metrics)
            elif not names and not series and not newest:
                return self.loads != seen
            for metric in names:
                self._names[metric] = await self._list_keys(metric)
            await self._load_series(series, SAMPLES_PER_SERIES, self)
            await self._load_series(newest, 1, self._newest)
            self._loaded |= series
            self._loaded_newest |= newest
            self.loads += 1
            return True

    def _read_metrics(self, connection: sqlite3.Connection) -> list[str]:
        rows = connection.execute(
            "SELECT DISTINCT metric FROM series WHERE first <= ? AND last >= ?", self._bounds()
        )
        return sorted({metric for (metric,) in rows} | {
            name.metric for name in self._store.series_in_memory(())
        })  # fmt: skip

    def _bounds(self) -> tuple[int, int]:
        # What is written of the first and last sample is at most a window off.
        return self._moment + WINDOW, self._moment - (WINDOWS + 1) * WINDOW

    async def _list_keys(self, metric: str) -> list[Key]:
        def query(connection: sqlite3.Connection) -> list[Key]:
            return connection.execute(
                "SELECT kind, namespace, name FROM series"
                " WHERE metric = ? AND first <= ? AND last >= ?",
                (metric, *self._bounds()),
            ).fetchall()

        keys = set(await self._store.read(query))
        keys.update(name.key for name in self._store.series_in_memory(((0, metric),)))
        # The series of a resource end with it; a source may publish samples without resources.
        return sorted(key for key in keys if key in self._known or key[0] not in self._kinds)

    async def _load_series(self, pairs: Set[Pair], limit: int, table: SeriesTable) -> None:
        """Read the last samples of series, so many of each, and add them to a table."""
        needed, names = sorted(pairs), self._store.names_in_memory(pairs)
        for first in range(0, len(needed), SERIES_PER_READ):
            part = needed[first : first + SERIES_PER_READ]
            # Before the database is read: what is flushed meanwhile is in both, and the same.
            buffered = {
                pair: {name: self._store.in_memory(name) for name in names.get(pair, ())}
                for pair in part
            }
            read = partial(read_series, part, buffered, self._moment, limit)
            for name, points in await self._store.read(read):
                moments = [time * MILLISECOND for time in points.times]
                table.restore(name.metric, name.key, name.origin, moments, points.values)


def read_series(
    pairs: Sequence[Pair],
    buffered: Mapping[Pair, dict[SeriesName, list[Points]]],
    moment: int,
    limit: int,
    connection: sqlite3.Connection,
) -> list[tuple[SeriesName, Points]]:
    """Return the last samples up to a moment in milliseconds of every series of metrics and
    resources; `buffered` are those in memory, which are consumed."""
    chunks = Chunks(connection)
    series: list[tuple[SeriesName, Points]] = []
    for metric, key in pairs:
        unstored = buffered[metric, key]
        for origin, number in connection.execute(
            "SELECT origin, number FROM series"
            " WHERE metric = ? AND kind = ? AND namespace = ? AND name = ?",
            (metric, *key),
        ):
            name = SeriesName(metric, *key, origin)
            pieces = unstored.pop(name, [])
            series.append((name, read_last(chunks, number, moment, pieces, limit)))
        series += [
            (name, read_last(chunks, None, moment, pieces, limit))
            for name, pieces in unstored.items()
        ]
    return series


def read_last(
    chunks: Chunks, number: int | None, moment: int, buffered: Sequence[Points], limit: int
) -> Points:
    """Return the last samples of a series up to a moment in milliseconds, `limit` at most.

    Where single samples are no longer stored, they are the means of minutes. `buffered` are the
    samples in memory, in the order of their arrival.
    """
    newest: list[Points] = []
    count = 0
    # From the newest on, and no more than are needed: a window has many pieces.
    for piece in _newest_pieces(chunks, number, moment // WINDOW, buffered):
        if not (piece := _cut_at(piece, moment, limit)).times:
            continue
        newest.append(piece)
        count += len(piece.times)
        if count >= limit:
            points = _merge(newest)
            if len(points.times) >= limit:
                return _last(points, limit)
    if newest:
        return _last(_merge(newest), limit)
    if number is None:
        return Points([], [])
    since = moment - SAMPLES_PER_SERIES * MINUTE_WIDTH
    rollups = read_rollups(chunks, number, since, moment, MINUTE_WIDTH, {})
    means = [total / count for total, count in zip(rollups.totals, rollups.counts, strict=True)]
    return _last(Points(rollups.times, means), limit)


def _newest_pieces(
    chunks: Chunks, number: int | None, window: int, buffered: Sequence[Points]
) -> Iterator[Points]:
    """Yield the samples of a series in a window and those before it, the newest piece first."""
    yield from reversed(buffered)
    if number is not None:
        for earlier in range(window, window - WINDOWS, -1):
            yield from chunks.newest_pieces(number, earlier)


def _cut_at(points: Points, moment: int, limit: int) -> Points:
    """Return the last samples up to a moment, by time, as many as are needed."""
    times, values = points.times, points.values
    if times != sorted(times):
        ordered = sorted(zip(times, values, strict=True), key=itemgetter(0))
        times, values = [time for time, _ in ordered], [value for _, value in ordered]
    earliest = (moment // WINDOW - WINDOWS + 1) * WINDOW
    end, first = bisect_right(times, moment), bisect_left(times, earliest)
    recent = max(end - limit, first)
    cut = Points(times[recent:end], values[recent:end])
    if recent == first or _has_slots_of_its_own(cut):
        return cut
    # Some are of one slot, so that there are fewer of them.
    return Points(times[first:end], values[first:end])


def _has_slots_of_its_own(points: Points) -> bool:
    return len({time // SLOT for time in points.times}) == len(points.times)


def _merge(newest: Sequence[Points]) -> Points:
    """Return pieces, of which the newest comes first, as one."""
    if len(newest) == 1 and _has_slots_of_its_own(newest[0]):
        return newest[0]
    return merge_points(reversed(newest))


def _last(points: Points, limit: int) -> Points:
    return Points(points.times[-limit:], points.values[-limit:])
