"""The two full-text indexes of rows: new events enter the current one, the other has those before.

To take a row out of an index, its words are entered once more and merged for a second time. So the
rows of sealed events stay in it, where no query meets them, since each joins the rows. Once all
events of the former index are sealed or removed, it is emptied at once and becomes the current one.

Where events came faster than they were sealed, the former index is much larger than its rows. Then
its rows are entered into the current one too, the newest first, and it is emptied.
"""

import sqlite3
from typing import Final, LiteralString

from almenara.bus.text_index import SEARCHED_DATA, SEARCHED_SUBJECT

TABLES: Final[tuple[LiteralString, LiteralString]] = ("events_text", "events_text_1")
SWITCHED_AFTER: Final = 5_000
"""Fewest sequences of an index."""
SEALED_SHARE: Final = 2
"""The former index is emptied early where it has so many times as many sequences of sealed events
as there are of rows in all; with a steady rate of events it has as many at most."""
MOVED_ROWS: Final = 100
"""Rows entered into the current index in one step."""


def current_table(connection: sqlite3.Connection) -> LiteralString:
    """Return the index that new events enter."""
    (current,) = connection.execute("SELECT text_table FROM position").fetchone()
    return TABLES[current]


def text_tables(
    connection: sqlite3.Connection,
) -> list[tuple[LiteralString, int, int | None]]:
    """Return the indexes that have rows, newest first, each with the first sequence of its rows
    and the first one after them."""
    current, first, former_first = connection.execute(
        "SELECT text_table, text_from, former_text_from FROM position"
    ).fetchone()
    tables: list[tuple[LiteralString, int, int | None]] = [(TABLES[current], first, None)]
    if former_first < first:
        tables.append((TABLES[1 - current], former_first, first))
    return tables


def index_rows(connection: sqlite3.Connection, first: int, end: int | None = None) -> None:
    """Enter the rows from a sequence on, up to another one, into the current index."""
    connection.execute(
        f"INSERT INTO {current_table(connection)} (rowid, subject, data)"  # nosec B608 # constant fragments, bound values
        f" SELECT sequence, {SEARCHED_SUBJECT}, {SEARCHED_DATA} FROM events"
        " WHERE sequence >= ? AND sequence < coalesce(?, sequence + 1)",
        (first, end),
    )


def is_switch_due(connection: sqlite3.Connection) -> bool:
    """Return whether no event of the former index is left as a row, and the current one has many.

    Rows of sealed events that are still to be deleted do not count.
    """
    first, last, sealed = connection.execute(
        "SELECT text_from, last_sequence, sealed_through FROM position"
    ).fetchone()
    if last - first < SWITCHED_AFTER:
        return False
    row = connection.execute(
        "SELECT 1 FROM events WHERE sequence > ? AND sequence < ? LIMIT 1", (sealed, first)
    ).fetchone()
    return row is None


def switch_tables(connection: sqlite3.Connection) -> None:
    """Empty the former index, and let new events enter it; within a transaction."""
    connection.execute(
        "UPDATE position SET text_table = 1 - text_table, former_text_from = text_from,"
        " text_from = last_sequence + 1"
    )
    table = current_table(connection)
    connection.execute(f"INSERT INTO {table} ({table}) VALUES ('delete-all')")  # nosec B608 # tables of ours


def is_mostly_sealed(connection: sqlite3.Connection) -> bool:
    """Return whether the former index is much larger than its rows, or has none left."""
    first, former_first, last, sealed, changed = connection.execute(
        "SELECT text_from, former_text_from, last_sequence, sealed_through, text_changed_at"
        " FROM position"
    ).fetchone()
    # Of older events the index has another form.
    if former_first >= first or sealed < max(changed, former_first):
        return False
    return bool(min(sealed, first) - former_first >= SEALED_SHARE * max(last - sealed, 1))


def move_rows(connection: sqlite3.Connection) -> None:
    """Enter the newest rows of the former index into the current one, or empty the former index
    where it has none left; within a transaction."""
    first, sealed = connection.execute("SELECT text_from, sealed_through FROM position").fetchone()
    (oldest,) = connection.execute(
        "SELECT min(sequence) FROM (SELECT sequence FROM events WHERE sequence > ? AND sequence < ?"
        " ORDER BY sequence DESC LIMIT ?)",
        (sealed, first, MOVED_ROWS),
    ).fetchone()
    if oldest is not None:
        index_rows(connection, oldest, first)
        connection.execute("UPDATE position SET text_from = ?", (oldest,))
        return
    current = current_table(connection)
    former = next(table for table in TABLES if table != current)
    connection.execute(f"INSERT INTO {former} ({former}) VALUES ('delete-all')")  # nosec B608 # tables of ours
    connection.execute("UPDATE position SET former_text_from = text_from")
