"""The sample store in a backup directory: days that are over in files that are copied once.

A day of a table is copied again where its content has changed: by a sample that came late, or by
retention. Everything else, with the two newest days, is copied by each backup, with the list of
the days that belong to it.
"""

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Final

from almenara.bus.backup_folder import BackupError, BackupFile, BackupFolder, BackupList, check_file
from almenara.bus.schema import create_private
from almenara.state.sample_schema import (
    DATABASE,
    DAY_WINDOW,
    SHIFT,
    STEPS,
    WINDOW,
    chunk_key,
)

REST: Final = "samples-rest"
OPEN_DAYS: Final = 2
"""Newest days, which still change."""
UPPERS_IN_DAY: Final[Mapping[str, int]] = {
    "raw": DAY_WINDOW // WINDOW,
    "minutes": DAY_WINDOW // WINDOW,
    "hours": 1,
}
"""How many windows of chunks a day has, by table."""
COPIED_TABLES: Final = ("position", "series", "flushes", "fresh")
KEY_BYTES: Final = 8

Day = tuple[str, int]
"""A table and a day since the epoch."""


def back_up_samples(source: Path, folder: BackupFolder, *, verify: bool) -> list[BackupFile]:
    """Copy the sample store of a folder, as of one moment, as far as the backup does not have it.

    Raises `sqlite3.Error`.
    """
    known = {
        file.name.rpartition("-")[0]: file
        for table in UPPERS_IN_DAY
        for file in folder.find(f"samples-{table}", DATABASE, verify=verify)
    }
    database = (source / DATABASE).absolute().as_uri()
    rest = folder.unfinished(REST)
    files = []
    with (
        closing(sqlite3.connect(f"{database}?mode=ro", uri=True, isolation_level=None)) as reading,
        closing(_create(rest, _rest_tables(reading))) as writing,
    ):
        reading.execute("BEGIN")
        first_open = _find_first_open(reading)
        writing.execute("BEGIN")
        for table in COPIED_TABLES:
            select = f"SELECT * FROM {table}"  # nosec B608 # tables of ours
            _copy(reading, select, (), writing, table)
        for table, day in _list_days(reading):
            if day >= first_open:
                _copy_day(reading, (table, day), writing, table)
                continue
            stem = f"samples-{table}-{day}-{_compute_digest(reading, (table, day))}"
            writing.execute("INSERT INTO days VALUES (?, ?)", (stem, table))
            files.append(known.get(stem) or _write_day(reading, (table, day), folder, stem))
        writing.execute("COMMIT")
        if writing.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the copy of the samples is damaged")
    return [*files, folder.add(rest, REST, DATABASE)]


def _rest_tables(reading: sqlite3.Connection) -> str:
    """The tables of the copy, in the version of those that are copied."""
    (version,) = reading.execute("PRAGMA user_version").fetchone()
    return (
        f"{''.join(STEPS[:version])} DELETE FROM position; PRAGMA user_version = {version};"  # nosec B608 # tables of ours
        " CREATE TABLE days (stem TEXT PRIMARY KEY, chunks TEXT NOT NULL);"
    )


def _create(path: Path, tables: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    # The file is unfinished until it is synchronized as a whole.
    connection.executescript(
        "PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL;"
        f" PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {tables}"
    )
    return connection


def _find_first_open(reading: sqlite3.Connection) -> int:
    newest = max((day for _, day in _list_days(reading)), default=0)
    return newest - OPEN_DAYS + 1


def _list_days(reading: sqlite3.Connection) -> Iterator[Day]:
    for table, uppers in UPPERS_IN_DAY.items():
        following = f"SELECT min(key) FROM {table} WHERE key >= ?"  # nosec B608 # tables of ours
        (key,) = reading.execute(f"SELECT min(key) FROM {table}").fetchone()  # nosec B608 # nosemgrep: values-written-into-a-statement # tables of ours
        while key is not None:
            day = (key >> SHIFT) // uppers
            yield table, day
            (key,) = reading.execute(following, (_bounds((table, day))[1],)).fetchone()


def _bounds(day: Day) -> tuple[int, int]:
    """Return the first key of a day, and that of the next."""
    table, number = day
    uppers = UPPERS_IN_DAY[table]
    return chunk_key(number * uppers, 0), chunk_key((number + 1) * uppers, 0)


def _select(table: str) -> str:
    return f"SELECT key, body FROM {table} WHERE key >= ? AND key < ? ORDER BY key"  # nosec B608 # tables of ours


def _compute_digest(reading: sqlite3.Connection, day: Day) -> str:
    digest = blake2b(digest_size=KEY_BYTES)
    for key, body in reading.execute(_select(day[0]), _bounds(day)):
        digest.update(key.to_bytes(KEY_BYTES, "big", signed=True))
        digest.update(len(body).to_bytes(KEY_BYTES, "big"))
        digest.update(body)
    return digest.hexdigest()


def _write_day(
    reading: sqlite3.Connection, day: Day, folder: BackupFolder, stem: str
) -> BackupFile:
    unfinished = folder.unfinished(stem)
    tables = "CREATE TABLE chunks (key INTEGER PRIMARY KEY, body BLOB NOT NULL);"
    with closing(_create(unfinished, tables)) as writing:
        writing.execute("BEGIN")
        _copy_day(reading, day, writing, "chunks")
        writing.execute("COMMIT")
    return folder.add(unfinished, stem, DATABASE)


def _copy_day(
    reading: sqlite3.Connection, day: Day, writing: sqlite3.Connection, target: str
) -> None:
    _copy(reading, _select(day[0]), _bounds(day), writing, target)


def _copy(
    reading: sqlite3.Connection,
    select: str,
    parameters: tuple[int, ...],
    writing: sqlite3.Connection,
    target: str,
) -> None:
    rows = reading.execute(select, parameters)
    marks = ", ".join("?" * len(rows.description))
    writing.executemany(f"INSERT INTO {target} VALUES ({marks})", rows)  # nosec B608 # tables of ours


def restore_samples(folder: Path, backup: BackupList, target: Path) -> None:
    """Write the sample store of a backup to the new file `target`.

    Raises `BackupError` and `sqlite3.Error`.
    """
    files = {
        file.name.rpartition("-")[0]: file for file in backup.files if file.restores == DATABASE
    }
    create_private(target)
    shutil.copyfile(check_file(folder, files[REST]), target)
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for stem, table in connection.execute("SELECT stem, chunks FROM days").fetchall():
            if stem not in files or table not in UPPERS_IN_DAY:
                raise BackupError(f"The samples of {stem} are missing in the backup. Use another.")
            connection.execute("ATTACH DATABASE ? AS day", (str(check_file(folder, files[stem])),))
            connection.execute(  # nosemgrep: values-written-into-a-statement
                f"INSERT INTO main.{table} SELECT key, body FROM day.chunks"  # nosec B608 # tables of ours
            )
            connection.execute("DETACH DATABASE day")
        connection.execute("DROP TABLE days")
