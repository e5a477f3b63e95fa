"""The last samples of series as of a moment, which are read once something needs them."""

import asyncio
import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from almenara.state.sample_chunks import Chunks, merge_points, read_rollups, split_windows
from almenara.state.sample_codec import Points
from almenara.state.sample_schema import MINUTE_WIDTH, WINDOW, SeriesName
from almenara.state.sample_store import SampleStore
from almenara.state.samples import SAMPLES_PER_SERIES, Key, Series, SeriesTable
from almenara.units import MILLISECOND

WINDOWS: Final = 2
"""Windows of which the newest samples are read, as at a start."""
SERIES_PER_READ: Final = 200

Stored = tuple[SeriesName, int | None]
"""A series and its number; None for one with samples in memory alone."""


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
        self._loaded: set[tuple[str, Key]] = set()
        self._listed: list[str] | None = None
        self._missing_names: set[str] = set()
        self._missing_series: set[tuple[str, Key]] = set()
        self._is_list_missing = False
        self.loads = 0
        """How often something was read."""
        self._lock = asyncio.Lock()

    def get(self, metric: str, key: Key) -> Series | None:
        if (metric, key) not in self._loaded:
            self._missing_series.add((metric, key))
        return super().get(metric, key)

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
            series, self._missing_series = self._missing_series, set()
            if self._is_list_missing:
                self._is_list_missing = False
                self._listed = await self._store.read(self._read_metrics)
            elif not names and not series:
                return self.loads != seen
            for metric in names:
                self._names[metric] = await self._list_keys(metric)
            needed = sorted(series)
            for first in range(0, len(needed), SERIES_PER_READ):
                await self._load_series(needed[first : first + SERIES_PER_READ])
            self._loaded |= series
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

    async def _load_series(self, needed: Sequence[tuple[str, Key]]) -> None:
        in_memory: dict[tuple[str, Key], list[SeriesName]] = {}
        for metric in {metric for metric, _ in needed}:
            for name in self._store.series_in_memory(((0, metric),)):
                in_memory.setdefault((metric, name.key), []).append(name)

        def find(connection: sqlite3.Connection) -> list[Stored]:
            stored = [
                (SeriesName(metric, *key, origin), number)
                for metric, key in needed
                for origin, number in connection.execute(
                    "SELECT origin, number FROM series"
                    " WHERE metric = ? AND kind = ? AND namespace = ? AND name = ?",
                    (metric, *key),
                )
            ]
            numbered = {name for name, _ in stored}
            unstored = (
                name for pair in needed for name in in_memory.get(pair, ()) if name not in numbered
            )
            return [*stored, *((name, None) for name in unstored)]

        series_numbers = await self._store.read(find)
        pieces = [split_windows(_join(self._store.in_memory(name))) for name, _ in series_numbers]

        def read(connection: sqlite3.Connection) -> list[Points]:
            chunks = Chunks(connection)
            return [
                read_last(chunks, number, self._moment, buffered)
                for (_, number), buffered in zip(series_numbers, pieces, strict=True)
            ]

        for (name, _), points in zip(series_numbers, await self._store.read(read), strict=True):
            moments = [time * MILLISECOND for time in points.times]
            self.restore(name.metric, name.key, name.origin, moments, points.values)


def read_last(
    chunks: Chunks, number: int | None, moment: int, pieces: Mapping[int, Points]
) -> Points:
    """Return the last samples of a series up to a moment in milliseconds.

    Where single samples are no longer stored, they are the means of minutes. `pieces` are the
    samples in memory, by window.
    """
    times: list[int] = []
    values: list[float] = []
    for window in range(moment // WINDOW, moment // WINDOW - WINDOWS, -1):
        in_memory = [pieces[window]] if window in pieces else []
        points = (
            merge_points(in_memory) if number is None else chunks.points(number, window, in_memory)
        )
        end = bisect_right(points.times, moment)
        times, values = points.times[:end] + times, points.values[:end] + values
        if len(times) >= SAMPLES_PER_SERIES:
            break
    if not times and number is not None:
        since = moment - SAMPLES_PER_SERIES * MINUTE_WIDTH
        rollups = read_rollups(chunks, number, since, moment, MINUTE_WIDTH, {})
        times = rollups.times
        values = [
            total / count for total, count in zip(rollups.totals, rollups.counts, strict=True)
        ]
    return Points(times[-SAMPLES_PER_SERIES:], values[-SAMPLES_PER_SERIES:])


def _join(parts: Iterable[Points]) -> Points:
    joined = Points([], [])
    for part in parts:
        joined.times.extend(part.times)
        joined.values.extend(part.values)
    return joined
