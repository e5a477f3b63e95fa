"""Fills the series in memory from the sample store after a start, so that charts are not empty."""

import asyncio
import sqlite3
from functools import partial
from typing import Final

import structlog

from almenara.errors import LimitExceeded, Unavailable, describe_error
from almenara.state.last_points import WINDOWS, LastPoints, read_last
from almenara.state.resources import Resources
from almenara.state.sample_chunks import Chunks, merge_points
from almenara.state.sample_codec import Points
from almenara.state.sample_schema import SHIFT, WINDOW, SeriesName, chunk_key
from almenara.state.sample_store import SampleStore
from almenara.state.samples import SAMPLES_PER_SERIES

log = structlog.get_logger(__name__)

SERIES_PER_READ: Final = 500


async def restore_samples(resources: Resources, store: SampleStore) -> None:
    """Wait until the store has caught up with the log, and fill the series of what still exists.

    Series of resources that were deleted stay out; where a source publishes samples of a kind and
    no resources, all recent ones are filled. What cannot be read stays empty.
    """
    await store.caught_up.wait()
    try:
        known = set(await store.log.read(_read_known))
        kinds = {key[0] for key in known}
        names = [
            (name, number)
            for name, number in await store.read(_read_recent_names)
            if name.key in known or name.kind not in kinds
        ]
        for first in range(0, len(names), SERIES_PER_READ):
            group = names[first : first + SERIES_PER_READ]
            stored = await store.read(partial(_read_recent, [number for _, number in group]))
            for (name, _), points in zip(group, stored, strict=True):
                resources.restore_series(name, merge_points((points, *store.in_memory(name))))
            await asyncio.sleep(0)
    except (Unavailable, LimitExceeded) as error:
        log.warning("charts start empty", reason=describe_error(error))


def _read_known(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    return connection.execute("SELECT kind, namespace, name FROM known_resources").fetchall()


def _newest_window(connection: sqlite3.Connection) -> int:
    (sealed,) = connection.execute("SELECT max(key) FROM raw").fetchone()
    (flushed,) = connection.execute("SELECT max(window) FROM flushes").fetchone()
    return max((sealed or 0) >> SHIFT, flushed or 0)


def _read_recent_names(connection: sqlite3.Connection) -> list[tuple[SeriesName, int]]:
    """The series with samples in the newest windows."""
    earliest = _newest_window(connection) - WINDOWS + 1
    flushes = connection.execute("SELECT number FROM flushes WHERE window >= ?", (earliest,))
    ranges = [
        ("raw", chunk_key(earliest, 0), 2**62),
        *(("fresh", chunk_key(number, 0), chunk_key(number + 1, 0)) for (number,) in flushes),
    ]
    numbers: set[int] = set()
    for table, first, end in ranges:
        numbers.update(
            number
            for (number,) in connection.execute(
                f"SELECT key & {2**SHIFT - 1} FROM {table} WHERE key >= ? AND key < ?",  # nosec B608 # the tables above
                (first, end),
            )
        )
    statement = "SELECT metric, kind, namespace, name, origin FROM series WHERE number = ?"
    rows = ((number, connection.execute(statement, (number,)).fetchone()) for number in numbers)
    return [(SeriesName(*row), number) for number, row in rows if row is not None]


def _read_recent(numbers: list[int], connection: sqlite3.Connection) -> list[Points]:
    end = (_newest_window(connection) + 1) * WINDOW - 1
    series = {number: LastPoints(end, SAMPLES_PER_SERIES) for number in numbers}
    read_last(Chunks(connection), series, end)
    return [last.points() for last in series.values()]
