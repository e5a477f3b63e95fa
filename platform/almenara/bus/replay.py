"""Reads the log in order: sealed blocks, rows of events, and observations."""

import sqlite3

from almenara.bus import Record, blocks
from almenara.bus.codec import EVENT_COLUMNS, OBSERVATION_COLUMNS, RowDecoder


def read_after(
    connection: sqlite3.Connection, after: int, limit: int, decoder: RowDecoder
) -> tuple[list[Record], int]:
    """Return up to `limit` records that follow a sequence, in order, and the sequence that the
    reading came to: beyond the last record where rows at the end were left out.
    """
    if connection.in_transaction:
        return _read_after(connection, after, limit, decoder)
    # Sealing moves events between the tables, so they are read as of one moment.
    connection.execute("BEGIN")
    try:
        return _read_after(connection, after, limit, decoder)
    finally:
        connection.rollback()


def _read_after(
    connection: sqlite3.Connection, after: int, limit: int, decoder: RowDecoder
) -> tuple[list[Record], int]:
    (sealed,) = connection.execute("SELECT sealed_through FROM position").fetchone()
    events = blocks.read_after(connection, after, limit, decoder) if after < sealed else []
    if len(events) < limit:
        events += connection.execute(
            f"SELECT {EVENT_COLUMNS} FROM events e WHERE e.sequence > ?"  # nosec B608 # constant fragments, bound values
            " ORDER BY e.sequence LIMIT ?",
            (max(after, sealed), limit - len(events)),
        ).fetchall()
    observations = connection.execute(
        f"SELECT {OBSERVATION_COLUMNS} FROM observations WHERE sequence > ?"  # nosec B608 # constant fragments, bound values
        " ORDER BY sequence LIMIT ?",
        (after, limit),
    ).fetchall()
    read = sorted([row[0] for row in events] + [row[0] for row in observations])[:limit]
    if not read:
        return [], after
    end = read[-1]
    records = decoder.events(connection, events) + decoder.observations(observations)
    read_in_full = [record for record in records if record.sequence <= end]
    return sorted(read_in_full, key=lambda record: record.sequence), end
