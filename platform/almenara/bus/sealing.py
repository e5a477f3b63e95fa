"""Moves the oldest rows of events into blocks, in steps of a few milliseconds.

Batches are written between two steps. A block is read from the rows and encoded first. One
transaction then stores it and moves `position.sealed_through` on; from that moment the events are
read from the block. Their rows, now invisible, are noted in `sealed_rows` and deleted in further
steps, also after a crash. So each event is visible exactly once at any instant. A row that cannot
be read stays a row.

Which events share a block depends on nothing but the rows, so that a replica with the same rows
has the same blocks.
"""

import math
import sqlite3
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any, Final

import msgspec

from almenara.bus.blocks import EncodedBlock, Sequenced, encode, insert_block
from almenara.bus.codec import EVENT_COLUMNS, RowDecoder
from almenara.bus.counts import Group, group_events
from almenara.bus.removal import create_selection, delete_selected, select_events
from almenara.bus.upkeep import commit_later, merge

BLOCK_EVENTS: Final = 2_000
BLOCK_BYTES: Final = 8 * 1024**2
"""Payloads of one block; it has fewer events where they are large."""
READ_EVENTS: Final = 125
READ_BYTES: Final = 512 * 1024
"""Events and payloads read in one step."""
CLEARED_EVENTS: Final = 100
"""Rows deleted in one step."""
COMPACTED_AFTER: Final = 20_000
"""Deleted rows, beyond as many as there are, after which the full-text index is compacted."""
PAUSE: Final = 9.0
SHORT_PAUSE: Final = 2.0
"""While events arrive faster than they are sealed."""

_ROW: Final = f"{EVENT_COLUMNS}, e.namespace"
_SOURCE, _ORIGIN, _TYPE, _TIME, _SEVERITY, _RAW, _DATA, _NAMESPACE = 2, 3, 4, 6, 7, 11, 12, 14

Row = tuple[Any, ...]


class _Draft(msgspec.Struct):
    """Rows that are to become a block."""

    through: int
    """Sequence of the last row."""
    events: list[Sequenced] = []
    groups: Counter[Group] = msgspec.field(default_factory=Counter)
    """What the events were counted as (`almenara.bus.removal.Tally`)."""
    uses: Counter[int] = msgspec.field(default_factory=Counter)
    ranges: list[tuple[int, int]] = []
    """First and last sequences between which all rows are in the block."""


class Sealer:
    """Seals the oldest rows of events, except the newest `hot_events`."""

    def __init__(self, hot_events: int) -> None:
        self._hot_events = hot_events
        self._deleted = 0
        """Rows deleted since the full-text index was compacted."""
        self.pause = PAUSE
        """Length of the pause after a step, as a multiple of the step."""

    def seal(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Seal all that is due; yield after each short step.

        Events of a former version are counted first (`almenara.bus.counts`).
        """
        before: float = math.inf
        while True:
            while clear_rows(connection):
                self._deleted += CLEARED_EVENTS
                yield
            unsealed, through, uncounted = connection.execute(
                "SELECT events - sealed_events, sealed_through, uncounted_through FROM position"
            ).fetchone()
            if self._deleted >= unsealed + COMPACTED_AFTER:
                # The index notes deleted words, and drops them when all of its parts are merged.
                yield from merge(connection, "events_text", is_whole=True)
                self._deleted = 0
            if uncounted or unsealed < self._hot_events + BLOCK_EVENTS:
                return
            self.pause = SHORT_PAUSE if unsealed >= before else PAUSE
            before = unsealed
            draft = yield from _read_draft(connection, through)
            if draft.through == through:
                return
            block = (yield from encode(draft.events)) if draft.events else None
            _store(connection, draft, block)
            yield


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
        payload = (row[_RAW], row[_DATA])
        length = sum(len(part) for part in payload if isinstance(part, str | bytes))
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
    records = decoder.events(connection, rows)
    draft.events += [(record.sequence, record.signal) for record in records]  # type: ignore[misc]
    readable = {record.sequence for record in records}
    is_continued = bool(draft.ranges) and draft.ranges[-1][1] == draft.through
    for row in rows:
        if row[0] not in readable:
            is_continued = False
            continue
        first = draft.ranges.pop()[0] if is_continued else row[0]
        draft.ranges.append((first, row[0]))
        is_continued = True
    draft.groups += group_events(
        (row[_TIME], row[_ORIGIN], row[_TYPE], row[_NAMESPACE], row[_SEVERITY])
        for row in rows
        if row[0] in readable
    )
    draft.uses.update(
        row[place]
        for row in rows
        if row[0] in readable and row[0] > counted_from
        for place in (_SOURCE, _ORIGIN, _TYPE, _NAMESPACE)
        if isinstance(row[place], int)
    )
    draft.through = rows[-1][0]


def _store(connection: sqlite3.Connection, draft: _Draft, block: EncodedBlock | None) -> None:
    with commit_later(connection):
        if block is not None:
            insert_block(connection, block, draft.groups, draft.uses)
        connection.executemany("INSERT INTO sealed_rows VALUES (?, ?)", draft.ranges)
        connection.execute(
            "UPDATE position SET sealed_through = ?, sealed_events = sealed_events + ?",
            (draft.through, len(draft.events)),
        )


def clear_rows(connection: sqlite3.Connection, limit: int = CLEARED_EVENTS) -> bool:
    """Delete up to `limit` rows whose events are in a block; return whether some were left."""
    noted = connection.execute(
        "SELECT first_sequence, last_sequence FROM sealed_rows ORDER BY first_sequence LIMIT 1"
    ).fetchone()
    if noted is None:
        return False
    first, last = noted
    sequences = [
        sequence
        for (sequence,) in connection.execute(
            "SELECT sequence FROM events WHERE sequence BETWEEN ? AND ? ORDER BY sequence LIMIT ?",
            (first, last, limit),
        )
    ]
    create_selection(connection)
    with commit_later(connection):
        select_events(connection, sequences)
        delete_selected(connection)
        connection.execute("DELETE FROM sealed_rows WHERE first_sequence = ?", (first,))
        if len(sequences) == limit:
            connection.execute("INSERT INTO sealed_rows VALUES (?, ?)", (sequences[-1] + 1, last))
    return True
