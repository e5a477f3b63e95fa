"""Queries over stored events: pages, counts, buckets of time and lists of names."""

import copy
import itertools
import math
import sqlite3
import sys
from asyncio import sleep
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, Final, Literal, Self, TypeVar

import msgspec

from almenara.bus import LogReader, Record, codec
from almenara.bus.codec import RowDecoder
from almenara.history.block_cache import BlockCache
from almenara.history.counted import plan_counts
from almenara.history.filter import Filter
from almenara.history.planner import (
    LARGEST,
    SMALL_WINDOW,
    Plan,
    build_plan,
    clamp,
    is_small_window,
    scope_condition,
)
from almenara.history.sealed import Access, Order, SealedSearch
from almenara.history.stored_names import read_pairs
from almenara.scope import FULL_SCOPE, Scope
from almenara.signals import Severity
from almenara.units import HOUR, MINUTE
from almenara.visibility import Condition

RECENT_SIGNALS: Final = 100_000
"""Newest signals among which names and numbers are collected for a limited scope."""
MAX_NAMES: Final = 2_000
PACE: Final = 0.05
"""Seconds. Where the work for a query depends on hidden events, its answer comes at a multiple of
this after the request, so that its duration does not reveal how many of them match."""
MAX_BYTES: Final = 8 * 1024**2
"""Payloads of one result together. What one request holds in memory is a small multiple of this."""
PREVIEW_CHARACTERS: Final = 16_384
"""Characters of a payload, and bytes of an undecodable one, in a preview."""
PREVIEW_COLUMNS: Final = codec.EVENT_COLUMNS.removesuffix("e.raw, e.data, e.checksum") + (
    f"substr(e.raw, 1, {PREVIEW_CHARACTERS}),"
    f" CASE WHEN length(e.data) > {PREVIEW_CHARACTERS}"
    f" THEN json_quote(substr(e.data, 1, {PREVIEW_CHARACTERS})) ELSE e.data END,"
    f" CASE WHEN length(e.data) > {PREVIEW_CHARACTERS} OR length(e.raw) > {PREVIEW_CHARACTERS}"
    " THEN NULL ELSE e.checksum END"
)
STORED_LIMIT: Final = 10_000_000
"""Where a scope depends on labels, stored events as of a moment are counted up to here."""
AHEAD: Final = MINUTE
"""How far the time of an event may be ahead of the moment at which it was stored."""
LATE: Final = HOUR
"""How late an event may be stored and still be left out of the counts of the past."""

T = TypeVar("T")


class PastBound(msgspec.Struct, frozen=True):
    """What history knew at a moment."""

    sequence: int
    """The last that was stored."""
    moment: int
    """Microseconds since the epoch."""


