"""What is removed from the embedded log, and when: the retention rule.

Signals older than an age go, and the oldest go while the database holds more bytes than it may.
Removal is in steps of a bounded number of signals, so that batches are written between them.
"""

import sqlite3
from typing import Final

from almenara.bus.schema import INDEXED_DATA
from almenara.config import StorageSettings

VACUUM_PAGES: Final = 512
SECOND: Final = 1_000_000


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the database that hold something; free pages do not count."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


def sequence_at(connection: sqlite3.Connection, time: int) -> int:
    """The last sequence given by `time`, as far as the clock was noted; 0 before that."""
    found = connection.execute(
        "SELECT sequence FROM clock WHERE time <= ? ORDER BY time DESC LIMIT 1", (time,)
    ).fetchone()
    return int(found[0]) if found else 0


def remove_step(connection: sqlite3.Connection, settings: StorageSettings, time: int) -> int:
    """Remove at most one step of what should go at `time`; how many signals went."""
    limit = settings.retention_batch
    outdated = time - int(settings.retention_age * SECOND)
    if removed := _remove_events(connection, sequence_at(connection, outdated), limit):
        return removed
    observed = time - int(min(settings.sample_retention_age, settings.retention_age) * SECOND)
    if removed := _remove_observations(connection, sequence_at(connection, observed), limit):
        return removed
    connection.execute("DELETE FROM clock WHERE time < ?", (outdated,))
    if used_bytes(connection) > settings.retention_size:
        return _remove_oldest(connection, limit)
    return 0


def release_pages(connection: sqlite3.Connection) -> None:
    """Return some free pages to the file system."""
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()


def _remove_oldest(connection: sqlite3.Connection, limit: int) -> int:
    (event,) = connection.execute("SELECT min(sequence) FROM events").fetchone()
    (observation,) = connection.execute("SELECT min(sequence) FROM observations").fetchone()
    if event is None and observation is None:
        return 0
    if observation is None or (event is not None and event < observation):
        return _remove_events(connection, 2**62, limit)
    return _remove_observations(connection, 2**62, limit)


def _remove_events(connection: sqlite3.Connection, through: int, limit: int) -> int:
    found = connection.execute(
        "SELECT max(sequence), count(*) FROM ("
        "SELECT sequence FROM events WHERE sequence <= ? ORDER BY sequence LIMIT ?)",
        (through, limit),
    ).fetchone()
    last, count = found
    if not count:
        return 0
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "INSERT INTO events_text (events_text, rowid, subject, data)"  # nosec B608 # constant fragments, bound values
            f" SELECT 'delete', sequence, subject, {INDEXED_DATA} FROM events WHERE sequence <= ?",
            (last,),
        )
        connection.execute("DELETE FROM events WHERE sequence <= ?", (last,))
        connection.execute("UPDATE position SET events = events - ?", (count,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return int(count)


def _remove_observations(connection: sqlite3.Connection, through: int, limit: int) -> int:
    return connection.execute(
        "DELETE FROM observations WHERE sequence IN ("
        "SELECT sequence FROM observations WHERE sequence <= ? ORDER BY sequence LIMIT ?)",
        (through, limit),
    ).rowcount
