"""What is removed from the embedded log, and when: the retention rule.

Signals older than an age are removed, and the oldest while the database holds more bytes than it
may. Age is measured by the log's own time (`almenara.bus.log_clock`). Removal is in steps of a
bounded number of signals, so that batches are written between them.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final

from almenara.bus.blocks import remove_block
from almenara.bus.removal import (
    create_selection,
    delete_selected,
    release,
    select_events,
    tally_selected,
)
from almenara.config import StorageSettings
from almenara.units import SECOND

VACUUM_PAGES: Final = 512
ROW_OVERHEAD: Final = 40
"""Bytes of a row and its index entries besides its text, about."""


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the bytes of the database that hold something; free pages do not count."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


def fixed_bytes(connection: sqlite3.Connection) -> int:
    """Return about how many bytes removing signals cannot free: names, known resources, state.

    They do not count against `retention_size`, or a plugin that stores much would empty history.
    """
    (names,) = connection.execute(
        "SELECT coalesce(sum(2 * length(text) + ?), 0) FROM names", (ROW_OVERHEAD,)
    ).fetchone()
    (resources,) = connection.execute(
        "SELECT coalesce(sum(length(source) + length(kind) + length(namespace) + length(name) + ?),"
        " 0) FROM known_resources",
        (ROW_OVERHEAD,),
    ).fetchone()
    (state,) = connection.execute(
        "SELECT coalesce(sum(length(value) + length(key) + ?), 0) FROM plugin_state",
        (ROW_OVERHEAD,),
    ).fetchone()
    return int(names + resources + state)


def repair_clock(connection: sqlite3.Connection, time: int) -> None:
    """Make the notes of `clock` monotone: a later sequence never has an earlier time.

    Notes of earlier versions follow the system clock, wrong dates included. A note that a later one
    contradicts is moved to the latest time before it, and none is later than `time`, so that
    signals are removed too late rather than too soon.
    """
    notes = connection.execute("SELECT time, sequence FROM clock ORDER BY sequence").fetchall()
    latest = 0
    repaired: dict[int, int] = {}
    for noted, sequence in notes:
        latest = max(latest, min(noted, time))
        repaired[latest] = sequence
    if list(repaired.items()) != notes:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM clock")
        connection.executemany("INSERT INTO clock VALUES (?, ?)", list(repaired.items()))
        connection.execute("COMMIT")


def sequence_at(connection: sqlite3.Connection, time: int) -> int:
    """Return the last sequence noted by `time`; 0 before the first note."""
    row = connection.execute(
        "SELECT sequence FROM clock WHERE time <= ? ORDER BY time DESC LIMIT 1", (time,)
    ).fetchone()
    return int(row[0]) if row else 0


def remove_step(
    connection: sqlite3.Connection, settings: StorageSettings, time: int, fixed: int = 0
) -> int:
    """Remove at most one batch of what should be removed at `time`; return how many signals.

    `fixed` are the bytes that do not count against `retention_size`.
    """
    limit = settings.retention_batch
    outdated = time - int(settings.retention_age * SECOND)
    through = sequence_at(connection, outdated)
    if removed := _remove_block(connection, through):
        return removed
    if removed := _remove_events(connection, through, limit):
        return removed
    observed = time - int(min(settings.sample_retention_age, settings.retention_age) * SECOND)
    if removed := _remove_observations(connection, sequence_at(connection, observed), limit):
        return removed
    connection.execute("DELETE FROM clock WHERE time < ?", (outdated,))
    if used_bytes(connection) - fixed > settings.retention_size:
        return _remove_oldest(connection, limit)
    return 0


def release_pages(connection: sqlite3.Connection) -> None:
    """Return some free pages to the file system."""
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()


def _remove_oldest(connection: sqlite3.Connection, limit: int) -> int:
    (event,) = connection.execute("SELECT min(sequence) FROM events").fetchone()
    (observation,) = connection.execute("SELECT min(sequence) FROM observations").fetchone()
    row = connection.execute(
        "SELECT first_sequence FROM blocks ORDER BY last_sequence LIMIT 1"
    ).fetchone()
    others = [sequence for sequence in (event, observation) if sequence is not None]
    if row is not None and all(row[0] < sequence for sequence in others):
        return _remove_block(connection, 2**62)
    if event is None and observation is None:
        return 0
    if observation is None or (event is not None and event < observation):
        return _remove_events(connection, 2**62, limit)
    return _remove_observations(connection, 2**62, limit)


def _remove_block(connection: sqlite3.Connection, through: int) -> int:
    row = connection.execute(
        "SELECT last_sequence FROM blocks WHERE last_sequence <= ? ORDER BY last_sequence LIMIT 1",
        (through,),
    ).fetchone()
    return remove_block(connection, row[0]) if row else 0


def _remove_events(connection: sqlite3.Connection, through: int, limit: int) -> int:
    rows = connection.execute(
        "SELECT sequence FROM events WHERE sequence <= ? ORDER BY sequence LIMIT ?",
        (through, limit),
    ).fetchall()
    if rows:
        remove_events(connection, [sequence for (sequence,) in rows], oldest_left=rows[-1][0] + 1)
    return len(rows)


def remove_events(
    connection: sqlite3.Connection, sequences: Sequence[int], oldest_left: int = 0
) -> None:
    """Remove rows of events. No event before the sequence `oldest_left` remains."""
    create_selection(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        select_events(connection, sequences)
        release(connection, tally_selected(connection), oldest_left)
        delete_selected(connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _remove_observations(connection: sqlite3.Connection, through: int, limit: int) -> int:
    return connection.execute(
        "DELETE FROM observations WHERE sequence IN ("
        "SELECT sequence FROM observations WHERE sequence <= ? ORDER BY sequence LIMIT ?)",
        (through, limit),
    ).rowcount
