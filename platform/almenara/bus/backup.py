"""A copy of the database while it is written: what a backup is made of."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from almenara.bus.schema import check_version, create_private
from almenara.bus.writer_thread import DATABASE

T = TypeVar("T")

INSTRUCTIONS: Final = 100_000
"""Steps of SQLite's machine between two checks whether a copy was cancelled."""

PAGES: Final = 4096
"""Pages copied in one step; between two steps the writer has its turn."""


def copy_database(
    folder: Path, target: Path, is_cancelled: Callable[[], bool] = lambda: False
) -> int:
    """Copy the database of `folder` to the new file `target`; return the events in the copy.

    The database may be in use: the copy is as of one moment, and holds every event that was durable
    when it started. It is complete when it appears under its name. Only its owner can read it.

    Raises `FileNotFoundError` where there is no database, `FileExistsError` where the target
    exists, `SchemaTooNewError` and `sqlite3.Error`.
    """
    source = folder / DATABASE
    if not source.exists():
        raise FileNotFoundError(f"{folder} has no database; check storage.dir")

    def count_events(copy: sqlite3.Connection) -> int:
        check_version(copy, source)
        (events,) = copy.execute("SELECT events FROM position").fetchone()
        return int(events)

    return copy_file(source, target, count_events, is_cancelled)


def copy_file(
    source: Path,
    target: Path,
    inspect: Callable[[sqlite3.Connection], T],
    is_cancelled: Callable[[], bool] = lambda: False,
    *,
    immutable: bool = False,
) -> T:
    """Copy any database in the same way; return what `inspect` returns for the copy.

    `immutable` reads the file alone, also from a read-only volume, and leaves nothing beside it;
    nothing may write to the database meanwhile.

    Raises `InterruptedError`, or `sqlite3.OperationalError`, once `is_cancelled`.
    """

    def check(*_: int) -> None:
        if is_cancelled():
            raise InterruptedError("the copy was cancelled")

    if target.exists():
        raise FileExistsError(f"{target} exists already; name a new file")
    mode = "immutable=1" if immutable else "mode=ro"
    unfinished = target.with_name(target.name + ".part")
    unfinished.unlink(missing_ok=True)
    try:
        create_private(unfinished)
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?{mode}", uri=True)) as reading,
            closing(sqlite3.connect(unfinished)) as writing,
        ):
            # One reading transaction: what is written meanwhile goes to the write-ahead log, and
            # the copy need not start again.
            reading.execute("BEGIN")
            reading.execute("SELECT 1 FROM sqlite_master").fetchone()
            reading.backup(writing, pages=PAGES, progress=check)
            # With a write-ahead log, the copy could not be read on a read-only volume.
            writing.execute("PRAGMA journal_mode = DELETE").fetchall()
            writing.set_progress_handler(is_cancelled, INSTRUCTIONS)
            result = inspect(writing)
            if writing.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError(
                    "the copy is damaged, and so is the database; run `almenara storage check`"
                )
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return result
