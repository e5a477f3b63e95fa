"""What is removed from the sample store, and when.

Samples, rollups of a minute and rollups of an hour each have an age. Above a size, the level that
is nearest to its age loses its oldest first, so that all three shrink alike. Removal is in steps of
a bounded number of chunks.
"""

import sqlite3
from collections.abc import Iterator
from typing import Final, NamedTuple

from almenara.bus.retention import used_bytes
from almenara.config import SampleSettings
from almenara.state.sample_schema import DAY_WINDOW, SHIFT, WINDOW, chunk_key
from almenara.units import DAY, MILLISECOND

CHUNKS_PER_STEP: Final = 500
SERIES_PER_STEP: Final = 50
ENDED_AFTER: Final = DAY // MILLISECOND
"""Milliseconds without a sample after which a series may be removed for a new one."""


class Level(NamedTuple):
    """A table of chunks: how many milliseconds a chunk spans, and how long it is stored."""

    table: str
    span: int
    age: int


def list_levels(settings: SampleSettings) -> list[Level]:
    """Return the levels; a coarse one is stored at least as long as a finer one."""
    raw = int(settings.retention_age * 1000)
    minutes = max(int(settings.minute_retention_age * 1000), raw)
    hours = max(int(settings.hour_retention_age * 1000), minutes)
    return [
        Level("raw", WINDOW, raw),
        Level("minutes", WINDOW, minutes),
        Level("hours", DAY_WINDOW, hours),
    ]


def remove_step(connection: sqlite3.Connection, settings: SampleSettings, moment: int) -> int:
    """Remove at most one step of what is too old or too much; return how many chunks.

    `moment` is the time by which the log ages, in milliseconds.
    """
    levels = list_levels(settings)
    for level in levels:
        if removed := _remove_before(connection, level, (moment - level.age) // level.span):
            return removed
    if used_bytes(connection) <= settings.retention_size:
        return 0
    ages = {
        level: (moment - oldest * level.span) / level.age
        for level in levels
        if (oldest := _oldest(connection, level)) is not None
    }
    if not ages:
        return 0
    level = max(ages, key=lambda level: ages[level])
    oldest = _oldest(connection, level)
    return 0 if oldest is None else _remove_before(connection, level, oldest + 1)


def remove_series(connection: sqlite3.Connection, settings: SampleSettings, moment: int) -> int:
    """Remove the series of which no chunk is left; return how many."""
    oldest = moment - list_levels(settings)[-1].age - DAY_WINDOW
    return connection.execute("DELETE FROM series WHERE last < ?", (oldest,)).rowcount


def remove_ended(connection: sqlite3.Connection, origin: str, moment: int) -> int:
    """Remove the series of an origin that ended first, with their chunks; return how many."""
    rows = connection.execute(
        "SELECT number, first, last FROM series WHERE origin = ? AND last < ?"
        " ORDER BY last LIMIT ?",
        (origin, moment - ENDED_AFTER, SERIES_PER_STEP),
    ).fetchall()
    connection.execute("BEGIN IMMEDIATE")
    try:
        for table, span in (("raw", WINDOW), ("minutes", WINDOW), ("hours", DAY_WINDOW)):
            connection.executemany(
                f"DELETE FROM {table} WHERE key = ?",  # nosec B608 # the tables above
                _keys(rows, span),
            )
        connection.executemany("DELETE FROM series WHERE number = ?", [row[:1] for row in rows])
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return len(rows)


def _keys(rows: list[tuple[int, int, int]], span: int) -> Iterator[tuple[int]]:
    for number, first, last in rows:
        # What is written of the first and last sample is at most a window off.
        for upper in range((first - WINDOW) // span, (last + WINDOW) // span + 1):
            yield (chunk_key(upper, number),)


def _oldest(connection: sqlite3.Connection, level: Level) -> int | None:
    (key,) = connection.execute(
        f"SELECT min(key) FROM {level.table}"  # nosec B608 # the tables above
    ).fetchone()
    return None if key is None else key >> SHIFT


def _remove_before(connection: sqlite3.Connection, level: Level, upper: int) -> int:
    return connection.execute(
        f"DELETE FROM {level.table} WHERE key IN"  # nosec B608 # the tables above
        f" (SELECT key FROM {level.table} WHERE key < ? ORDER BY key LIMIT ?)",
        (chunk_key(upper, 0), CHUNKS_PER_STEP),
    ).rowcount
