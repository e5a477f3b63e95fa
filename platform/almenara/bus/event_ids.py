"""The ids of stored events, by which an event that is delivered again is recognized.

An id is 16 bytes of a hash (`almenara.bus.codec.event_key`), so two events do not share one by
chance. Ids are random, and a table that is ordered by them would change a page for each. So they
are written in the order of the log: those of a transaction are a row of `new_event_ids`, and from
time to time these rows become a part of `event_ids_0` or `event_ids_1`, with a row for the ids
whose first bits are the same. A filter in memory recognizes new ids; only for the others a row of
each part is read.

The two tables alternate: once one has the ids of `storage.deduplication_window` events, the other
is emptied and takes over. Which ids are known is a function of the log.
"""

import itertools
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, LiteralString

from almenara.bus.id_filter import IdFilter

ID_BYTES: Final = 16
BUCKET_BITS: Final = 9
BUCKETS: Final = 1 << BUCKET_BITS
"""Rows of a part: few ids each, since a search reads one of them."""
PART_IDS: Final = 1 << 14
"""Fewest ids of a part; up to so many are in memory."""
GROWTH: Final = 4
"""How many times as many ids as there are a filter has space for, up to the window."""
PARTS: Final = 64
"""Parts of a table, at most; a large window has larger parts instead."""
NEW: Final = "new_event_ids"
TABLES: Final[tuple[LiteralString, LiteralString]] = ("event_ids_0", "event_ids_1")
FORMER_TABLES: Final[tuple[LiteralString, LiteralString]] = ("seen_0", "seen_1")
"""The tables of schema 9, with a row for each id."""

_FIRST_OF_BUCKETS: Final = [(bucket << (16 - BUCKET_BITS)).to_bytes(2) for bucket in range(BUCKETS)]
_FIND: Final = tuple(
    # The newest part first: most events that come twice do so within a short time.
    "WITH RECURSIVE parts (place) AS ("  # nosec B608 # tables of ours
    f"VALUES (?) UNION ALL SELECT place - {BUCKETS} FROM parts WHERE place >= {BUCKETS})"
    f" SELECT 1 FROM parts CROSS JOIN {table} ids ON ids.place = parts.place"
    f" WHERE (instr(ids.ids, ?) - 1) % {ID_BYTES} = 0 LIMIT 1"
    for table in TABLES
)
"""By table: finds an id in the parts up to that of a place."""


