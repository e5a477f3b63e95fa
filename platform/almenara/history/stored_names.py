"""How events hold the names that patterns match, and which names they have together."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from almenara.bus.counts import UNNUMBERED
from almenara.bus.names import INLINE, StoredName
from almenara.patterns import compile_pattern, split_below
from almenara.scope import Scope, compile_scope
from almenara.visibility import Condition

MAX_BRANCHES: Final = 24
"""Names of a pattern that are each looked up in an index; with more of them the log is scanned."""
MAX_PAIRS: Final = 5_000
"""Pairs of origin and type up to which a limited scope is planned from them."""


class NamePairs:
    """Which origins and types events have together, and what of that a scope shows.

    A limited scope is planned from these, before any event is looked at: what is hidden must not
    make a query slower than what does not exist, or its duration would reveal it.
    """

    def __init__(self, pairs: Sequence[tuple[int, int, int, bool | None]]) -> None:
        self._pairs = pairs
        self.visible = [
            (origin, kind) for origin, kind, _, is_visible in pairs if is_visible is not False
        ]

    @property
    def is_decided(self) -> bool:
        """Whether names alone decide what is visible."""
        return all(is_visible is not None for *_, is_visible in self._pairs)

    def count_visible(self) -> int:
        """Count the visible events, where names alone decide."""
        return sum(uses for _, _, uses, is_visible in self._pairs if is_visible)

    def visible_numbers(self, column: Literal["origin", "type"]) -> list[int]:
        """List the numbers of the visible origins or types, where names alone decide."""
        return sorted({pair[column == "type"] for pair in self.visible})

    def narrow(self, names: "dict[str, StoredNames]") -> str | None:
        """Limit the names of a filter to visible ones; return the column whose index leads to
        visible events alone, or None where no index does."""
        for index, column in enumerate(("origin", "type")):
            if column in names:
                allowed = set(names[column].values)
                self.visible = [pair for pair in self.visible if pair[index] in allowed]
        hidden = [{pair[index] for pair in self._pairs if pair[3] is False} for index in range(2)]
        lead: str | None = None
        for index, column in ((1, "type"), (0, "origin")):
            values: list[StoredName] = sorted({pair[index] for pair in self.visible})
            is_pure = not hidden[index].intersection(values) and len(values) <= MAX_BRANCHES
            if lead is None and is_pure and (column in names or column == "origin"):
                lead = column
            if column in names or lead == column:
                names[column] = StoredNames(values)
        return lead


def read_pairs(connection: sqlite3.Connection, scope: Scope) -> NamePairs | None:
    """Return the pairs of origins and types; None for a log with too many, which is planned without
    them."""
    if read_inline_after(connection):
        return None
    rows = connection.execute(
        "SELECT p.origin, p.type, p.uses, o.text, t.text FROM name_pairs p"
        " JOIN names o ON o.number = p.origin JOIN names t ON t.number = p.type LIMIT ?",
        (MAX_PAIRS + 1,),
    ).fetchall()
    if len(rows) > MAX_PAIRS:
        return None
    decide = compile_scope(scope).decide
    return NamePairs(
        [(origin, kind, uses, decide(source, name)) for origin, kind, uses, source, name in rows]
    )


def find_pairs(
    connection: sqlite3.Connection, names: "Mapping[str, StoredNames]"
) -> list[tuple[int, int]] | None:
    """Return the pairs of origins and types that have some names, by column; None where they are
    too many, or events may hold these names as text."""
    unnumbered: list[tuple[int, int]] = []
    if read_inline_after(connection):
        if any(stored.is_inline for stored in names.values()):
            return None
        # The other name of an event that has one of these may be text.
        if "type" not in names:
            unnumbered = [(number, UNNUMBERED) for number in names["origin"].numbers]
        elif "origin" not in names:
            unnumbered = [(UNNUMBERED, number) for number in names["type"].numbers]
    where = Condition.join("AND", [stored.condition(f"p.{name}") for name, stored in names.items()])
    pairs: list[tuple[int, int]] = connection.execute(
        f"SELECT p.origin, p.type FROM name_pairs p WHERE {where.sql} LIMIT ?",  # nosec B608 # constant fragments, bound values
        (*where.parameters, MAX_PAIRS + 1),
    ).fetchall()
    return None if len(pairs) > MAX_PAIRS else pairs + unnumbered


def read_inline_after(connection: sqlite3.Connection) -> int:
    """Return the number after which names may stand in events as text; 0 where none do."""
    number: int
    (number,) = connection.execute("SELECT last_name_before_inline FROM position").fetchone()
    return number


class StoredNames(msgspec.Struct):
    """What columns hold for the names that some patterns match."""

    values: list[StoredName]
    inline: str | None = None
    """An expression of the matching names among those that events hold as text. Only logs with too
    many names have such (`almenara.bus.names`)."""

    @property
    def numbers(self) -> list[int]:
        """The numbers among the values."""
        return [value for value in self.values if isinstance(value, int)]

    @property
    def is_inline(self) -> bool:
        """Whether events may hold one of the names as text."""
        return self.inline is not None or len(self.numbers) < len(self.values)

    @property
    def has_few(self) -> bool:
        """Whether each can be looked up in an index."""
        return self.inline is None and len(self.values) <= MAX_BRANCHES

    def condition(self, column: str) -> Condition:
        """SQL for: the column holds one of the names."""
        is_numbered = is_in(column, self.values)
        if self.inline is None:
            return is_numbered
        is_inline = f"(typeof({column}) = 'text' AND substr({column}, 2) REGEXP ?)"
        return Condition.join("OR", [is_numbered, Condition(is_inline, (self.inline,))])


def find_names(
    connection: sqlite3.Connection, patterns: Sequence[str], *, is_exact: bool = False
) -> StoredNames:
    """Return how the names that match one of the patterns are stored."""
    inline_after = read_inline_after(connection)
    values: set[StoredName] = set()
    expressions: list[str] = []
    for text in patterns:
        expression = None if is_exact else compile_pattern(text)
        if expression is None:
            row = connection.execute("SELECT number FROM names WHERE text = ?", (text,)).fetchone()
            if row is not None:
                values.add(row[0])
            if inline_after and (row is None or row[0] > inline_after):
                values.add(INLINE + text)
            continue
        # What stands before the first star narrows the range of the index; the expression decides.
        prefix = split_below(text)[0].partition("*")[0].removesuffix(">")
        rows = connection.execute("SELECT number, text FROM names WHERE text >= ?", (prefix,))
        values.update(number for number, name in rows if expression.fullmatch(name))
        if inline_after:
            expressions.append(expression.pattern)
    inline = f"(?:{'|'.join(expressions)})" if expressions else None
    return StoredNames(sorted(values, key=str), inline)


def is_in(expression: str, values: Iterable[StoredName]) -> Condition:
    """SQL for: an expression has one of the values."""
    # One bound value whatever the number of values, so that the prepared statement is reused.
    listed = msgspec.json.encode(list(values)).decode()
    return Condition(f"{expression} IN (SELECT value FROM json_each(?))", (listed,))  # nosec B608 # constant fragments, bound values
