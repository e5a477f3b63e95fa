"""A copy of the bus while it is written: what a backup is made of."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from almenara.bus.embedded import DATABASE

PAGES: Final = 4096
"""Pages copied in one step; between two the writer has its turn."""


def copy_database(folder: Path, target: Path) -> int:
    """Copy the database of `folder` to the new file `target`; the events in the copy.

    The bus may be in use: the copy is as of one moment, and holds every event that was durable
    when it began. It is whole when it appears under its name.

    Raises `FileNotFoundError` where there is no bus, `FileExistsError` where there is a file
    already, and `sqlite3.Error`.
    """
    source = folder / DATABASE
    if not source.exists():
        raise FileNotFoundError(f"there is no bus in {folder}; look at storage.dir")
    if target.exists():
        raise FileExistsError(f"{target} is there already; name a new file")
    begun = target.with_name(target.name + ".part")
    begun.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reading,
            closing(sqlite3.connect(begun)) as writing,
        ):
            # One transaction that reads: what is written meanwhile goes to the log beside it, and
            # the copy need not begin anew.
            reading.execute("BEGIN")
            reading.execute("SELECT 1 FROM sqlite_master").fetchone()
            reading.backup(writing, pages=PAGES)
            (events,) = writing.execute("SELECT events FROM position").fetchone()
            if writing.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("the copy is damaged, and so is the bus, most likely")
        with begun.open("rb") as file:
            os.fsync(file.fileno())
        begun.rename(target)
    finally:
        begun.unlink(missing_ok=True)
    return int(events)
