"""What the sample store does between flushes: sealing, retention, and the report of its size."""

import sqlite3
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from almenara.bus.log_clock import LogClock
from almenara.bus.retention import release_pages, used_bytes
from almenara.clock import Clock
from almenara.config import SampleSettings
from almenara.state.sample_chunks import Chunks, find_pieces, seal
from almenara.state.sample_retention import remove_ended, remove_series, remove_step
from almenara.state.sample_schema import WINDOW
from almenara.state.series_index import SeriesIndex
from almenara.units import MILLISECOND, MINUTE

SERIES_PER_SEAL: Final = 20
SEAL_DELAY: Final = 10 * MINUTE // MILLISECOND
"""Milliseconds after the end of a window for samples that come late."""
NEARLY_FULL: Final = 0.95


class DamagedStoreError(sqlite3.DatabaseError):
    """A check of the database has found damage."""


class StoreReport(msgspec.Struct):
    """What the thread reports; replaced as a whole, and read by the event loop."""

    problem: str | None = None
    """Why nothing can be stored at the moment, and what to do."""
    notes: tuple[str, ...] = ()
    """What an operator should know while everything works."""
    series: int = 0
    bytes_used: int = 0
    refused: Mapping[str, int] = {}
    """Samples of series that are beyond the bound of their origin, by origin."""
    damaged_chunks: int = 0


class Maintenance:
    """Steps of work on an open database."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        settings: SampleSettings,
        index: SeriesIndex,
        log_clock: LogClock,
        clock: Clock,
    ) -> None:
        self._connection, self._settings, self._index = connection, settings, index
        self._log_clock, self._clock = log_clock, clock
        self._damaged_chunks = 0

    def check(self) -> None:
        """Raise `DamagedStoreError` where the database is damaged."""
        (answer,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise DamagedStoreError(answer)

    def step(self, breathe: Callable[[], None]) -> int:
        """Seal or remove a little; returns 0 where nothing is left to do for now."""
        return self._seal(breathe) or self._remove()

    def measure(self) -> StoreReport:
        """Return how large the store is, and what an operator should know."""
        counts, limit = self._index.counts, self._settings.retention_size
        notes = [
            f"{origin} has {counts.get(origin, 0):,} stored series of samples, and the limit"
            f" samples.max_series is {self._settings.max_series:,}. {count:,} samples of further"
            " series were not stored. Find the metric or name with an id in it, and limit what the"
            " source observes."
            for origin, count in self._index.refused.items()
        ]
        if self._damaged_chunks:
            notes.append(
                f"{self._damaged_chunks:,} chunks of samples were damaged and are missing in"
                " charts. Check the disk."
            )
        bytes_used = used_bytes(self._connection)
        if bytes_used > NEARLY_FULL * limit:
            notes.append(
                "The sample store is full: samples are removed before they reach their retention"
                " age. Raise samples.retention_size, or shorten the ages beside it."
            )
        return StoreReport(
            notes=tuple(notes),
            series=sum(counts.values()),
            bytes_used=bytes_used,
            refused=dict(self._index.refused),
            damaged_chunks=self._damaged_chunks,
        )

    def _seal(self, breathe: Callable[[], None]) -> int:
        """Seal some series of the oldest window that is over; return how many."""
        connection = self._connection
        over = (self._clock.now() // MILLISECOND - SEAL_DELAY) // WINDOW
        row = connection.execute(
            "SELECT window FROM flushes WHERE window < ? ORDER BY window LIMIT 1", (over,)
        ).fetchone()
        if row is None:
            return 0
        numbers = find_pieces(connection, row[0], SERIES_PER_SEAL)
        if numbers:
            chunks = Chunks(connection)
            connection.execute("BEGIN IMMEDIATE")
            try:
                for number in numbers:
                    seal(connection, chunks, row[0], number)
                    breathe()
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            self._damaged_chunks += chunks.damaged
        return max(len(numbers), 1)

    def _remove(self) -> int:
        connection, settings, index = self._connection, self._settings, self._index
        moment = self._log_clock.advance() // MILLISECOND
        removed = remove_step(connection, settings, moment)
        series = 0 if removed else remove_series(connection, settings, moment)
        for origin in index.refused:
            if index.counts.get(origin, 0) >= settings.max_series:
                series += remove_ended(connection, origin, moment)
        if series:
            index.reload()
        release_pages(connection)
        return removed + series
