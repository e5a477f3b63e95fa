"""Numbers for the names in events: sources, origins, types and namespaces.

Most events repeat a few names, so the table `events` holds numbers. A log with more than
`storage.max_names` names (an id in each type, say) stores further ones in the event itself, as text
behind `INLINE`: nothing is lost, and the table of names stays small enough to be searched. Numbers
only grow, and a name loses its own with the last event that has it. So a name with a number up to
`position.last_name_before_inline` stands in no event as text.
"""

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, Final

NAMES_CACHED: Final = 10_000
INLINE: Final = "="
"""Marks a name in place of a number; without it SQLite would turn digits into a number."""
NO_NAMESPACE: Final = 0
NUMBERED_COLUMNS: Final = ("source", "origin", "type", "namespace")

StoredName = int | str


class NameTable:
    """The names that the writer numbers, and how many events use each."""

    def __init__(self, connection: sqlite3.Connection, limit: int) -> None:
        self._connection, self.limit = connection, limit
        self._numbers = _KnownNumbers(self._find)
        self.number: Callable[[str], StoredName] = self._numbers.__getitem__
        """Returns what the event stores for a name."""
        self.reload()

    def reload(self) -> None:
        """Count again, after a transaction was rolled back or names were removed."""
        self._numbers.clear()
        (self.count, highest) = self._connection.execute(
            "SELECT count(*), max(number) FROM names"
        ).fetchone()
        last, inline_after = self._connection.execute(
            "SELECT last_name, last_name_before_inline FROM position"
        ).fetchone()
        self._has_inline = inline_after > 0
        # Numbers are never used again: readers remember the text of each.
        self._last = max(last, highest or 0)

    @property
    def is_full(self) -> bool:
        """Whether new names are stored in events."""
        return bool(self.count >= self.limit)

    def _find(self, text: str) -> StoredName:
        number: int
        row = self._connection.execute(
            "SELECT number FROM names WHERE text = ?", (text,)
        ).fetchone()
        if row is not None:
            (number,) = row
        elif self.is_full:
            self._note_inline()
            return INLINE + text
        else:
            number = self._add(text)
        if len(self._numbers) >= NAMES_CACHED:
            self._numbers.clear()
        self._numbers[text] = number
        return number

    def _note_inline(self) -> None:
        if not self._has_inline:
            self._connection.execute(
                "UPDATE position SET last_name_before_inline = ?", (max(int(self._last), 1),)
            )
            self._has_inline = True

    def _add(self, text: str) -> int:
        number = int(self._last) + 1
        self._connection.execute("INSERT INTO names (number, text) VALUES (?, ?)", (number, text))
        self._connection.execute("UPDATE position SET last_name = ?", (number,))
        self._last, self.count = number, self.count + 1
        return number

    def add_uses(self, uses: Mapping[int, int]) -> None:
        """Count uses of names by new events."""
        self._connection.executemany(
            "UPDATE names SET uses = uses + ? WHERE number = ?",
            [(number_of_uses, number) for number, number_of_uses in uses.items()],
        )


class _KnownNumbers(dict[str, StoredName]):
    """Numbers by name; one that is missing is looked up."""

    def __init__(self, find: Callable[[str], StoredName]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, text: str) -> StoredName:
        return self._find(text)


def release_uses(connection: sqlite3.Connection, uses: Mapping[int, int], oldest_left: int) -> None:
    """Count down the names of removed events, and remove names that no event uses any more.

    Events from before schema 4 were not counted, so names are removed only once all of those are:
    when no event before `oldest_left` remains.
    """
    (counted_from,) = connection.execute("SELECT names_counted_from FROM position").fetchone()
    connection.executemany(
        "UPDATE names SET uses = uses - ? WHERE number = ?",
        [(count, number) for number, count in uses.items()],
    )
    if counted_from > 0 and oldest_left <= counted_from:
        return
    if counted_from:
        # The last of the uncounted events goes with this step: from now on every count is right.
        connection.execute("UPDATE position SET names_counted_from = 0")
        connection.execute("DELETE FROM names WHERE uses <= 0")
        return
    connection.executemany(
        "DELETE FROM names WHERE number = ? AND uses <= 0", [(number,) for number in uses]
    )


def add_pairs(connection: sqlite3.Connection, pairs: Mapping[tuple[int, int], int]) -> None:
    """Count the origins and types of new events together; without events whose names are text.

    From these pairs history knows which names a scope may see, without looking at events.
    """
    connection.executemany(
        "INSERT INTO name_pairs VALUES (?, ?, ?)"
        " ON CONFLICT DO UPDATE SET uses = uses + excluded.uses",
        [(origin, kind, uses) for (origin, kind), uses in pairs.items() if origin > 0 and kind > 0],
    )


def release_pairs(connection: sqlite3.Connection, pairs: Mapping[tuple[int, int], int]) -> None:
    """Count down the origins and types of events that are removed."""
    connection.executemany(
        "UPDATE name_pairs SET uses = uses - ? WHERE origin = ? AND type = ?",
        [(uses, *pair) for pair, uses in pairs.items()],
    )
    connection.executemany(
        "DELETE FROM name_pairs WHERE origin = ? AND type = ? AND uses <= 0", list(pairs)
    )


class NameCache:
    """The texts behind the numbers, as readers remember them."""

    def __init__(self) -> None:
        self.known: dict[int, str] = {}

    def text(self, connection: sqlite3.Connection, stored: Any) -> str:
        """Return the text of a name in an event. Raises `KeyError` for an unknown number."""
        if isinstance(stored, str):
            return stored.removeprefix(INLINE)
        text = self.known.get(stored)
        if text is None:
            row = connection.execute(
                "SELECT text FROM names WHERE number = ?", (stored,)
            ).fetchone()
            if row is None:
                raise KeyError(f"no name has the number {stored}")
            text = str(row[0])
            if len(self.known) >= NAMES_CACHED:
                self.known.clear()
            self.known[stored] = text
        return text