class EventIds:
    """The ids that are known. What is added belongs to the transaction that is open."""

    def __init__(self, connection: sqlite3.Connection, window: int) -> None:
        self._connection, self._window = connection, window
        self._part_ids = max(PART_IDS, window // PARTS)
        self._filters = [IdFilter(0), IdFilter(0)]
        self._read_position()
        for table in (0, 1):
            self._fill_filter(table)

    def _read_position(self) -> None:
        self.table, self.count = self._connection.execute(
            "SELECT seen_generation, seen_count FROM position"
        ).fetchone()
        self._parts = [_count_parts(self._connection, table) for table in TABLES]
        self._new = set(_split(_read_rows(self._connection, NEW)))

    def _fill_filter(self, table: int) -> None:
        (size,) = self._connection.execute(
            f"SELECT coalesce(sum(length(ids)), 0) FROM {TABLES[table]}"  # nosec B608 # tables of ours
        ).fetchone()
        stored = size // ID_BYTES
        # A log with few events needs a small filter.
        capacity = max(GROWTH * stored, PART_IDS)
        ids_filter = IdFilter(max(min(capacity, self._window), stored))
        for ids in _read_rows(self._connection, TABLES[table]):
            ids_filter.add(ids)
        self._filters[table] = ids_filter

    def mark(self) -> list[IdFilter]:
        """Return what `restore` needs, at the start of a transaction."""
        return list(self._filters)

    def restore(self, mark: list[IdFilter]) -> None:
        """Forget what was added since `mark`, after the transaction was rolled back."""
        # A filter may know more ids than there are.
        self._filters = mark
        self._read_position()

    def is_near_limit(self, ids: int) -> bool:
        """Return whether the tables would alternate if some ids more were added."""
        return bool(self.count + ids >= self._window)

    def find(self, ids: Sequence[bytes]) -> set[bytes]:
        """Return those of some ids that are known."""
        known = self._new.intersection(ids)
        for table, ids_filter in enumerate(self._filters):
            if not self._parts[table]:
                continue
            known.update(
                key
                for key in ids_filter.select(ids)
                if key not in known and self._is_stored(table, key)
            )
        return known

    def _is_stored(self, table: int, key: bytes) -> bool:
        place = (self._parts[table] - 1) * BUCKETS + _bucket_of(key)
        if place < 0:
            return False
        row = self._connection.execute(_FIND[table], (place, key)).fetchone()
        return row is not None

    def add(self, ids: Sequence[bytes]) -> None:
        """Add ids that are new. The tables alternate where that is due."""
        if ids:
            self._connection.execute("INSERT INTO new_event_ids (ids) VALUES (?)", (b"".join(ids),))
            self._new.update(ids)
            self.count += len(ids)
        is_full = self.count >= self._window
        if is_full or len(self._new) >= self._part_ids:
            self._store_part()
        if is_full:
            self._alternate()

    def _store_part(self) -> None:
        ids = sorted(self._new)
        insert_part(self._connection, self.table, self._parts[self.table], ids)
        self._connection.execute("DELETE FROM new_event_ids")
        self._parts[self.table] += 1
        self._new = set()
        if self._filters[self.table].capacity < min(self.count, self._window):
            self._fill_filter(self.table)
        else:
            self._filters[self.table].add(b"".join(ids))

    def _alternate(self) -> None:
        self.table, self.count = 1 - self.table, 0
        self._connection.execute(f"DELETE FROM {TABLES[self.table]}")  # nosec B608 # tables of ours
        self._parts[self.table] = 0
        self._filters[self.table] = IdFilter(self._window)


def insert_part(
    connection: sqlite3.Connection, table: int, part: int, ids: Sequence[bytes]
) -> None:
    """Store ids, in ascending order, as a part of a table."""
    starts = [bisect_left(ids, first) for first in _FIRST_OF_BUCKETS]
    buckets = enumerate(itertools.pairwise([*starts, len(ids)]))
    _insert_rows(
        connection,
        table,
        part,
        ((bucket, ids[start:end]) for bucket, (start, end) in buckets if start < end),
    )


def _insert_rows(
    connection: sqlite3.Connection,
    table: int,
    part: int,
    rows: Iterable[tuple[int, Iterable[bytes]]],
) -> None:
    connection.executemany(
        f"INSERT INTO {TABLES[table]} VALUES (?, ?)",  # nosec B608 # tables of ours
        ((part * BUCKETS + bucket, b"".join(ids)) for bucket, ids in rows),
    )


def convert_former_ids(connection: sqlite3.Connection) -> None:
    """Move the ids of schema 9 into the tables of schema 10."""
    for table, former in enumerate(FORMER_TABLES):
        # They may be more than fit into memory.
        ids = connection.execute(f"SELECT key FROM {former} ORDER BY key")  # nosec B608 # tables of ours
        _insert_rows(connection, table, 0, groupby((key for (key,) in ids), key=_bucket_of))
        connection.execute(f"DROP TABLE {former}")  # nosec B608 # tables of ours


def read_ids(connection: sqlite3.Connection) -> set[bytes]:
    """Return all ids that are known."""
    return {key for table in (NEW, *TABLES) for key in _split(_read_rows(connection, table))}


def _read_rows(connection: sqlite3.Connection, table: LiteralString) -> Iterator[bytes]:
    for (ids,) in connection.execute(f"SELECT ids FROM {table}"):  # nosec B608 # tables of ours
        if not isinstance(ids, bytes) or len(ids) % ID_BYTES:
            raise sqlite3.DatabaseError(f"malformed row: an id in the table {table} is cut off")
        yield ids


def _count_parts(connection: sqlite3.Connection, table: LiteralString) -> int:
    (last,) = connection.execute(f"SELECT max(place) FROM {table}").fetchone()  # nosec B608 # tables of ours
    return 0 if last is None else int(last) // BUCKETS + 1


def _split(rows: Iterable[bytes]) -> Iterator[bytes]:
    for ids in rows:
        for start in range(0, len(ids), ID_BYTES):
            yield ids[start : start + ID_BYTES]


def _bucket_of(key: bytes) -> int:
    return int.from_bytes(key[:2]) >> (16 - BUCKET_BITS)