class History:
    """Events by filter, page and bucket of time, limited to what a scope shows."""

    def __init__(self, log: LogReader, scope: Scope = FULL_SCOPE) -> None:
        self._log = log
        self._scope = scope
        self._user = ""
        self._past: PastBound | None = None
        self._cache = BlockCache()

    def within(self, scope: Scope, user: str = "") -> Self:
        """Return the same history, limited to a scope, whose queries take the share of a user."""
        narrowed = copy.copy(self)
        narrowed._scope, narrowed._user = scope, user
        return narrowed

    def as_of(self, bound: "PastBound") -> Self:
        """Return the same history, limited to what was stored at a moment."""
        past = copy.copy(self)
        past._past = bound
        return past

    async def events(
        self,
        chosen: Filter,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = 100,
        max_bytes: int = MAX_BYTES,
        is_preview: bool = False,
    ) -> list[Record]:
        """Return up to `limit` records between two sequences, neither included, newest first.

        With `after` alone they are those that follow it directly, otherwise the newest. Fewer come
        where their payloads would exceed `max_bytes` together, but at least one. A preview comes
        whole, with only the beginning of long payloads, as a JSON string.
        """
        order: Order = "ASC" if after is not None and before is None else "DESC"
        access = Access(self._cache)
        end = self._before(before)

        def query(connection: sqlite3.Connection) -> list[Record]:
            columns = PREVIEW_COLUMNS if is_preview else codec.EVENT_COLUMNS
            bounds = after, end
            rows = _select_rows(connection, chosen, self._scope, bounds, order, limit, columns)
            search = SealedSearch(connection, self._log.decoder, chosen, self._scope, access)
            sealed = search.rows(order, after, end)
            if is_preview:
                sealed = map(_preview, sealed)
            # Rows are read as the page needs them, so blocks only where the rows do not fill it.
            parts = (sealed, rows) if order == "ASC" else (rows, sealed)
            # Rows of a preview are short enough that `limit` bounds them.
            page = itertools.islice(itertools.chain(*parts), limit)
            accepted = _limit_bytes(page, sys.maxsize if is_preview else max_bytes)
            records = self._log.decoder.events(connection, accepted)
            if order == "ASC":
                records.reverse()
            return records

        return await self._read(query, chosen, access)

    async def event(self, sequence: int) -> Record | None:
        """Return the event at a sequence; None where there is no such event any more."""

        def query(connection: sqlite3.Connection) -> Record | None:
            conditions = [Condition("e.sequence = ?", (sequence,))]
            if (visible := scope_condition(connection, self._scope)) is not None:
                conditions.append(visible)
            where = Condition.join("AND", conditions)
            rows = connection.execute(
                f"SELECT {codec.EVENT_COLUMNS} FROM events e WHERE {where.sql}",  # nosec B608 # constant fragments, bound values
                where.parameters,
            ).fetchall()
            if not rows:
                access = Access(self._cache)
                search = SealedSearch(connection, self._log.decoder, Filter(), self._scope, access)
                rows = list(search.rows("DESC", sequence - 1, sequence + 1))
            return next(iter(self._log.decoder.events(connection, rows)), None)

        end = self._before(None)
        if not 0 <= sequence < 2**63 or (end is not None and sequence >= end):
            return None
        return await self._log.read(query, self._user)

    async def count(self, chosen: Filter, limit: int | None = None) -> int:
        """Count the events that match; where the stored counts don't know, counting stops at
        `limit`."""
        access = Access(self._cache)

        def query(connection: sqlite3.Connection) -> int:
            limited, before, is_small = self._bound(connection, chosen)
            counted = None if is_small else plan_counts(connection, limited, self._scope)
            if counted is None:
                return self._count_events(connection, limited, limit, access, before=before)
            number = sum(events for events, _ in counted.read(connection, None).values())
            for since, until in counted.ends:
                window = msgspec.structs.replace(limited, since=since, until=until)
                number += self._count_events(connection, window, limit, access)
            number -= self._count_late(connection, limited, access)
            return number if limit is None else min(number, limit)

        return await self._read(query, chosen, access)

    def _count_events(
        self,
        connection: sqlite3.Connection,
        chosen: Filter,
        limit: int | None,
        access: Access,
        *,
        after: int | None = None,
        before: int | None = None,
    ) -> int:
        number = _count_rows(connection, chosen, self._scope, limit, after=after, before=before)
        if limit is not None and number >= limit:
            return limit
        search = SealedSearch(connection, self._log.decoder, chosen, self._scope, access)
        rest = None if limit is None else limit - number
        return number + search.count(rest, after=after, before=before)

    async def buckets(
        self, chosen: Filter, *, since: int, until: int, width: int
    ) -> list[tuple[int, int, int]]:
        """Count events in each bucket of `width` microseconds from `since` to `until`.

        Returns start, events, and how many of them are errors or worse; without empty buckets.
        """
        window = msgspec.structs.replace(
            chosen,
            since=max(since, chosen.since) if chosen.since is not None else since,
            until=min(until, chosen.until) if chosen.until is not None else until,
        )

        access = Access(self._cache)

        def query(connection: sqlite3.Connection) -> list[tuple[int, int, int]]:
            limited, before, is_small = self._bound(connection, window)
            counted = None if is_small else plan_counts(connection, limited, self._scope, width)
            buckets: dict[int, tuple[int, int]] = {}
            parts = [limited]
            if counted is not None:
                for number, counts in counted.read(connection, width).items():
                    buckets[number * width] = counts
                parts = [
                    msgspec.structs.replace(limited, since=first, until=end)
                    for first, end in counted.ends
                ]
            for part in parts:
                search = SealedSearch(connection, self._log.decoder, part, self._scope, access)
                rows = _bucket_rows(connection, part, self._scope, width, before)
                sealed = search.buckets(width, before)
                for start, events, failures in itertools.chain(rows, sealed):
                    earlier = buckets.get(start, (0, 0))
                    buckets[start] = earlier[0] + events, earlier[1] + failures
            return [(start, *counts) for start, counts in sorted(buckets.items())]

        return await self._read(query, window, access)

    async def origins(self) -> list[str]:
        """List the origins that events have, sorted."""
        return await self._distinct("origin")

    async def types(self) -> list[str]:
        """List the types that events have, sorted."""
        return await self._distinct("type")

    async def _distinct(self, column: Literal["origin", "type"]) -> list[str]:
        decoder, scope = self._log.decoder, self._scope
        return await self._log.read(
            lambda connection: _distinct_names(connection, decoder, column, scope), self._user
        )

    async def count_stored(self) -> int:
        """Count all stored events. Where a scope depends on labels, those among the
        `RECENT_SIGNALS` newest: each status request counts, so the work must not grow with history.
        """
        if self._past is not None:
            return await self.count(Filter(until=self._past.moment + 1), STORED_LIMIT)
        if not self._scope.is_full:
            return await self._count_recent()

        def query(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT events FROM position").fetchone()[0])

        return await self._log.read(query, self._user)

    async def _count_recent(self) -> int:
        access = Access(self._cache)

        def query(connection: sqlite3.Connection) -> int:
            pairs = read_pairs(connection, self._scope)
            if pairs is not None and pairs.is_decided:
                return pairs.count_visible()
            if (counted := plan_counts(connection, Filter(), self._scope)) is not None:
                return sum(events for events, _ in counted.read(connection, None).values())
            (last,) = connection.execute("SELECT last_sequence FROM position").fetchone()
            after = max(last - RECENT_SIGNALS, 0)
            return self._count_events(connection, Filter(), None, access, after=after)

        return await self._read(query, Filter(), access)

    async def last_sequence(self) -> int:
        """Return the sequence of the newest stored signal; subscribers may not have it yet."""

        def query(connection: sqlite3.Connection) -> int:
            return int(connection.execute("SELECT last_sequence FROM position").fetchone()[0])

        return await self._log.read(query, self._user)

    def _before(self, before: int | None) -> int | None:
        """Return the sequence that bounds a query, with that of the past."""
        if self._past is None:
            return before
        end = self._past.sequence + 1
        return end if before is None else min(before, end)

    def _bound(
        self, connection: sqlite3.Connection, chosen: Filter
    ) -> tuple[Filter, int | None, bool]:
        """Return the filter within the past, the sequence before which its events are, and whether
        those are few enough to be read one by one.

        The stored counts know the time of an event and not when it was stored, so they are not
        exact for the past.
        """
        if self._past is None:
            return chosen, None, False
        near = _end_at(chosen, self._past.moment + AHEAD)
        is_small = near.since is not None and _has_few_events(connection, near)
        limited = near if is_small else _end_at(chosen, self._past.moment + 1)
        return limited, self._past.sequence + 1, is_small

    def _count_late(self, connection: sqlite3.Connection, limited: Filter, access: Access) -> int:
        """Count what was stored after the moment with a time shortly before it."""
        if self._past is None:
            return 0
        since = max(limited.since or 0, self._past.moment - LATE)
        window = msgspec.structs.replace(limited, since=since)
        if not _has_few_events(connection, window):
            return 0
        return self._count_events(connection, window, None, access, after=self._past.sequence)

    async def _read(
        self, query: Callable[[sqlite3.Connection], T], chosen: Filter, access: Access
    ) -> T:
        if self._scope.is_full:
            return await self._log.read(query, self._user)
        arrived = monotonic()
        try:
            return await self._log.read(query, self._user)
        finally:
            # A block holds hidden events too.
            if access.has_read_blocks or _depends_on_hidden(chosen):
                elapsed = monotonic() - arrived
                await sleep(math.ceil(elapsed / PACE) * PACE - elapsed)


def _end_at(chosen: Filter, until: int) -> Filter:
    """Return a filter of events before a time."""
    end = until if chosen.until is None else min(chosen.until, until)
    return msgspec.structs.replace(chosen, until=end)


def _has_few_events(connection: sqlite3.Connection, window: Filter) -> bool:
    """Return whether a window of time has few events, sealed ones included."""
    if not is_small_window(connection, window):
        return False
    (sealed,) = connection.execute(
        "SELECT coalesce(sum(events), 0) FROM blocks WHERE last_time >= ? AND first_time < ?",
        (clamp(window.since or 0), clamp(LARGEST if window.until is None else window.until)),
    ).fetchone()
    return bool(sealed <= SMALL_WINDOW)


def _depends_on_hidden(chosen: Filter) -> bool:
    """Whether the indexes that lead to the matches of a filter hold hidden events too; all others
    are planned from visible names (`almenara.history.planner.NamePairs`)."""
    return any(
        value is not None for value in (chosen.text, chosen.correlation, chosen.since, chosen.until)
    )


def _count_rows(
    connection: sqlite3.Connection,
    chosen: Filter,
    scope: Scope,
    limit: int | None,
    *,
    after: int | None = None,
    before: int | None = None,
) -> int:
    sealed = _sealed_through(connection)
    if sealed is not None:
        after = sealed if after is None else max(after, sealed)
    plan = build_plan(connection, chosen, scope, after=after, before=before, is_count=True)
    if plan is None:
        return 0
    number = _count_plan(connection, plan, limit)
    return number if limit is None else min(number, limit)


def _count_plan(connection: sqlite3.Connection, plan: Plan, limit: int | None = None) -> int:
    number = 0
    for part in plan.parts():
        statement, parameters = part.select("1 AS one", limit=limit)
        (matching,) = connection.execute(
            f"SELECT count(*) FROM ({statement})",  # nosec B608 # constant fragments, bound values
            parameters,
        ).fetchone()
        number += int(matching)
    return number


def _bucket_rows(
    connection: sqlite3.Connection,
    window: Filter,
    scope: Scope,
    width: int,
    before: int | None = None,
) -> list[tuple[int, int, int]]:
    plan = build_plan(
        connection, window, scope, after=_sealed_through(connection), before=before, is_count=True
    )
    if plan is None:
        return []
    buckets: list[tuple[int, int, int]] = []
    for part in plan.parts():
        statement, parameters = part.select("e.time AS time, e.severity AS severity")
        # SQLite's remainder is negative for times before the epoch; hence twice.
        buckets += connection.execute(
            f"SELECT time - ((time % {int(width)}) + {int(width)}) % {int(width)} AS start,"  # nosec B608 # constant fragments, bound values
            f" count(*), sum(severity >= {int(Severity.ERROR)})"
            f" FROM ({statement}) GROUP BY start",
            parameters,
        ).fetchall()
    return buckets


def _sealed_through(connection: sqlite3.Connection) -> int | None:
    """Return the sequence up to which events are in blocks; None where no event is."""
    (sealed,) = connection.execute("SELECT sealed_through FROM position").fetchone()
    return sealed or None


def _select_rows(
    connection: sqlite3.Connection,
    chosen: Filter,
    scope: Scope,
    bounds: tuple[int | None, int | None],
    order: Order,
    limit: int,
    columns: str,
) -> Iterator[tuple[Any, ...]]:
    """Yield matching rows of events that are not sealed, between two sequences."""
    after, before = bounds
    sealed = _sealed_through(connection)
    if sealed is not None:
        after = sealed if after is None else max(after, sealed)
    plan = build_plan(connection, chosen, scope, after=after, before=before)
    if plan is None:
        return
    parts = plan.parts()
    for part in parts if order == "DESC" else reversed(parts):
        yield from connection.execute(*part.select_page(columns, order, limit))


def _preview(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row with only the beginning of its payload, as `PREVIEW_COLUMNS` does."""
    *fields, raw, data, checksum = row
    if isinstance(data, str) and len(data) > PREVIEW_CHARACTERS:
        data = msgspec.json.encode(data[:PREVIEW_CHARACTERS]).decode()
    return (*fields, None if raw is None else raw[:PREVIEW_CHARACTERS], data, checksum)


def _limit_bytes(rows: Iterable[tuple[Any, ...]], max_bytes: int) -> list[tuple[Any, ...]]:
    """Return rows while their payloads fit, and the first row in any case."""
    accepted: list[tuple[Any, ...]] = []
    size = 0
    for row in rows:
        *_, raw, data, _ = row
        # In a damaged row the columns can be of any type; decoding reports it.
        size += sum(len(value) for value in (data, raw) if isinstance(value, str | bytes))
        if accepted and size > max_bytes:
            break
        accepted.append(row)
    return accepted


def _distinct_names(
    connection: sqlite3.Connection,
    decoder: RowDecoder,
    column: Literal["origin", "type"],
    scope: Scope,
) -> list[str]:
    visible = scope_condition(connection, scope)
    pairs = None if visible is None else read_pairs(connection, scope)
    if pairs is not None and pairs.is_decided:
        names = decoder.names
        return sorted(names.text(connection, number) for number in pairs.visible_numbers(column))
    sealed: list[tuple[int]] = []
    if visible is not None:
        rows = connection.execute(
            f"SELECT DISTINCT e.{column} FROM events e NOT INDEXED"  # nosec B608 # constant fragments, bound values
            " WHERE e.sequence > (SELECT last_sequence FROM position) - ?"
            f" AND {visible.sql} LIMIT ?",
            (RECENT_SIGNALS, *visible.parameters, MAX_NAMES),
        ).fetchall()
    else:
        # Each step jumps to the next value in the index instead of reading all the events. The
        # names that events hold as text follow the numbers.
        rows = connection.execute(
            f"WITH RECURSIVE step(name) AS (SELECT min({column}) FROM events UNION ALL"  # nosec B608 # constant fragments, bound values
            f" SELECT (SELECT min({column}) FROM events WHERE {column} > name) FROM step"
            " WHERE name IS NOT NULL)"
            " SELECT name FROM step WHERE name IS NOT NULL LIMIT ?",
            (MAX_NAMES,),
        ).fetchall()
        if _sealed_through(connection) is not None:
            sealed = connection.execute(
                f"SELECT DISTINCT {column} FROM name_pairs LIMIT ?",  # nosec B608 # constant fragments, bound values
                (MAX_NAMES,),
            ).fetchall()
    distinct = {*rows, *sealed}
    return sorted({decoder.names.text(connection, name) for (name,) in distinct})[:MAX_NAMES]
