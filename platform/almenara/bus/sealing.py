"""Moves the oldest rows of events into blocks, in steps of a few milliseconds.

Batches are written between two steps. A block is read from the rows and encoded first. One
transaction then stores it and moves `position.sealed_through` on; from that moment the events are
read from the block. Their rows, now invisible, are noted in `sealed_rows` and deleted in further
steps, also after a crash. So each event is visible exactly once at any instant. A row that cannot
be read stays a row.

Which events share a block depends on nothing but the rows, so that a replica with the same rows
has the same blocks.
"""

import operator
import sqlite3
from bisect import bisect_right
from collections.abc import Generator, Iterator
from typing import Any, Final

import msgspec

from almenara.bus.block_format import Entry
from almenara.bus.blocks import EncodedBlock, encode, insert_block
from almenara.bus.codec import EVENT_COLUMNS, RowDecoder
from almenara.bus.counts import EventCounts
from almenara.bus.text_tables import (
    is_mostly_sealed,
    is_switch_due,
    move_rows,
    switch_tables,
)
from almenara.bus.upkeep import commit_later

BLOCK_EVENTS: Final = 2_000
BLOCK_BYTES: Final = 8 * 1024**2
"""Payloads of one block; it has fewer events where they are large."""
READ_EVENTS: Final = 250
READ_BYTES: Final = 512 * 1024
"""Events and payloads read in one step."""
CLEARED_EVENTS: Final = 250
"""Rows deleted in one step."""
PAUSE: Final = 9.0
"""Length of the pause after a step, as a multiple of the step, while few events wait."""
HALVED_AT: Final = 20_000
"""Events that wait to be sealed where the pause is half as long. The higher the rate of events, the
more of them wait while sealing keeps up."""
MIN_SHARE: Final = 0.25
"""Share of the pause that remains: a shorter one would delay live events where the processor is
short."""
MAX_WAITING: Final = 400_000
"""Events that wait to be sealed from which on there is no pause, so that publishers slow down."""

_ROW: Final = (
    f"{EVENT_COLUMNS}, e.namespace, coalesce(length(e.raw), 0) + coalesce(length(e.data), 0)"
)
_SEQUENCE: Final = operator.itemgetter(0)
_NAMESPACE, _LENGTH = 14, 15

Row = tuple[Any, ...]


class _Draft(msgspec.Struct):
    """Rows that are to become a block."""

    through: int
    """Sequence of the last row."""
    entries: list[Entry] = []
    counts: EventCounts = msgspec.field(default_factory=lambda: EventCounts(_NAMESPACE))
    """What the events were counted as (`almenara.bus.removal.Tally`)."""
    ranges: list[tuple[int, int]] = []
    """First and last sequences between which all rows are in the block."""


