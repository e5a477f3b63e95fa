"""The numbers of the series in the database, with a bound for each origin."""

import sqlite3
from typing import Final

import msgspec

from almenara.state.sample_schema import MAX_SERIES_NUMBER, WINDOW, SeriesName

GENERATION: Final = 20_000
"""Series in the cache after which those that are no longer written are forgotten."""


class KnownSeries(msgspec.Struct):
    """The number of a series, and what is written of its first and last sample."""

    number: int
    first: int
    last: int


class SeriesIndex:
    """Finds the number of a series, and numbers a new one in the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection, limit: int) -> None:
        self._connection, self._limit = connection, limit
        self._known: dict[SeriesName, KnownSeries] = {}
        self._earlier: dict[SeriesName, KnownSeries] = {}
        self.refused: dict[str, int] = {}
        """New series that were left out, by origin, since the database was opened."""
        self.reload()

    def reload(self) -> None:
        """Count again, after series were removed."""
        self._known, self._earlier = {}, {}
        self.counts: dict[str, int] = dict(
            self._connection.execute("SELECT origin, count(*) FROM series GROUP BY origin")
        )
        (last,) = self._connection.execute("SELECT last_series FROM position").fetchone()
        self.last = int(last)

    def number(self, name: SeriesName, unit: str, first: int, last: int) -> int | None:
        """Return the number of a series; None for a new one of an origin that has too many.

        `first` and `last` are the times of its new samples, in milliseconds. They are written where
        they are more than a window off, so that few rows change.
        """
        series = self._known.get(name)
        if series is None:
            series = (
                self._earlier.get(name) or self._find(name) or self._add(name, unit, first, last)
            )
            if series is None:
                return None
            if len(self._known) >= GENERATION:
                self._earlier, self._known = self._known, {}
            self._known[name] = series
        if first < series.first - WINDOW or last > series.last + WINDOW:
            series.first, series.last = min(first, series.first), max(last, series.last)
            self._connection.execute(
                "UPDATE series SET first = ?, last = ? WHERE number = ?",
                (series.first, series.last, series.number),
            )
        return series.number

    def _find(self, name: SeriesName) -> KnownSeries | None:
        row = self._connection.execute(
            "SELECT number, first, last FROM series WHERE metric = ? AND kind = ?"
            " AND namespace = ? AND name = ? AND origin = ?",
            name,
        ).fetchone()
        return None if row is None else KnownSeries(*row)

    def _add(self, name: SeriesName, unit: str, first: int, last: int) -> KnownSeries | None:
        count = self.counts.get(name.origin, 0)
        if count >= self._limit or self.last >= MAX_SERIES_NUMBER:
            self.refused[name.origin] = self.refused.get(name.origin, 0) + 1
            return None
        self.last += 1
        self._connection.execute(
            "INSERT INTO series VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self.last, *name, unit, first, last),
        )
        self.counts[name.origin] = count + 1
        return KnownSeries(self.last, first, last)
