"""Takes the rows of events out of the log: to remove them, or to seal them in a block.

What events were counted as when they were stored (by time, by name, by pair of names) is counted
down when they are removed, and stored with the block when they are sealed.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from almenara.bus.counts import Group, read_groups, release_counts, sum_pairs
from almenara.bus.names import NUMBERED_COLUMNS, release_pairs, release_uses
from almenara.bus.text_index import SEARCHED_DATA, SEARCHED_DATA_BEFORE_4, SEARCHED_SUBJECT
from almenara.bus.text_tables import text_tables

IS_BEFORE_4: Final = "sequence <= (SELECT text_changed_at FROM position)"
"""SQL for: the event was stored before schema 4, whose index had the text in another form."""
SELECTED: Final = "sequence IN (SELECT sequence FROM removed_events)"
"""SQL for: the event is one of those that were selected."""


class Tally(msgspec.Struct):
    """What some events were counted as."""

    events: int
    groups: dict[Group, int]
    """All of them, by time, origin, type, namespace and severity."""
    counted: dict[Group, int]
    """Those of `groups` that are in the table of counts; a former version did not count."""
    uses: dict[int, int]
    """Counted uses of names, by number."""


def create_selection(connection: sqlite3.Connection) -> None:
    """Create the table of selected events, in memory."""
    connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS removed_events (sequence INTEGER PRIMARY KEY)"
    )


def select_events(connection: sqlite3.Connection, sequences: Iterable[int]) -> None:
    """Select events for the functions below."""
    connection.execute("DELETE FROM removed_events")
    connection.executemany(
        "INSERT INTO removed_events VALUES (?)", ((sequence,) for sequence in sequences)
    )


def tally_selected(connection: sqlite3.Connection) -> Tally:
    """Return what the selected events were counted as."""
    uncounted, counted_from = connection.execute(
        "SELECT uncounted_through, names_counted_from FROM position"
    ).fetchone()
    groups = read_groups(connection, 0, SELECTED)
    uses: Counter[int] = Counter()
    for column in NUMBERED_COLUMNS:
        rows = connection.execute(
            f"SELECT {column}, count(*) FROM events NOT INDEXED"  # nosec B608 # constant fragments, bound values
            f" WHERE {SELECTED} AND sequence > ? AND typeof({column}) = 'integer'"
            f" GROUP BY {column}",
            (counted_from,),
        )
        uses.update(dict(rows.fetchall()))
    return Tally(
        sum(groups.values()),
        groups,
        read_groups(connection, uncounted, SELECTED) if uncounted else groups,
        uses,
    )


def delete_selected(connection: sqlite3.Connection) -> None:
    """Delete the rows of the selected events, and what the full-text index has of them."""
    # The index has no copy of the text, so deleting needs what was entered for each row; that
    # differs for events from before schema 4.
    for table, first, end in text_tables(connection):
        connection.execute(
            f"INSERT INTO {table} ({table}, rowid, subject, data)"  # nosec B608 # constant fragments, bound values
            " SELECT 'delete', sequence,"
            f" CASE WHEN {IS_BEFORE_4} THEN subject ELSE {SEARCHED_SUBJECT} END,"
            f" CASE WHEN {IS_BEFORE_4} THEN {SEARCHED_DATA_BEFORE_4} ELSE {SEARCHED_DATA} END"
            f" FROM events NOT INDEXED WHERE {SELECTED}"
            " AND sequence >= ? AND sequence < coalesce(?, sequence + 1)",
            (first, end),
        )
    connection.execute(f"DELETE FROM events WHERE {SELECTED}")  # nosec B608 # constant fragments, bound values


def release(connection: sqlite3.Connection, tally: Tally, oldest_left: int = 0) -> None:
    """Count down events that are removed. No event before the sequence `oldest_left` remains."""
    release_pairs(connection, sum_pairs(tally.groups))
    release_uses(connection, tally.uses, oldest_left)
    release_counts(connection, tally.counted, oldest_left)
    connection.execute("UPDATE position SET events = events - ?", (tally.events,))
