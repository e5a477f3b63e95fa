"""The queries: which index leads to the events that a filter lets through."""

import copy
import re
import sqlite3
from collections.abc import Iterable
from typing import Any, Final, Self

import msgspec

from almenara.bus import Readable, Record, codec
from almenara.history.filter import Filter, phrases
from almenara.patterns import compile_pattern
from almenara.scope import ACCESS_LOG, FULL_SCOPE, LABELS, NAMESPACE, Scope
from almenara.signals import Severity

BRANCHES: Final = 24
"""Names of a pattern that are each looked up in an index; beyond them the log is scanned."""
QUOTING: Final = re.compile(r'["\x00]')
NARROW_WINDOW: Final = 20_000
"""Events in a time window that are cheaper to sort than to look for along the log."""
NAMED_AMONG: Final = 100_000
"""Newest signals among which the names are looked for that somebody with a scope may see."""


class Plan(msgspec.Struct):
    """SQL that finds events: one branch for each value of the leading index."""

    table: str
    branches: list[tuple[str, Any]]
    conditions: list[str]
    parameters: list[Any]
    sequence: str = "e.sequence"
    """The column to order by: the one that the leading index already has in order."""

    def select(
        self, columns: str, order: str = "", limit: int | None = None
    ) -> tuple[str, list[Any]]:
        """The statement and its parameters; order and limit hold for each branch."""
        statements, parameters = [], []
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
        return " UNION ALL ".join(f"SELECT * FROM ({it})" for it in statements), parameters  # nosec B608 # constant fragments, bound values


