"""Compares the databases of two replicas: what the shared log determines must be equal."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import Final

from almenara.bus import Record
from almenara.bus.codec import RowDecoder
from almenara.bus.event_ids import read_ids
from almenara.bus.log_state import OWNER, POSITION, decode_position
from almenara.bus.replay import read_after
from almenara.bus.schema import VERSION, check_version, connect
from almenara.bus.storage_errors import StorageError
from almenara.bus.writer_thread import DATABASE

ROWS_AT_ONCE: Final = 1_000
MAX_DIFFERENCES: Final = 20
TABLES: Final = {
    "known resources": "SELECT source, kind, namespace, name FROM known_resources ORDER BY 1,2,3,4",
    "stored values": "SELECT plugin, key, value FROM plugin_state ORDER BY plugin, key",
    "positions": "SELECT last_sequence, seen_generation, seen_count FROM position",
}
"""What besides signals must be equal, by its name in a message."""


def compare_databases(first: Path, second: Path) -> list[str]:
    """Return the differences between the databases of two replicas, a sentence each.

    Signals are compared from where both have them, since retention depends on clocks. Raises
    `FileNotFoundError`, `StorageError` where a database is not of a replica or the two have not
    applied the same messages, and `SchemaTooNewError`.
    """
    with closing(_open(first)) as one, closing(_open(second)) as other:
        positions = [_read_position(one, first), _read_position(other, second)]
        if positions[0] != positions[1]:
            raise StorageError(
                f"{first} has the shared log up to message {positions[0]:,}, and {second} up to"
                f" message {positions[1]:,}. Start both until they are ready, and stop them after"
                " all others."
            )
        differences = _compare_signals(one, other)
        for name, statement in TABLES.items():
            if one.execute(statement).fetchall() != other.execute(statement).fetchall():
                differences.append(f"The {name} differ.")
        if read_ids(one) != read_ids(other):
            differences.append("The ids that recognize duplicates differ.")
        return differences


def _open(folder: Path) -> sqlite3.Connection:
    path = folder / DATABASE
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no database")
    connection = connect(path, writable=False)
    if check_version(connection, path) < VERSION:
        connection.close()
        raise StorageError(f"{path} has an older schema. Start Almenara once: it is migrated.")
    return connection


def _read_position(connection: sqlite3.Connection, folder: Path) -> int:
    row = connection.execute(
        "SELECT value FROM plugin_state WHERE plugin = ? AND key = ?", (OWNER, POSITION)
    ).fetchone()
    position = decode_position(row[0]) if row else None
    if position is None:
        raise StorageError(f"The database in {folder} is not that of a replica.")
    return position.position


def _compare_signals(one: sqlite3.Connection, other: sqlite3.Connection) -> list[str]:
    oldest = max(_find_oldest(one), _find_oldest(other))
    differences: list[str] = []
    for left, right in zip_longest(_read(one, oldest), _read(other, oldest)):
        if left != right:
            sequence = min(record.sequence for record in (left, right) if record is not None)
            differences.append(f"The signals with sequence {sequence} differ.")
            if len(differences) >= MAX_DIFFERENCES:
                break
    return differences


def _find_oldest(connection: sqlite3.Connection) -> int:
    """Return the sequence from which nothing was removed."""
    (events, observations) = connection.execute(
        "SELECT coalesce((SELECT min(first_sequence) FROM blocks),"
        " (SELECT min(sequence) FROM events), 0),"
        " coalesce((SELECT min(sequence) FROM observations), 0)"
    ).fetchone()
    return max(int(events), int(observations))


def _read(connection: sqlite3.Connection, oldest: int) -> Iterator[Record]:
    decoder, cursor = RowDecoder(is_quiet=True), oldest - 1
    while True:
        records, reached = read_after(connection, cursor, ROWS_AT_ONCE, decoder)
        yield from records
        if reached <= cursor:
            return
        cursor = reached
