"""Compares the databases of two replicas: what the shared log determines must be equal."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from almenara.bus import Record
from almenara.bus.codec import RowDecoder
from almenara.bus.event_ids import read_ids
from almenara.bus.ingest import compile_match
from almenara.bus.log_clock import Anchor
from almenara.bus.log_state import OWNER, POSITION, decode_position
from almenara.bus.replay import read_after
from almenara.bus.retention import sequence_at
from almenara.bus.schema import VERSION, check_version, connect
from almenara.bus.storage_errors import StorageError
from almenara.bus.writer_thread import DATABASE
from almenara.config import RetentionRule
from almenara.signals import Event
from almenara.units import SECOND

ROWS_AT_ONCE: Final = 1_000
MAX_DIFFERENCES: Final = 20
TABLES: Final = {
    "known resources": "SELECT source, kind, namespace, name FROM known_resources ORDER BY 1,2,3,4",
    # The position also has where a replica starts to read again, which is up to that replica.
    "stored values": "SELECT plugin, key, value FROM plugin_state"
    " WHERE (plugin, key) != ('almenara/log', 'position') ORDER BY plugin, key",
    "positions": "SELECT last_sequence, seen_generation, seen_count FROM position",
}
"""What besides signals must be equal, by its name in a message."""


def compare_databases(first: Path, second: Path, rules: Sequence[RetentionRule] = ()) -> list[str]:
    """Return the differences between the databases of two replicas, a sentence each.

    Signals are compared from where both have them, since retention depends on clocks. For the same
    reason, one of them may lack what the rules of retention remove. Raises
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
        differences = _compare_signals(one, other, rules)
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


def _compare_signals(
    one: sqlite3.Connection, other: sqlite3.Connection, rules: Sequence[RetentionRule]
) -> list[str]:
    oldest = max(_find_oldest(one), _find_oldest(other))
    newest = max(_read_time(one), _read_time(other))
    may_lack = [_RuleCheck(connection, rules, newest).may_lack for connection in (one, other)]
    differences: list[str] = []
    for left, right in _merge(_read(one, oldest), _read(other, oldest)):
        if left == right:
            continue
        if left is None or right is None:
            present, is_allowed = (right, may_lack[0]) if left is None else (left, may_lack[1])
            if present is not None and is_allowed(present):
                continue
        sequence = min(record.sequence for record in (left, right) if record is not None)
        differences.append(f"The signals with sequence {sequence} differ.")
        if len(differences) >= MAX_DIFFERENCES:
            break
    return differences


def _merge(
    one: Iterator[Record], other: Iterator[Record]
) -> Iterator[tuple[Record | None, Record | None]]:
    """Yield the records of both with the same sequence; None where one has none."""
    left, right = next(one, None), next(other, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left.sequence < right.sequence):
            yield left, None
            left = next(one, None)
        elif left is None or right.sequence < left.sequence:
            yield None, right
            right = next(other, None)
        else:
            yield left, right
            left, right = next(one, None), next(other, None)


class _RuleCheck:
    """Which events a database may lack because of `storage.retention_rules`."""

    def __init__(
        self, connection: sqlite3.Connection, rules: Sequence[RetentionRule], time: int
    ) -> None:
        self._rules = [
            (compile_match(rule.match), sequence_at(connection, time - int(rule.age * SECOND)))
            for rule in rules
        ]

    def may_lack(self, record: Record) -> bool:
        event = record.signal
        return isinstance(event, Event) and any(
            record.sequence <= through and matches(event) for matches, through in self._rules
        )


def _read_time(connection: sqlite3.Connection) -> int:
    """Return the time of the log when it was closed, or a time shortly before."""
    anchor, noted = connection.execute(
        "SELECT anchor, (SELECT coalesce(max(time), 0) FROM clock) FROM position"
    ).fetchone()
    stored = 0 if anchor is None else msgspec.json.decode(anchor, type=Anchor).time
    return max(stored, int(noted))


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
