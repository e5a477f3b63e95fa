"""Which index leads to the events that a filter and a scope let through, as SQL.

SQLite's own planner has no statistics here (ANALYZE of a growing log is soon wrong), so every
statement names its index. The choice, from the most selective:

1. text: the full-text index gives the rows, and they are looked up one by one;
2. correlation: few events share one;
3. a window of time that is small, or whose events are only counted: the covering index by time;
4. type or origin: one branch for each number, each already in the order of the log;
5. severity: the partial index of warnings and worse;
6. otherwise the log itself, newest first: most filters match soon.

For a limited scope, the visible names come first: see `almenara.history.stored_names.NamePairs`.
"""

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from almenara.bus.names import NO_NAMESPACE
from almenara.bus.text_index import space_letters
from almenara.bus.text_tables import text_tables
from almenara.history.filter import Filter, parse_phrases
from almenara.history.stored_names import StoredNames, find_names, is_in, read_pairs
from almenara.patterns import compile_pattern, split_below
from almenara.scope import LABELS, NAMESPACE, Scope, compile_scope
from almenara.signals import Severity
from almenara.visibility import Condition

SMALL_WINDOW: Final = 20_000
"""Events in a window of time that are cheaper to sort than to look for along the log."""
SEPARATORS: Final = "(length(e.subject) - length(replace(replace(e.subject, '.', ''), '/', '')))"
"""The number of separators of parts in a subject."""
NOT_IN_PHRASE: Final = re.compile(r'["\x00]')
SMALLEST, LARGEST = -(2**63), 2**63 - 1


class Plan(msgspec.Struct):
    """SQL that selects events: one branch for each value of the leading index."""

    table: str
    branches: list[tuple[str, Any]]
    """Conditions on the leading index, each with its value; empty for a single statement."""
    conditions: list[str]
    parameters: list[Any]
    """The values of `conditions`, in order."""
    sequence: str = "e.sequence"
    """The column to order by: the one that the leading index already has in order."""
    older: "Plan | None" = None
    """Selects further events, which are all older."""

    def parts(self) -> "list[Plan]":
        """Return this plan and those of older events, newest first."""
        return [self, *(self.older.parts() if self.older is not None else [])]

    def select(
        self, columns: str, order: Literal["ASC", "DESC"] | None = None, limit: int | None = None
    ) -> tuple[str, list[Any]]:
        """Return the statement and its parameters; order and limit apply to each branch."""
        statements: list[str] = []
        parameters: list[Any] = []
        for condition, value in self.branches or [("", None)]:
            conditions = [*([condition] if condition else []), *self.conditions]
            where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
            tail = f" ORDER BY {self.sequence} {order}" if order else ""
            tail += " LIMIT ?" if limit is not None else ""
            statements.append(f"SELECT {columns} FROM {self.table}{where}{tail}")  # nosec B608 # constant fragments, bound values
            parameters += [value] if condition else []
            parameters += self.parameters
            parameters += [limit] if limit is not None else []
        if len(statements) == 1:
            return statements[0], parameters
        union = " UNION ALL ".join(f"SELECT * FROM ({statement})" for statement in statements)  # nosec B608 # constant fragments, bound values
        return union, parameters

    def select_page(
        self, columns: str, order: Literal["ASC", "DESC"], limit: int
    ) -> tuple[str, list[Any]]:
        """Return the statement that selects up to `limit` rows in order, and its parameters."""
        if len(self.branches) <= 1:
            return self.select(columns, order, limit)
        # The branches give sequences from their indexes alone; rows are read for the page only.
        statement, parameters = self.select("e.sequence AS sequence", order, limit)
        page = (
            f"SELECT {columns} FROM events e WHERE e.sequence IN"  # nosec B608 # constant fragments, bound values
            f" (SELECT sequence FROM ({statement}) ORDER BY sequence {order} LIMIT ?)"
            f" ORDER BY e.sequence {order}"
        )
        return page, [*parameters, limit]


