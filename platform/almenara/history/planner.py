"""Which index leads to the events that a filter and a scope let through, as SQL.

SQLite's own planner has no statistics here (ANALYZE of a growing log is soon wrong), so every
statement names its index. The choice, from the most selective:

1. text: the full-text index gives the rows, and they are looked up one by one;
2. correlation: few events share one;
3. a window of time that is small, or whose events are only counted: the covering index by time;
4. type or origin: one branch for each number, each already in the order of the log;
5. severity: the partial index of warnings and worse;
6. otherwise the log itself, newest first: most filters match soon.
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import msgspec

from almenara.bus.names import INLINE, NO_NAMESPACE, StoredName
from almenara.history.filter import Filter, parse_phrases
from almenara.patterns import compile_pattern
from almenara.scope import LABELS, NAMESPACE, Scope, compile_scope
from almenara.signals import Severity
from almenara.visibility import Condition

MAX_BRANCHES: Final = 24
"""Names of a pattern that are each looked up in an index; with more of them the log is scanned."""
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
        return _namespace_condition(stored, _is_in(OLD_NAMESPACE, names))

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
    """Return how to find what a filter lets through; None where nothing can match.

    `after` and `before` are sequences, neither included. `is_count`: the order of the events does
    not matter, and no more than their time and severity is read.
    """
    if not scope.grants and not scope.access_log:
        # A condition that is never true leaves SQLite no way to use the indexes named below.
        return None
    conditions: list[str] = []
    parameters: list[Any] = []

    def add(condition: Condition) -> None:
        conditions.append(condition.sql)
        parameters.extend(condition.parameters)

    if (visible := scope_condition(connection, scope)) is not None:
        add(visible)
    names: dict[str, StoredNames] = {}
    for name in ("source", "origin", "type"):
        if (text := getattr(chosen, name)) is not None:
            names[name] = find_names(connection, [text])
            if not names[name].values and names[name].inline is None:
                return None
    if chosen.subject is not None:
        add(_subject_condition(chosen.subject))
    for column, lower, upper in (
        ("e.time", (">=", chosen.since), ("<", chosen.until)),
        ("e.sequence", (">", after), ("<", before)),
    ):
        for sign, bound in (lower, upper):
            if bound is not None:
                add(Condition(f"{column} {sign} ?", (_clamp(bound),)))
    if chosen.severity is not None:
        # Written into the statement, because SQLite uses a partial index only where the condition
        # of the index stands in the query word for word (below); it does not see that one bound
        # implies another.
        conditions.append(f"e.severity >= {int(chosen.severity)}")

    def add_names() -> None:
        for name, stored in names.items():
            add(stored.condition(f"e.{name}"))

    if chosen.text is not None:
        add_names()
        if chosen.correlation is not None:
            add(Condition("e.correlation = ?", (chosen.correlation,)))
        # The full-text index is read in the order of its rowid, so bounds and order apply to that
        # column; CROSS JOIN keeps SQLite from turning the join around.
        bounds = [
            (f"f.rowid {sign} ?", _clamp(bound))
            for bound, sign in ((after, ">"), (before, "<"))
            if bound is not None
        ]
        return Plan(
            "events_text f CROSS JOIN events e ON e.sequence = f.rowid",
            [],
            ["f.events_text MATCH ?", *(condition for condition, _ in bounds), *conditions],
            [match_expression(chosen.text), *(value for _, value in bounds), *parameters],
            "f.rowid",
        )
    if chosen.correlation is not None:
        add_names()
        return Plan(
            "events e INDEXED BY events_by_correlation",
            [("e.correlation = ?", chosen.correlation)],
            conditions,
            parameters,
        )
    is_windowed = chosen.since is not None or chosen.until is not None
    # A page needs the events of the window sorted by sequence, which is worth it for few of them;
    # a count needs no order, and the index by time covers it at any size.
    if is_windowed and (is_count or _is_small_window(connection, chosen)):
        add_names()
        failures_only = chosen.severity is not None and chosen.severity >= Severity.ERROR
        if failures_only:
            conditions.append(f"e.severity >= {int(Severity.ERROR)}")
        index = "failures_by_time" if failures_only else "events_by_time"
        return Plan(f"events e INDEXED BY {index}", [], conditions, parameters)
    for name in ("type", "origin"):
        # With `=` on one number the index gives its events in order of sequence; with IN SQLite
        # would collect and sort them all. Hence a branch each, and their first rows are merged.
        if name in names and names[name].has_few:
            values = names.pop(name).values
            add_names()
            return Plan(
                f"events e INDEXED BY events_by_{name}",
                [(f"e.{name} = ?", value) for value in values],
                conditions,
                parameters,
            )
    add_names()
    if chosen.severity is not None and chosen.severity >= Severity.WARN:
        conditions.append(f"e.severity >= {int(Severity.WARN)}")
        return Plan(
            "events e INDEXED BY events_by_severity",
            [("e.severity = ?", int(level)) for level in Severity if level >= chosen.severity],
            conditions,
            parameters,
        )
    # An index by origin or type would be chosen for IN and its rows sorted; along the log the page
    # is full after a few rows more.
    return Plan("events e NOT INDEXED", [], conditions, parameters)


class StoredNames(msgspec.Struct):
    """What columns hold for the names that some patterns match."""

    values: list[StoredName]
    inline: str | None = None
    """An expression of the matching names among those that events hold as text. Only logs with too
    many names have such (`almenara.bus.names`)."""

    @property
    def has_few(self) -> bool:
        """Whether each can be looked up in an index."""
        return self.inline is None and len(self.values) <= MAX_BRANCHES

    def condition(self, column: str) -> Condition:
        """SQL for: the column holds one of the names."""
        is_numbered = _is_in(column, self.values)
        if self.inline is None:
            return is_numbered
        is_inline = f"(typeof({column}) = 'text' AND substr({column}, 2) REGEXP ?)"
        return Condition.join("OR", [is_numbered, Condition(is_inline, (self.inline,))])


def find_names(
    connection: sqlite3.Connection, patterns: Sequence[str], *, is_exact: bool = False
) -> StoredNames:
    """Return how the names that match one of the patterns are stored."""
    (has_inline,) = connection.execute("SELECT has_inline_names FROM position").fetchone()
    values: set[StoredName] = set()
    expressions: list[str] = []
    for text in patterns:
        expression = None if is_exact else compile_pattern(text)
        if expression is None:
            rows = connection.execute("SELECT number FROM names WHERE text = ?", (text,))
            values.update(number for (number,) in rows)
            if has_inline:
                values.add(INLINE + text)
            continue
        # What stands before the first star narrows the range of the index; the expression decides.
        prefix = text.partition("*")[0].removesuffix(">")
        rows = connection.execute("SELECT number, text FROM names WHERE text >= ?", (prefix,))
        values.update(number for number, name in rows if expression.fullmatch(name))
        if has_inline:
            expressions.append(expression.pattern)
    inline = f"(?:{'|'.join(expressions)})" if expressions else None
    return StoredNames(sorted(values, key=str), inline)


def match_expression(text: str) -> str:
    """Return the FTS5 expression of a text filter: every phrase quoted, all of them required.

    The index splits a phrase into words in the same way as the text that it holds.
    """
    return " AND ".join(
        f'"{NOT_IN_PHRASE.sub(" ", phrase)}"{" *" if is_prefix else ""}'
        for phrase, is_prefix in parse_phrases(text)
    )


def _subject_condition(text: str) -> Condition:
    expression = compile_pattern(text)
    if expression is None:
        return Condition("e.subject = ?", (text,))
    # GLOB knows no parts and lets too much through, but it runs in C: calling Python for each row
    # would hold up everything else in this process.
    literal = re.sub(r"[\[?]", r"[\g<0>]", text)
    if not text.endswith(">"):
        # A subject has the separators of the pattern, and those that its stars have swallowed. If
        # the numbers are equal, the stars have swallowed none, as it must be.
        separators = text.count(".") + text.count("/")
        return Condition(f"(e.subject GLOB ? AND {SEPARATORS} = ?)", (literal, separators))
    glob = Condition("e.subject GLOB ?", (f"{literal[:-1]}?*",))
    if "*" not in text:
        return glob
    return Condition.join("AND", [glob, Condition("e.subject REGEXP ?", (expression.pattern,))])


def _is_small_window(connection: sqlite3.Connection, chosen: Filter) -> bool:
    low = _clamp(chosen.since) if chosen.since is not None else SMALLEST
    high = _clamp(chosen.until) if chosen.until is not None else LARGEST
    (number,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM events WHERE time >= ? AND time < ? LIMIT ?)",
        (low, high, SMALL_WINDOW + 1),
    ).fetchone()
    return bool(number <= SMALL_WINDOW)


def _is_in(expression: str, values: Iterable[StoredName]) -> Condition:
    # One bound value whatever the number of values, so that the prepared statement is found again.
    listed = msgspec.json.encode(list(values)).decode()
    return Condition(f"{expression} IN (SELECT value FROM json_each(?))", (listed,))  # nosec B608 # constant fragments, bound values


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


def _clamp(value: int) -> int:
    return max(SMALLEST, min(value, LARGEST))