class Sealer:
    """Seals the oldest rows of events, except the newest `hot_events`."""

    def __init__(self, hot_events: int) -> None:
        self._hot_events = hot_events
        self.blocks = 0
        """Blocks that were stored."""
        self.pause = PAUSE
        """Length of the pause after a step, as a multiple of the step (`choose_pause`)."""

    def seal(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Seal all that is due; yield after each short step.

        Events of a former version are counted first (`almenara.bus.counts`).
        """
        while True:
            while clear_rows(connection):
                yield
            if is_switch_due(connection):
                with commit_later(connection):
                    switch_tables(connection)
                yield
            unsealed, through, uncounted = connection.execute(
                "SELECT events - sealed_events, sealed_through, uncounted_through FROM position"
            ).fetchone()
            if uncounted or unsealed < self._hot_events + BLOCK_EVENTS:
                break
            self.pause = choose_pause(unsealed - self._hot_events - BLOCK_EVENTS)
            draft = yield from _read_draft(connection, through)
            if draft.through == through:
                return
            block = (yield from encode(draft.entries)) if draft.entries else None
            _store(connection, draft, block)
            self.blocks += 1
            yield
        while is_mostly_sealed(connection):
            with commit_later(connection):
                move_rows(connection)
            yield


def choose_pause(waiting: int) -> float:
    """Return the length of the pause after a step while some events wait to be sealed."""
    if waiting > MAX_WAITING:
        return 0.0
    return PAUSE * max(HALVED_AT / (HALVED_AT + waiting), MIN_SHARE)


def _read_draft(connection: sqlite3.Connection, after: int) -> Generator[None, None, _Draft]:
    draft = _Draft(after)
    decoder = RowDecoder(is_quiet=True)
    (counted_from,) = connection.execute("SELECT names_counted_from FROM position").fetchone()
    number = size = 0
    while number < BLOCK_EVENTS:
        rows, length = _read_rows(connection, draft.through, BLOCK_EVENTS - number)
        if not rows or (number and size + length > BLOCK_BYTES):
            break
        number, size = number + len(rows), size + length
        _add_rows(draft, rows, decoder, connection, counted_from)
        yield
    return draft


def _read_rows(connection: sqlite3.Connection, after: int, limit: int) -> tuple[list[Row], int]:
    """Return the next rows, and the bytes of their payloads."""
    rows: list[Row] = []
    size = 0
    for row in connection.execute(
        f"SELECT {_ROW} FROM events e WHERE e.sequence > ? ORDER BY e.sequence LIMIT ?",  # nosec B608 # constant fragments, bound values
        (after, min(limit, READ_EVENTS)),
    ):
        length = row[_LENGTH]
        if rows and size + length > READ_BYTES:
            break
        rows.append(row)
        size += length
    return rows, size


def _add_rows(
    draft: _Draft,
    rows: list[Row],
    decoder: RowDecoder,
    connection: sqlite3.Connection,
    counted_from: int,
) -> None:
    entries = decoder.entries(connection, rows)
    draft.entries += entries
    readable = rows
    if len(entries) == len(rows):
        _extend_ranges(draft.ranges, draft.through, rows[0][0], rows[-1][0])
    else:
        sequences = {entry[0] for entry in entries}
        readable = [row for row in rows if row[0] in sequences]
        before = draft.through
        for row in rows:
            if row[0] in sequences:
                _extend_ranges(draft.ranges, before, row[0], row[0])
            before = row[0]
    first_counted = bisect_right(readable, counted_from, key=_SEQUENCE)
    draft.counts.add(readable[:first_counted], has_uses=False)
    draft.counts.add(readable[first_counted:])
    draft.through = rows[-1][0]


def _extend_ranges(ranges: list[tuple[int, int]], before: int, first: int, last: int) -> None:
    """Add rows to the last range, where that ends with the row before them."""
    is_continued = bool(ranges) and ranges[-1][1] == before
    ranges.append((ranges.pop()[0] if is_continued else first, last))


def _store(connection: sqlite3.Connection, draft: _Draft, block: EncodedBlock | None) -> None:
    with commit_later(connection):
        if block is not None:
            insert_block(connection, block, draft.counts.groups, draft.counts.uses)
        connection.executemany("INSERT INTO sealed_rows VALUES (?, ?)", draft.ranges)
        connection.execute(
            "UPDATE position SET sealed_through = ?, sealed_events = sealed_events + ?",
            (draft.through, len(draft.entries)),
        )


def clear_rows(connection: sqlite3.Connection, limit: int = CLEARED_EVENTS) -> bool:
    """Delete up to `limit` rows whose events are in a block; return whether some were left."""
    noted = connection.execute(
        "SELECT first_sequence, last_sequence FROM sealed_rows ORDER BY first_sequence LIMIT 1"
    ).fetchone()
    if noted is None:
        return False
    first, last = noted
    row = connection.execute(
        "SELECT sequence FROM events WHERE sequence BETWEEN ? AND ?"
        " ORDER BY sequence LIMIT 1 OFFSET ?",
        (first, last, limit - 1),
    ).fetchone()
    end = last if row is None else row[0]
    with commit_later(connection):
        # The full-text index is emptied later (`almenara.bus.text_tables`).
        connection.execute("DELETE FROM events WHERE sequence BETWEEN ? AND ?", (first, end))
        connection.execute("DELETE FROM sealed_rows WHERE first_sequence = ?", (first,))
        if end < last:
            connection.execute("INSERT INTO sealed_rows VALUES (?, ?)", (end + 1, last))
    return True
