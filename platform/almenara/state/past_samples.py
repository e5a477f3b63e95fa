"""The last samples of series as of a moment, which are read once something needs them."""

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Final

import msgspec

from almenara.state.last_points import WINDOWS, LastPoints, read_last
from almenara.state.sample_chunks import Chunks
from almenara.state.sample_codec import Points
from almenara.state.sample_schema import WINDOW, SeriesName
from almenara.state.sample_store import SampleStore
from almenara.state.samples import SAMPLES_PER_SERIES, Key, Series, SeriesTable
from almenara.units import MILLISECOND

SERIES_PER_READ: Final = 1_000
PAIRS_PER_STATEMENT: Final = 200

Pair = tuple[str, Key]
"""A metric, and the resource that it is of."""


class PastSeriesTable(SeriesTable):
    """Series as of a moment in microseconds.

    Panels read series without waiting, so the table starts empty: it notes what it was read for
    and does not have, and `load` fetches that. A panel is prepared again until nothing is missing.
    """

    def __init__(
        self, store: SampleStore, moment: int, kinds: Mapping[str, Mapping[Key, object]]
    ) -> None:
        super().__init__()
        self._store, self._moment = store, moment // MILLISECOND
        self._kinds = kinds
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
        self.misses = 0
        self._lock = asyncio.Lock()

    def get(self, metric: str, key: Key) -> Series | None:
        if (metric, key) not in self._loaded:
            self.misses += 1
            self._missing_series.add((metric, key))
        return super().get(metric, key)

    def newest(self, metric: str, key: Key) -> Series | None:
        if (metric, key) in self._loaded:
            return super().get(metric, key)
        if (metric, key) not in self._loaded_newest:
            self.misses += 1
            self._missing_newest.add((metric, key))
        return self._newest.get(metric, key)

    def keys(self, metric: str) -> list[Key]:
        if metric not in self._names:
            self.misses += 1
            self._missing_names.add(metric)
        return self._names.get(metric, [])

    def metrics(self) -> list[str]:
        if self._listed is None:
            self.misses += 1
            self._is_list_missing = True
        return self._listed or []

    async def prefetch(self, pairs: Set[Pair]) -> None:
        """Read the last sample of series that `newest` is going to be called for.

        Raises `Unavailable` and `LimitExceeded`.
        """
        self._missing_newest |= pairs
        await self._load_missing()

    async def load(self, seen: int) -> bool:
        """Read what was missing, where there were misses after the first `seen`; return whether
        there were.

        Raises `Unavailable` and `LimitExceeded`.
        """
        if self.misses == seen:
            return False
        await self._load_missing()
        return True

    async def _load_missing(self) -> None:
        async with self._lock:
            names, self._missing_names = self._missing_names, set()
            # Another panel may have needed the same.
            series, self._missing_series = self._missing_series - self._loaded, set()
            newest = self._missing_newest - self._loaded_newest - self._loaded - series
            self._missing_newest = set()
            if self._is_list_missing:
                self._is_list_missing = False
                self._listed = await self._store.read(self._read_metrics)
            for metric in names:
                self._names[metric] = await self._list_keys(metric)
            await self._load_series(series, SAMPLES_PER_SERIES, self)
            await self._load_series(newest, 1, self._newest)
            self._loaded |= series
            self._loaded_newest |= newest

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
        return sorted(
            key for key in keys if (known := self._kinds.get(key[0])) is None or key in known
        )

    async def _load_series(self, pairs: Set[Pair], limit: int, table: SeriesTable) -> None:
        """Read the last samples of series, so many of each, and add them to a table."""
        needed = sorted(pairs)
        for first in range(0, len(needed), SERIES_PER_READ):
            part = needed[first : first + SERIES_PER_READ]
            # Before the database is read: what is flushed meanwhile is in both, and the same.
            buffered = self._store.in_memory_until(part, self._moment)
            read = partial(read_series, part, buffered, self._moment, limit)
            for name, points in await self._store.read(read):
                moments = [time * MILLISECOND for time in points.times]
                table.restore(name.metric, name.key, name.origin, moments, points.values)


def read_series(
    pairs: Sequence[Pair],
    buffered: Mapping[SeriesName, Sequence[Points]],
    moment: int,
    limit: int,
    connection: sqlite3.Connection,
) -> list[tuple[SeriesName, Points]]:
    """Return the last samples up to a moment in milliseconds, `limit` at most, of every series of
    metrics and resources; `buffered` are those in memory, in the order of their arrival.

    Where single samples are no longer stored, they are the means of minutes.
    """
    chunks = Chunks(connection)
    numbers: dict[SeriesName, int | None] = dict.fromkeys(buffered)
    numbers.update(find_numbers(connection, pairs))
    series = {name: LastPoints(moment, limit) for name in numbers}
    for name, pieces in buffered.items():
        for piece in reversed(pieces):
            series[name].add(piece)
    stored = {number: series[name] for name, number in numbers.items() if number is not None}
    read_last(chunks, stored, moment)
    for number, last in stored.items():
        if not last.pieces:
            last.add_means(chunks, number)
    return [(name, last.points()) for name, last in series.items()]


def find_numbers(
    connection: sqlite3.Connection, pairs: Sequence[Pair]
) -> Iterator[tuple[SeriesName, int]]:
    """Yield the stored series of metrics and resources, and their numbers."""
    for first in range(0, len(pairs), PAIRS_PER_STATEMENT):
        part = pairs[first : first + PAIRS_PER_STATEMENT]
        values = [value for metric, key in part for value in (metric, *key)]
        (rows,) = connection.execute(_select_numbers(len(part)), values).fetchone()
        for *name, number in msgspec.json.decode(rows):
            yield SeriesName(*name), number


def _select_numbers(count: int) -> str:
    """Return the statement that selects the series of so many metrics and resources, as one row."""
    marks = ", ".join(["(?, ?, ?, ?)"] * count)
    return (
        f"WITH pair (metric, kind, namespace, name) AS (VALUES {marks})"  # nosec B608 # question marks
        " SELECT json_group_array(json_array(metric, kind, namespace, name, origin, number))"
        " FROM pair CROSS JOIN series USING (metric, kind, namespace, name)"
    )
