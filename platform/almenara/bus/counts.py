"""Counts of events by time, written in the transaction of the events: what histograms and totals
read, so that their work does not grow with the number of events.

The table `event_counts` has a row for each slot of time, origin, type, namespace and severity that
has events, at three widths of a slot. Rows with `ALL` as origin and type count all events of a slot
by severity.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, LiteralString

from almenara.units import DAY, MINUTE, SECOND

WIDTHS: Final = (10 * SECOND, 10 * MINUTE, DAY)
"""Microseconds of a slot, by level; each width is a multiple of the one before."""
ALL: Final = 0
"""Origin and type of the rows that count the events of all."""
UNNUMBERED: Final = -1
"""Stands for names that events store as text, and for namespaces from before schema 4."""
EVENTS_IN_STEP: Final = 5_000
"""Older events counted in one transaction; pending batches are written between two of them."""

Group = tuple[int, int, int, int, int]
"""Slot of the first level, origin, type, namespace and severity of several events."""

_KEY: Final = (
    "level = ? AND origin = ? AND type = ? AND slot = ? AND namespace = ? AND severity = ?"
)
_NUMBERS: Final = ", ".join(
    f"CASE typeof({column}) WHEN 'integer' THEN {column} ELSE {UNNUMBERED} END"
    for column in ("origin", "type", "namespace")
)
_GROUPS: Final = (
    # SQLite's division rounds towards zero, also for times before the epoch.
    f"SELECT time / {WIDTHS[0]} - (time % {WIDTHS[0]} < 0), {_NUMBERS}, severity, count(*)"  # nosec B608 # constant fragments, bound values
    " FROM events NOT INDEXED WHERE sequence > ? AND "
)


SOURCE, ORIGIN, TYPE, TIME, SEVERITY = 2, 3, 4, 6, 7
"""Columns of a row of an event that are counted."""


class EventCounts:
    """What some events are counted as: by time, by pair of names, and by name."""

    def __init__(self, namespace: int) -> None:
        """`namespace` is the column of a row that has the namespace."""
        self._namespace = namespace
        self.groups: Counter[Group] = Counter()
        self.uses: Counter[int] = Counter()

    def add(self, rows: Iterable[Sequence[Any]], *, has_uses: bool = True) -> None:
        """Count events; without the uses of their names where these were not counted."""
        width, place = WIDTHS[0], self._namespace
        # Few events differ in more than their time, so names are looked at once for many of them.
        for (slot, *names, severity), events in Counter(
            [
                (row[TIME] // width, row[SOURCE], row[ORIGIN], row[TYPE], row[place], row[SEVERITY])
                for row in rows
            ]
        ).items():
            _, origin, kind, namespace = map(_number, names)
            self.groups[slot, origin, kind, namespace, severity] += events
            if has_uses:
                for name in names:
                    if isinstance(name, int):
                        self.uses[name] += events

    def pairs(self) -> Counter[tuple[int, int]]:
        """Return the numbers of events by origin and type."""
        return sum_pairs(self.groups)


def sum_pairs(groups: Mapping[Group, int]) -> Counter[tuple[int, int]]:
    """Return the numbers of events in groups by origin and type."""
    pairs: Counter[tuple[int, int]] = Counter()
    for (_, origin, kind, _, _), events in groups.items():
        pairs[origin, kind] += events
    return pairs


def release_counts(
    connection: sqlite3.Connection, groups: Mapping[Group, int], oldest_left: int
) -> None:
    """Count down events that are removed. No event before the sequence `oldest_left` remains."""
    counts = _spread(groups)
    connection.executemany(
        f"UPDATE event_counts SET events = events - ? WHERE {_KEY}",  # nosec B608 # constant fragments, bound values
        [(events, *key) for key, events in counts.items()],
    )
    connection.executemany(
        f"DELETE FROM event_counts WHERE {_KEY} AND events <= 0",  # nosec B608 # constant fragments, bound values
        counts,
    )
    connection.execute(
        "UPDATE position SET uncounted_through = 0 WHERE uncounted_through < ?", (oldest_left,)
    )


def count_older(connection: sqlite3.Connection) -> int:
    """Count the newest of the events that a former version stored; return how many.

    Until all of them are counted, queries count the events themselves.
    """
    (through,) = connection.execute("SELECT uncounted_through FROM position").fetchone()
    if not through:
        return 0
    first, events = connection.execute(
        "SELECT min(sequence), count(*) FROM ("
        "SELECT sequence FROM events WHERE sequence <= ? ORDER BY sequence DESC LIMIT ?)",
        (through, EVENTS_IN_STEP),
    ).fetchone()
    after = 0 if first is None else first - 1
    connection.execute("BEGIN IMMEDIATE")
    try:
        if events:
            add_groups(connection, read_groups(connection, after, "sequence <= ?", through))
        connection.execute("UPDATE position SET uncounted_through = ?", (after,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return int(events)


def _number(name: Any) -> int:
    return name if isinstance(name, int) else UNNUMBERED


def read_groups(
    connection: sqlite3.Connection, after: int, condition: LiteralString, *parameters: int
) -> dict[Group, int]:
    """Return the numbers of the events after a sequence that meet a condition, in groups."""
    rows = connection.execute(
        f"{_GROUPS} {condition} GROUP BY 1, 2, 3, 4, 5",
        (after, *parameters),
    )
    return {(slot, *names): events for slot, *names, events in rows}


def add_groups(connection: sqlite3.Connection, groups: Mapping[Group, int]) -> None:
    """Count events that are given in groups."""
    connection.executemany(
        "INSERT INTO event_counts VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET events = events + excluded.events",
        [(*key, events) for key, events in sorted(_spread(groups).items())],
    )


def _spread(groups: Mapping[Group, int]) -> Counter[tuple[int, int, int, int, int, int]]:
    """Return the counts of groups by the key of their rows: of each level, and of all."""
    counts: Counter[tuple[int, int, int, int, int, int]] = Counter()
    for (slot, origin, kind, namespace, severity), events in groups.items():
        for level, width in enumerate(WIDTHS):
            place = slot // (width // WIDTHS[0])
            counts[level, origin, kind, place, namespace, severity] += events
            counts[level, ALL, ALL, place, ALL, severity] += events
    return counts