class EventColumns:
    """The tests of a scope on the table `events`, which has the alias `e`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def name_matches(self, column: Literal["origin", "type"], patterns: Sequence[str]) -> Condition:
        return find_names(self._connection, patterns).condition(f"e.{column}")

    def namespace_matches(self, patterns: Sequence[str]) -> Condition:
        names = find_names(self._connection, patterns)
        return _namespace_condition(
            names, Condition(f"{OLD_NAMESPACE} REGEXP ?", (_any_of(patterns),))
        )

    def namespace_is_in(self, names: Sequence[str]) -> Condition:
        stored = find_names(self._connection, [name for name in names if name], is_exact=True)
        if "" in names:
            stored.values.append(NO_NAMESPACE)
        return _namespace_condition(stored, is_in(OLD_NAMESPACE, names))

    def has_label(self, name: str, value: str) -> Condition:
        return Condition(
            f"instr(',' || {_attribute(LABELS)} || ',', ?) > 0", (f",{name}={value},",)
        )


def scope_condition(connection: sqlite3.Connection, scope: Scope) -> Condition | None:
    """Return what a scope adds to each query of events; None where nothing is hidden."""
    if scope.is_full:
        return None
    return compile_scope(scope).condition(EventColumns(connection))


def build_plan(
    connection: sqlite3.Connection,
    chosen: Filter,
    scope: Scope,
    *,
    after: int | None = None,
    before: int | None = None,
    is_count: bool = False,
) -> Plan | None:
    """Return how to find what a filter lets through; None where no visible name matches it.

    `after` and `before` are sequences, neither included. `is_count`: the order of the events does
    not matter, and no more than their time and severity is read.
    """
    names = {
        name: find_names(connection, [text])
        for name in ("source", "origin", "type")
        if (text := getattr(chosen, name)) is not None
    }
    pairs = None if scope.is_full else read_pairs(connection, scope)
    lead: str | None = None
    if pairs is not None:
        lead = pairs.narrow(names)
        if not pairs.visible:
            return None
    if any(not stored.values and stored.inline is None for stored in names.values()):
        return None
    where = _Where()
    if (visible := scope_condition(connection, scope)) is not None:
        where.add(visible)
    if chosen.subject is not None:
        where.add(_subject_condition(chosen.subject))
    for column, lower, upper in (
        ("e.time", (">=", chosen.since), ("<", chosen.until)),
        ("e.sequence", (">", after), ("<", before)),
    ):
        for sign, bound in (lower, upper):
            if bound is not None:
                where.add(Condition(f"{column} {sign} ?", (clamp(bound),)))
    if chosen.severity is not None:
        # Written into the statement, because SQLite uses a partial index only where the condition
        # of the index stands in the query word for word (below); it does not see that one bound
        # implies another.
        where.add(Condition(f"e.severity >= {int(chosen.severity)}"))

    if chosen.text is not None:
        where.add_names(names)
        return _plan_text(connection, chosen.text, chosen.correlation, where, (after, before))
    if chosen.correlation is not None:
        where.add_names(names)
        branch = ("e.correlation = ?", chosen.correlation)
        return where.plan("events e INDEXED BY events_by_correlation", [branch])
    is_windowed = chosen.since is not None or chosen.until is not None
    # A page needs the events of the window sorted by sequence, which is worth it for few of them;
    # a count needs no order, and the index by time covers it at any size.
    if is_windowed and (is_count or is_small_window(connection, chosen)):
        where.add_names(names)
        failures_only = chosen.severity is not None and chosen.severity >= Severity.ERROR
        if failures_only:
            where.add(Condition(f"e.severity >= {int(Severity.ERROR)}"))
        index = "failures_by_time" if failures_only else "events_by_time"
        return where.plan(f"events e INDEXED BY {index}", [])
    if lead is None:
        lead = next(
            (name for name in ("type", "origin") if name in names and names[name].has_few), None
        )
    if lead is not None:
        # With `=` on one number the index gives its events in order of sequence; with IN SQLite
        # would collect and sort them all. Hence a branch each, and their first rows are merged.
        values = names.pop(lead).values
        where.add_names(names)
        return where.plan(
            f"events e INDEXED BY events_by_{lead}", [(f"e.{lead} = ?", value) for value in values]
        )
    where.add_names(names)
    if chosen.severity is not None and chosen.severity >= Severity.WARN:
        where.add(Condition(f"e.severity >= {int(Severity.WARN)}"))
        levels = [level for level in Severity if level >= chosen.severity]
        return where.plan(
            "events e INDEXED BY events_by_severity",
            [("e.severity = ?", int(level)) for level in levels],
        )
    # An index by origin or type would be chosen for IN and its rows sorted; along the log the page
    # is full after a few rows more.
    return where.plan("events e NOT INDEXED", [])


class _Where:
    """Conditions of a plan, with their values in the same order."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.parameters: list[Any] = []

    def add(self, condition: Condition) -> None:
        self.conditions.append(condition.sql)
        self.parameters.extend(condition.parameters)

    def add_names(self, names: "Mapping[str, StoredNames]") -> None:
        for name, stored in names.items():
            self.add(stored.condition(f"e.{name}"))

    def plan(self, table: str, branches: list[tuple[str, Any]]) -> Plan:
        return Plan(table, branches, self.conditions, self.parameters)