class History:
    """Events by filter, page and time bucket, as far as a scope shows them."""

    def __init__(self, log: Readable, scope: Scope = FULL_SCOPE) -> None:
        self._log = log
        self._names = codec.Names()
        self._scope = scope

    def within(self, scope: Scope) -> Self:
        """The same history as somebody with that scope may see it."""
        narrowed = copy.copy(self)
        narrowed._scope = scope
        return narrowed

    async def events(
        self,
        wanted: Filter,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Record]:
        """Up to `limit` records between two sequences, neither included, newest first.

        With `after` alone they are those that follow it at once, else the newest.
        """
        order = "ASC" if after is not None and before is None else "DESC"

        def query(connection: sqlite3.Connection) -> list[Record]:
            plan = _plan(connection, wanted, self._scope, after=after, before=before)
            if plan is None:
                return []
            found = _fetch(connection, plan, order, limit)
            records = codec.event_records(connection, found, self._names)
            if order == "ASC":
                records.reverse()
            return records

        return await self._log.read(query)

    async def event(self, sequence: int) -> Record | None:
        """The event at a sequence; None where there is none, or no longer."""

        def query(connection: sqlite3.Connection) -> Record | None:
            conditions, parameters = _visible(connection, self._scope)
            found = connection.execute(
                f"SELECT {codec.EVENT_COLUMNS} FROM events e WHERE"  # nosec B608 # constant fragments, bound values
                f" {' AND '.join(('e.sequence = ?', *conditions))}",
                (sequence, *parameters),
            ).fetchall()
            return next(iter(codec.event_records(connection, found, self._names)), None)

        if not 0 <= sequence < 2**63:
            return None
        return await self._log.read(query)

    async def count(self, wanted: Filter, limit: int | None = None) -> int:
        """How many events match; counting stops at `limit`."""

        def query(connection: sqlite3.Connection) -> int:
            plan = _plan(connection, wanted, self._scope, counting=True)
            if plan is None:
                return 0
            statement, parameters = plan.select("1 AS one", limit=limit)
            (number,) = connection.execute(
                f"SELECT count(*) FROM ({statement})",  # nosec B608 # constant fragments, bound values
                parameters,
            ).fetchone()
            return int(number) if limit is None else min(int(number), limit)

        return await self._log.read(query)

    async def buckets(
        self, wanted: Filter, *, since: int, until: int, width: int
    ) -> list[tuple[int, int, int]]:
        """Events in each stretch of `width` microseconds from `since` to `until`.

        Start, events, and how many of them are errors or worse; empty buckets are left out.
        """
        window = msgspec.structs.replace(
            wanted,
            since=max(since, wanted.since) if wanted.since is not None else since,
            until=min(until, wanted.until) if wanted.until is not None else until,
        )

        def query(connection: sqlite3.Connection) -> list[tuple[int, int, int]]:
            plan = _plan(connection, window, self._scope, counting=True)
            if plan is None:
                return []
            statement, parameters = plan.select("e.time AS time, e.severity AS severity")
            return connection.execute(
                f"SELECT time - ((time % {int(width)}) + {int(width)}) % {int(width)} AS start,"  # nosec B608 # constant fragments, bound values
                f" count(*), sum(severity >= {int(Severity.ERROR)})"
                f" FROM ({statement}) GROUP BY start ORDER BY start",
                parameters,
            ).fetchall()

        return await self._log.read(query)

    async def origins(self) -> list[str]:
        """Every origin that events have, sorted."""
        scope = self._scope
        return await self._log.read(lambda connection: _distinct(connection, "origin", scope))

    async def types(self) -> list[str]:
        """Every type that events have, sorted."""
        scope = self._scope
        return await self._log.read(lambda connection: _distinct(connection, "type", scope))

    async def count_stored(self) -> int:
        """How many events are stored."""
        if not self._scope.is_full:
            return await self.count(Filter())

        def query(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT events FROM position").fetchone()[0])

        return await self._log.read(query)

    async def last_sequence(self) -> int:
        """The sequence of the newest signal that is stored; subscribers may still wait for it."""

        def query(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT last_sequence FROM position").fetchone()[0])

        return await self._log.read(query)


def _fetch(
    connection: sqlite3.Connection, plan: Plan, order: str, limit: int
) -> list[tuple[Any, ...]]:
    if len(plan.branches) > 1:
        statement, parameters = plan.select("e.sequence AS sequence", order, limit)
        statement = (
            f"SELECT {codec.EVENT_COLUMNS} FROM events e WHERE e.sequence IN"  # nosec B608 # constant fragments, bound values
            f" (SELECT sequence FROM ({statement}) ORDER BY sequence {order} LIMIT ?)"
            f" ORDER BY e.sequence {order}"
        )
        return connection.execute(statement, [*parameters, limit]).fetchall()
    statement, parameters = plan.select(codec.EVENT_COLUMNS, order, limit)
    return connection.execute(statement, parameters).fetchall()


def _plan(
    connection: sqlite3.Connection,
    wanted: Filter,
    scope: Scope,
    *,
    after: int | None = None,
    before: int | None = None,
    counting: bool = False,
) -> Plan | None:
    """How to find what is wanted; None where no name matches, so that nothing can be found."""
    conditions, parameters = _visible(connection, scope)
    names: dict[str, list[int]] = {}
    for name in ("source", "origin", "type"):
        if (text := getattr(wanted, name)) is not None:
            names[name] = _numbers(connection, text)
            if not names[name]:
                return None
    if wanted.subject is not None:
        _add_subject(wanted.subject, conditions, parameters)
    for bound, column in ((wanted.since, ">="), (wanted.until, "<")):
        if bound is not None:
            conditions.append(f"e.time {column} ?")
            parameters.append(_clamped(bound))
    for bound, column in ((after, ">"), (before, "<")):
        if bound is not None:
            conditions.append(f"e.sequence {column} ?")
            parameters.append(_clamped(bound))
    if wanted.severity is not None:
        # In the text of the statement, word for word as the partial indexes have it below, because
        # SQLite does not see that one bound implies another.
        conditions.append(f"e.severity >= {int(wanted.severity)}")
    windowed = wanted.since is not None or wanted.until is not None

    if wanted.text is not None:
        _add_names(names, conditions, parameters)
        if wanted.correlation is not None:
            conditions.append("e.correlation = ?")
            parameters.append(wanted.correlation)
        bounds = [
            (f"f.rowid {sign} ?", _clamped(bound))
            for bound, sign in ((after, ">"), (before, "<"))
            if bound is not None
        ]
        return Plan(
            "events_text f CROSS JOIN events e ON e.sequence = f.rowid",
            [],
            ["f.events_text MATCH ?", *(condition for condition, _ in bounds), *conditions],
            [match_expression(wanted.text), *(value for _, value in bounds), *parameters],
            "f.rowid",
        )
    if wanted.correlation is not None:
        _add_names(names, conditions, parameters)
        return Plan(
            "events e INDEXED BY events_by_correlation",
            [("e.correlation = ?", wanted.correlation)],
            conditions,
            parameters,
        )
    if windowed and (counting or _narrow(connection, wanted)):
        _add_names(names, conditions, parameters)
        failures = wanted.severity is not None and wanted.severity >= Severity.ERROR
        index = "failures_by_time" if failures else "events_by_time"
        if failures:
            conditions.append(f"e.severity >= {int(Severity.ERROR)}")
        return Plan(f"events e INDEXED BY {index}", [], conditions, parameters)
    for name in ("type", "origin"):
        if name in names and len(names[name]) <= BRANCHES:
            numbers = names.pop(name)
            _add_names(names, conditions, parameters)
            return Plan(
                f"events e INDEXED BY events_by_{name}",
                [(f"e.{name} = ?", number) for number in numbers],
                conditions,
                parameters,
            )
    _add_names(names, conditions, parameters)
    if wanted.severity is not None and wanted.severity >= Severity.WARN:
        conditions.append(f"e.severity >= {int(Severity.WARN)}")
        return Plan(
            "events e INDEXED BY events_by_severity",
            [("e.severity = ?", int(it)) for it in Severity if it >= wanted.severity],
            conditions,
            parameters,
        )
    return Plan("events e NOT INDEXED", [], conditions, parameters)


def _visible(connection: sqlite3.Connection, scope: Scope) -> tuple[list[str], list[Any]]:
    """The conditions of a scope, the same that `Scope.permits` looks at, and their parameters."""
    if scope.is_full:
        return [], []
    granted: list[str] = []
    parameters: list[Any] = []
    for grant in scope.grants:
        parts: list[str] = []
        for column, texts in (("origin", grant.origins), ("type", grant.types)):
            if texts:
                parts.append(f"e.{column} IN (SELECT value FROM json_each(?))")  # nosec B608 # constant fragments, bound values
                parameters.append(_all_numbers(connection, texts))
        if grant.namespaces:
            parts.append(f"coalesce({_attribute(NAMESPACE)}, '') REGEXP ?")
            parameters.append(_expression(grant.namespaces))
        for name, value in grant.labels:
            parts.append(f"instr(',' || {_attribute(LABELS)} || ',', ?) > 0")
            parameters.append(f",{name}={value},")
        granted.append(f"({' AND '.join(parts) or '1'})")
    conditions = [f"({' OR '.join(granted) or '0'})"]
    own = _all_numbers(connection, (ACCESS_LOG, f"{ACCESS_LOG}/>"))
    if scope.guarded:
        guarded = [it for text in scope.guarded for it in (text, f"{text}/>")]
        conditions.append(
            "(e.origin NOT IN (SELECT value FROM json_each(?))"  # nosec B608 # constant fragments, bound values
            f" OR coalesce({_attribute(NAMESPACE)}, '') IN (SELECT value FROM json_each(?)))"
        )
        parameters += [
            _all_numbers(connection, guarded),
            msgspec.json.encode(scope.namespaces).decode(),
        ]
    listed = "e.origin IN (SELECT value FROM json_each(?))"
    whole = " AND ".join(conditions)
    if scope.access_log:
        return [f"({listed} OR ({whole}))"], [own, *parameters]
    return [f"NOT {listed}", whole], [own, *parameters]


def _attribute(name: str) -> str:
    return f"json_extract(e.attributes, '$.{name}')"


def _all_numbers(connection: sqlite3.Connection, texts: Iterable[str]) -> str:
    found = sorted({it for text in texts for it in _numbers(connection, text)})
    return msgspec.json.encode(found).decode()


def _expression(texts: Iterable[str]) -> str:
    """One expression for several names and patterns, that never matches the empty name."""
    parts = [
        re.escape(text) if (found := compile_pattern(text)) is None else found.pattern
        for text in texts
    ]
    return f"(?=.)(?:{'|'.join(parts)})"


def match_expression(text: str) -> str:
    """The FTS5 expression of a text filter: every phrase quoted, all of them required.

    A phrase is made into words by the index, as what it holds was.
    """
    return " AND ".join(
        f'"{QUOTING.sub(" ", phrase)}"{" *" if beginning else ""}'
        for phrase, beginning in phrases(text)
    )


def _numbers(connection: sqlite3.Connection, text: str) -> list[int]:
    expression = compile_pattern(text)
    if expression is None:
        found = connection.execute("SELECT number FROM names WHERE text = ?", (text,))
        return [number for (number,) in found]
    begin = text.partition("*")[0].removesuffix(">")
    found = connection.execute("SELECT number, text FROM names WHERE text >= ?", (begin,))
    return [number for number, name in found if expression.fullmatch(name)]


def _add_names(names: dict[str, list[int]], conditions: list[str], parameters: list[Any]) -> None:
    for name, numbers in names.items():
        conditions.append(f"e.{name} IN (SELECT value FROM json_each(?))")  # nosec B608 # constant fragments, bound values
        parameters.append(msgspec.json.encode(numbers).decode())


def _add_subject(text: str, conditions: list[str], parameters: list[Any]) -> None:
    expression = compile_pattern(text)
    if expression is None:
        conditions.append("e.subject = ?")
        parameters.append(text)
        return
    # GLOB knows no parts, so it lets too much through; but it spares most rows the expression,
    # which SQLite has to call Python for.
    literal = re.sub(r"[\[?]", r"[\g<0>]", text)
    tail = literal.endswith(">")
    conditions.append("e.subject GLOB ?")
    parameters.append(literal[:-1] + "?*" if tail else literal)
    if "*" in text:
        conditions.append("e.subject REGEXP ?")
        parameters.append(expression.pattern)


def _narrow(connection: sqlite3.Connection, wanted: Filter) -> bool:
    low = _clamped(wanted.since) if wanted.since is not None else -(2**63)
    high = _clamped(wanted.until) if wanted.until is not None else 2**63 - 1
    (number,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM events WHERE time >= ? AND time < ? LIMIT ?)",
        (low, high, NARROW_WINDOW + 1),
    ).fetchone()
    return bool(number <= NARROW_WINDOW)


def _clamped(value: int) -> int:
    return max(-(2**63), min(value, 2**63 - 1))


def _distinct(connection: sqlite3.Connection, column: str, scope: Scope) -> list[str]:
    if not scope.is_full:
        conditions, parameters = _visible(connection, scope)
        found = connection.execute(
            f"SELECT DISTINCT n.text FROM events e NOT INDEXED"  # nosec B608 # constant fragments, bound values
            f" JOIN names n ON n.number = e.{column}"
            " WHERE e.sequence > (SELECT last_sequence FROM position) - ?"
            f" AND {' AND '.join(conditions)} ORDER BY n.text LIMIT 2000",
            (NAMED_AMONG, *parameters),
        )
        return [text for (text,) in found]
    # Each step jumps to the next value in the index instead of reading all the events.
    found = connection.execute(
        f"WITH RECURSIVE it(number) AS (SELECT min({column}) FROM events UNION ALL"  # nosec B608 # constant fragments, bound values
        f" SELECT (SELECT min({column}) FROM events WHERE {column} > number) FROM it"
        " WHERE number IS NOT NULL)"
        " SELECT text FROM it JOIN names USING (number) ORDER BY text LIMIT 2000"
    )
    return [text for (text,) in found]
