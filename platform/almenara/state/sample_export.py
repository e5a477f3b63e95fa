"""Reads all stored samples in a database, a series of a window at a time."""

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Final, Literal

from almenara.state.sample_chunks import Chunks
from almenara.state.sample_codec import Points
from almenara.state.sample_schema import SHIFT, WINDOW, SeriesName, StoredSeries, chunk_key

NAMES_CACHED: Final = 20_000
SELECT_KEYS: Final[Mapping[str, str]] = {
    table: f"SELECT key FROM {table} WHERE key >= ? AND key < ?"  # nosec B608 # the tables here
    for table in ("raw", "fresh")
}


class SampleReader:
    """The samples that one transaction sees, single ones without rollups.

    The caller begins and ends the transaction: sealing moves samples between tables.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._chunks = Chunks(connection)
        self._find = lru_cache(NAMES_CACHED)(self._read_series)

    @property
    def damaged(self) -> int:
        """Chunks that could not be read, so far."""
        return self._chunks.damaged

    @property
    def position(self) -> int:
        """The sequence of the log up to which samples are stored."""
        (sequence,) = self._connection.execute("SELECT last_sequence FROM position").fetchone()
        return int(sequence)

    def read(
        self, test: Callable[[SeriesName], bool], since: int, until: int
    ) -> Iterator[tuple[StoredSeries, Points]]:
        """Yield the samples of the series that pass a test, by window and series.

        Those from `since` to `until`, not included; in milliseconds.
        """
        for window in self._list_windows():
            if window < since // WINDOW or window * WINDOW >= until:
                continue
            for number in self._list_numbers(window):
                series = self._find(number)
                if series is None or not test(series.name):
                    continue
                points = self._chunks.points(number, window)
                first = bisect_left(points.times, since)
                end = bisect_left(points.times, until)
                if first < end:
                    yield series, Points(points.times[first:end], points.values[first:end])

    def _list_windows(self) -> list[int]:
        windows = set(self._chunks.flushes)
        (key,) = self._connection.execute("SELECT min(key) FROM raw").fetchone()
        while key is not None:
            windows.add(key >> SHIFT)
            (key,) = self._connection.execute(
                "SELECT min(key) FROM raw WHERE key >= ?", (chunk_key((key >> SHIFT) + 1, 0),)
            ).fetchone()
        return sorted(windows)

    def _list_numbers(self, window: int) -> list[int]:
        """Return the series with samples in a window."""
        numbers = set(self._select_numbers("raw", window))
        for flush in self._chunks.flushes.get(window, ()):
            numbers.update(self._select_numbers("fresh", flush))
        return sorted(numbers)

    def _select_numbers(self, table: Literal["raw", "fresh"], upper: int) -> Iterator[int]:
        bounds = chunk_key(upper, 0), chunk_key(upper + 1, 0)
        rows = self._connection.execute(SELECT_KEYS[table], bounds)
        return (key & (1 << SHIFT) - 1 for (key,) in rows)

    def _read_series(self, number: int) -> StoredSeries | None:
        row = self._connection.execute(
            "SELECT metric, kind, namespace, name, origin, unit FROM series WHERE number = ?",
            (number,),
        ).fetchone()
        return None if row is None else StoredSeries(SeriesName(*row[:5]), row[5], number)
