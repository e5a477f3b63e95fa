"""The tables of the sample store: a database of its own beside that of the bus.

Samples are many and small, events few and precious. In one database they would share its writer,
its write-ahead log and its damage. It is a database rather than files because a transaction makes
chunks, rollups and the position in the log durable together, and retention frees pages that are
used again, with no file for each of thousands of series.

Samples are stored by windows of two hours, so that what is written and removed together lies
together:

- `fresh`: what was flushed since, a piece for each flush and series;
- `raw`: the samples of a window that is over, one chunk a series;
- `minutes`: their rollups of a minute, one chunk a series and window;
- `hours`: their rollups of an hour, one chunk a series and day.

The key of a row is the number of the flush, window or day in its upper half, and that of the series
in its lower one.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from almenara.bus.schema import closed_on_error, create_private
from almenara.errors import AlmenaraError
from almenara.signals import Sample
from almenara.units import DAY, HOUR, MILLISECOND, MINUTE

DATABASE: Final = "samples.db"
VERSION: Final = 2
WINDOW: Final = 2 * HOUR // MILLISECOND
"""Milliseconds of a chunk of samples, and of a chunk of their rollups of a minute."""
DAY_WINDOW: Final = DAY // MILLISECOND
"""Milliseconds of a chunk of rollups of an hour."""
MINUTE_WIDTH: Final = MINUTE // MILLISECOND
HOUR_WIDTH: Final = HOUR // MILLISECOND
SLOT: Final = 100
"""Milliseconds of which one sample is stored, the last: a bound for the size of a chunk."""
MAX_SERIES_NUMBER: Final = 2**31 - 1
SHIFT: Final = 32

TABLES: Final = """
CREATE TABLE position (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    last_sequence INTEGER NOT NULL,
    last_flush INTEGER NOT NULL,
    last_series INTEGER NOT NULL,
    anchor TEXT
);
INSERT INTO position VALUES (1, 0, 0, 0, NULL);
CREATE TABLE series (
    number INTEGER PRIMARY KEY,
    metric TEXT NOT NULL,
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    origin TEXT NOT NULL,
    unit TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    UNIQUE (metric, kind, namespace, name, origin)
);
CREATE TABLE flushes (number INTEGER PRIMARY KEY, window INTEGER NOT NULL);
CREATE TABLE fresh (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE raw (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE minutes (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE hours (key INTEGER PRIMARY KEY, body BLOB NOT NULL);
"""
FLUSH_TIMES: Final = """
ALTER TABLE flushes ADD COLUMN first INTEGER NOT NULL DEFAULT 0;
"""
"""The time of the first sample of a flush in its window; 0 where it is not known."""
STEPS: Final = (TABLES, FLUSH_TIMES)
"""By version: the statements that turn the tables of that version into those of the next."""


class SampleStoreTooNewError(AlmenaraError):
    """A newer Almenara wrote this database; the text names the file and a remedy."""


class SeriesName(NamedTuple):
    """What identifies a series: one origin's samples of one metric of one resource."""

    metric: str
    kind: str
    namespace: str
    name: str
    origin: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The resource that the series is about."""
        return self.kind, self.namespace, self.name


class StoredSeries(msgspec.Struct, frozen=True):
    """A series, and the number of its chunks; None for one of which nothing is stored yet."""

    name: SeriesName
    unit: str
    number: int | None = None


def name_series(sample: Sample) -> SeriesName:
    """Return the series that a sample belongs to."""
    return SeriesName(sample.metric, sample.kind, sample.namespace, sample.name, sample.origin)


def chunk_key(upper: int, number: int) -> int:
    """Return the key of a chunk: of a flush, window or day, and a series."""
    return upper << SHIFT | number


def open_database(path: Path) -> sqlite3.Connection:
    """Return a writing connection to the database, which is created where it does not exist.

    Raises `SampleStoreTooNewError`, `OSError` and `sqlite3.Error`.
    """
    create_private(path)
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    with closed_on_error(connection):
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        # What a power failure takes is read again from the log, so no commit waits for the disk.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        connection.execute("PRAGMA cache_size = -4096")
        if (version := _check_version(connection, path)) < VERSION:
            script = "".join(STEPS[version:])
            connection.executescript(f"BEGIN; {script} PRAGMA user_version = {VERSION}; COMMIT;")
        connection.execute("SELECT last_sequence, last_flush FROM position").fetchone()
    return connection


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise SampleStoreTooNewError(
            f"{path} was written by a newer Almenara (schema {version}, this version reads up to"
            f" {VERSION}). Upgrade Almenara, or remove the file to start with empty charts."
        )
    return int(version)


def set_aside(path: Path, moment: int) -> Path:
    """Rename a damaged database and the files beside it, and return its new name."""
    target = path.with_name(f"{path.name}.damaged-{moment // 1_000_000}")
    os.replace(path, target)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return target
