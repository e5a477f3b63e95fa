"""Totals and histograms from the stored counts (`almenara.bus.counts`), without reading events.

The counts know time in slots of ten seconds, origin, type, namespace and severity. What is left of
a window at its two ends is counted from the events. Filters and scopes that need more of an event
than that (text, correlation, subject, source, labels) are not answered here.
"""

import sqlite3
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from almenara.bus.counts import ALL, WIDTHS
from almenara.history.filter import Filter
from almenara.history.planner import LARGEST, SMALLEST, clamp
from almenara.history.stored_names import (
    StoredNames,
    find_names,
    find_pairs,
    is_in,
    read_pairs,
)
from almenara.scope import Scope, compile_scope
from almenara.signals import Severity
from almenara.visibility import Condition

SLOT: Final = WIDTHS[0]
UNITS: Final = tuple(width // SLOT for width in WIDTHS)
"""Slots of the first level in one of each level."""

Window = tuple[int, int]
"""Times from, included, and until, not included."""


class NotCountedError(Exception):
    """A scope tests what the counts do not know."""


class CountColumns:
    """The tests of a scope on the table `event_counts`, which has the alias `c`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def name_matches(self, column: Literal["origin", "type"], patterns: Sequence[str]) -> Condition:
        return find_names(self._connection, patterns).condition(f"c.{column}")

    def namespace_matches(self, patterns: Sequence[str]) -> Condition:
        return find_names(self._connection, patterns).condition("c.namespace")

    def namespace_is_in(self, names: Sequence[str]) -> Condition:
        stored = find_names(self._connection, [name for name in names if name], is_exact=True)
        if "" in names:
            stored.values.append(ALL)
        return is_in("c.namespace", stored.values)

    def has_label(self, name: str, value: str) -> Condition:
        raise NotCountedError


class CountPlan(msgspec.Struct):
    """How the counts answer a query."""

    pairs: list[tuple[int, int]]
    """Origins and types of the rows."""
    condition: Condition
    low: int
    high: int
    """Slots of the first level, the upper one not included."""
    ends: list[Window]
    """Windows that remain to be counted from the events."""

    def read(self, connection: sqlite3.Connection, width: int | None) -> dict[int, tuple[int, int]]:
        """Return events and failures by number of the bucket; all in bucket 0 without a width."""
        levels = [level for level, each in enumerate(WIDTHS) if width is None or not width % each]
        pairs = msgspec.json.encode(self.pairs).decode()
        buckets: dict[int, tuple[int, int]] = {}
        for level, first, end in cover(self.low, self.high, levels[-1]):
            slots = 0 if width is None else width // WIDTHS[level]
            # SQLite's division rounds towards zero, also for times before the epoch.
            bucket = f"c.slot / {slots} - (c.slot % {slots} < 0)" if slots else "0"
            rows = connection.execute(
                f"SELECT {bucket} AS bucket, sum(c.events),"  # nosec B608 # constant fragments, bound values
                f" sum(c.events * (c.severity >= {int(Severity.ERROR)}))"
                " FROM json_each(?) p CROSS JOIN event_counts c"
                " WHERE c.level = ? AND c.origin = p.value ->> 0 AND c.type = p.value ->> 1"
                f" AND c.slot >= ? AND c.slot < ? AND {self.condition.sql} GROUP BY bucket",
                (pairs, level, first, end, *self.condition.parameters),
            )
            for number, events, failures in rows:
                if number is not None:
                    earlier = buckets.get(number, (0, 0))
                    buckets[number] = earlier[0] + events, earlier[1] + failures
        return buckets


def plan_counts(
    connection: sqlite3.Connection, chosen: Filter, scope: Scope, width: int | None = None
) -> CountPlan | None:
    """Return how the counts answer a filter within a scope, in buckets of `width` microseconds or
    as one sum; None where they do not know enough."""
    needs_events = chosen.text or chosen.correlation or chosen.subject or chosen.source
    if needs_events or (width is not None and width % SLOT):
        return None
    (uncounted,) = connection.execute("SELECT uncounted_through FROM position").fetchone()
    if uncounted:
        return None
    try:
        selected = _select_rows(connection, chosen, scope)
    except NotCountedError:
        return None
    if selected is None:
        return None
    pairs, condition = selected
    low, high, ends = _find_slots(connection, chosen)
    if low >= high:
        return None
    return CountPlan(pairs, condition, low, high, ends)


def cover(low: int, high: int, level: int) -> list[tuple[int, int, int]]:
    """Return the fewest ranges of slots that cover those of the first level from `low` to `high`,
    each with its level; no level is above the one given."""
    if low >= high:
        return []
    if not level:
        return [(0, low, high)]
    unit = UNITS[level]
    first, end = -(-low // unit), high // unit
    if first >= end:
        return cover(low, high, level - 1)
    return [
        *cover(low, first * unit, level - 1),
        (level, first, end),
        *cover(end * unit, high, level - 1),
    ]


def _select_rows(
    connection: sqlite3.Connection, chosen: Filter, scope: Scope
) -> tuple[list[tuple[int, int]], Condition] | None:
    """Return the origins and types, and the condition, of the rows that count what is visible.

    Raises `NotCountedError`.
    """
    conditions: list[Condition] = []
    if chosen.severity is not None:
        conditions.append(Condition(f"c.severity >= {int(chosen.severity)}"))
    names: dict[str, StoredNames] = {
        name: find_names(connection, [text])
        for name in ("origin", "type")
        if (text := getattr(chosen, name)) is not None
    }
    if scope.is_full:
        listed = find_pairs(connection, names) if names else [(ALL, ALL)]
        return None if listed is None else (listed, Condition.join("AND", conditions))
    pairs = read_pairs(connection, scope)
    if pairs is None:
        return None
    pairs.narrow(names)
    if not pairs.is_decided:
        (unnumbered,) = connection.execute("SELECT names_counted_from FROM position").fetchone()
        if unnumbered:
            # Events from before schema 4 have no number of a namespace.
            return None
        conditions.append(compile_scope(scope).condition(CountColumns(connection)))
    return pairs.visible, Condition.join("AND", conditions)


def _find_slots(connection: sqlite3.Connection, chosen: Filter) -> tuple[int, int, list[Window]]:
    """Return the slots that a filter covers whole, and the windows that remain at both ends.

    A slot of which the window cuts off no event is whole: the one of now, mostly.
    """
    ends: list[Window] = []
    # Without a bound, the coarsest slots suffice.
    low, high = SMALLEST // WIDTHS[-1] * UNITS[-1], (LARGEST // WIDTHS[-1] + 1) * UNITS[-1]
    if chosen.since is not None:
        since = clamp(chosen.since)
        low = since // SLOT
        if low * SLOT < since and _has_event(connection, low * SLOT, since):
            low += 1
            ends.append((since, low * SLOT))
    if chosen.until is not None:
        until = clamp(chosen.until)
        high = -(-until // SLOT)
        if until < high * SLOT and _has_event(connection, until, high * SLOT):
            high -= 1
            ends.append((high * SLOT, until))
    return low, high, ends


def _has_event(connection: sqlite3.Connection, since: int, until: int) -> bool:
    bounds = clamp(since), clamp(until)
    row = connection.execute(
        "SELECT 1 FROM events WHERE time >= ? AND time < ? LIMIT 1", bounds
    ).fetchone()
    # A block is judged by its range of times, so it may have no event between.
    row = (
        row
        or connection.execute(
            "SELECT 1 FROM blocks WHERE last_time >= ? AND first_time < ? LIMIT 1", bounds
        ).fetchone()
    )
    return row is not None