def _plan_text(
    connection: sqlite3.Connection,
    text: str,
    correlation: str | None,
    where: _Where,
    bounds: tuple[int | None, int | None],
) -> Plan | None:
    if correlation is not None:
        where.add(Condition("e.correlation = ?", (correlation,)))
    # The full-text index is read in the order of its rowid, so bounds and order apply to that
    # column; CROSS JOIN keeps SQLite from turning the join around.
    after, before = bounds
    plan: Plan | None = None
    for table, _, end in reversed(text_tables(connection)):
        if end is not None and after is not None and end <= after + 1:
            continue
        # The former index may have rows that the current one has too.
        ends = [bound for bound in (before, end) if bound is not None]
        limits = [
            (f"f.rowid {sign} ?", clamp(bound))
            for sign, bound in ((">", after), ("<", min(ends, default=None)))
            if bound is not None
        ]
        plan = Plan(
            f"{table} f CROSS JOIN events e ON e.sequence = f.rowid",
            [],
            [f"f.{table} MATCH ?", *(sql for sql, _ in limits), *where.conditions],
            [match_expression(text), *(value for _, value in limits), *where.parameters],
            "f.rowid",
            plan,
        )
    return plan


def match_expression(text: str) -> str:
    """Return the FTS5 expression of a text filter: every phrase quoted, all of them required.

    The index splits a phrase into words in the same way as the text that it holds.
    """
    return " AND ".join(
        f'"{NOT_IN_PHRASE.sub(" ", space_letters(phrase))}"{" *" if is_prefix else ""}'
        for phrase, is_prefix in parse_phrases(text)
    )


def _subject_condition(text: str) -> Condition:
    expression = compile_pattern(text)
    if expression is None:
        return Condition("e.subject = ?", (text,))
    # GLOB knows no parts and lets too much through, but it runs in C: calling Python for each row
    # would hold up everything else in this process.
    name, separator = split_below(text)
    literal = re.sub(r"[\[?]", r"[\g<0>]", name)
    precise = Condition("e.subject REGEXP ?", (expression.pattern,))
    if separator:
        return Condition.join("AND", [Condition("e.subject GLOB ?", (f"{literal}*",)), precise])
    if not text.endswith(">"):
        # A subject has the separators of the pattern, and those that its stars have swallowed. If
        # the numbers are equal, the stars have swallowed none, as it must be.
        separators = text.count(".") + text.count("/")
        return Condition(f"(e.subject GLOB ? AND {SEPARATORS} = ?)", (literal, separators))
    glob = Condition("e.subject GLOB ?", (f"{literal[:-1]}?*",))
    if "*" not in text:
        return glob
    return Condition.join("AND", [glob, precise])


def is_small_window(connection: sqlite3.Connection, chosen: Filter) -> bool:
    """Return whether a filter's window of time has few events, whatever else it selects."""
    low = clamp(chosen.since) if chosen.since is not None else SMALLEST
    high = clamp(chosen.until) if chosen.until is not None else LARGEST
    (number,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM events WHERE time >= ? AND time < ? LIMIT ?)",
        (low, high, SMALL_WINDOW + 1),
    ).fetchone()
    return bool(number <= SMALL_WINDOW)


def _attribute(name: str) -> str:
    return f"json_extract(e.attributes, '$.{name}')"


OLD_NAMESPACE: Final = f"coalesce({_attribute(NAMESPACE)}, '')"


def _namespace_condition(stored: StoredNames, old: Condition) -> Condition:
    """The test of a namespace by number; for events from before schema 4, which have no number, by
    the attribute."""
    numbered = stored.condition("e.namespace")
    return Condition(
        f"(CASE WHEN e.namespace IS NULL THEN {old.sql} ELSE {numbered.sql} END)",
        (*old.parameters, *numbered.parameters),
    )


def _any_of(texts: Iterable[str]) -> str:
    """One expression for several names and patterns that never matches the empty name."""
    parts = [
        re.escape(text) if (compiled := compile_pattern(text)) is None else compiled.pattern
        for text in texts
    ]
    return f"(?=.)(?:{'|'.join(parts)})"


def clamp(value: int) -> int:
    """Return a value within the integers of SQLite."""
    return max(SMALLEST, min(value, LARGEST))
