"""Events that are removed sooner than others: the rules of `storage.retention_rules`."""

import sqlite3
from collections.abc import Sequence
from typing import Final, Literal

from almenara.bus.block_format import DamagedBlockError
from almenara.bus.blocks import remove_from_block
from almenara.bus.ingest import compile_match
from almenara.bus.retention import remove_events, sequence_at
from almenara.config import RetentionRule
from almenara.patterns import compile_pattern
from almenara.signals import Severity
from almenara.units import SECOND

ENTRIES_IN_STEP: Final = 10_000
"""Entries of an index that one step reads, whether the rule matches their events or not."""


class RetentionRules:
    """Applies the rules in steps, and remembers up to which event each was applied."""

    def __init__(self, rules: Sequence[RetentionRule]) -> None:
        self._rules = rules
        self._reached: dict[tuple[int, int], int] = {}
        """Sequences by the rule and the number of the type or origin that leads to its events."""
        self._names: tuple[int, list[tuple[int, str]]] = (-1, [])
        self.is_behind = False
        """Whether the last step left events to look at."""

    def remove_step(self, connection: sqlite3.Connection, time: int, limit: int) -> int:
        """Remove up to `limit` events that the rules no longer allow at `time`; return how many."""
        self.is_behind = False
        for index, rule in enumerate(self._rules):
            through = sequence_at(connection, time - int(rule.age * SECOND))
            column: Literal["type", "origin"] = "type" if rule.match.type else "origin"
            for number in self._find_names(connection, getattr(rule.match, column)):
                after = self._reached.get((index, number), 0)
                if after >= through:
                    continue
                sealed = self._find_block(connection, number, after)
                if sealed is not None:
                    # A block is rewritten once: when the rule applies to all of it.
                    if sealed <= through:
                        self._reached[index, number] = sealed
                        self.is_behind = True
                        return self._remove_sealed(connection, sealed, rule)
                    continue
                bounds = (number, after, through)
                last, sequences = self._read_entries(connection, rule, column, bounds, limit)
                if sequences:
                    remove_events(connection, sequences)
                self._reached[index, number] = last
                if sequences or last < through:
                    self.is_behind = True
                    return len(sequences)
        return 0

    def _find_block(self, connection: sqlite3.Connection, number: int, after: int) -> int | None:
        """Return the end of the next block with a name."""
        row = connection.execute(
            "SELECT block FROM block_names WHERE number = ? AND block > ? ORDER BY block LIMIT 1",
            (number, after),
        ).fetchone()
        return int(row[0]) if row else None

    def _remove_sealed(
        self, connection: sqlite3.Connection, block: int, rule: RetentionRule
    ) -> int:
        try:
            return remove_from_block(connection, block, compile_match(rule.match))
        except DamagedBlockError:
            # Reported where it is read; it is removed at its age.
            return 0

    def _read_entries(
        self,
        connection: sqlite3.Connection,
        rule: RetentionRule,
        column: Literal["type", "origin"],
        bounds: tuple[int, int, int],
        limit: int,
    ) -> tuple[int, list[int]]:
        """Return the sequence up to which entries were read, and those of matching events."""
        *_, through = bounds
        rows = connection.execute(
            "SELECT sequence, severity, origin FROM events"  # nosec B608 # constant fragments, bound values
            f" INDEXED BY events_by_{column}"
            f" WHERE {column} = ? AND sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?",
            (*bounds, ENTRIES_IN_STEP),
        ).fetchall()
        below = rule.match.severity_below
        severity = Severity[below] if below is not None else max(Severity) + 1
        origins = (
            set(self._find_names(connection, rule.match.origin)) if rule.match.origin else None
        )
        matches = [
            sequence
            for sequence, level, origin in rows
            if level < severity and (origins is None or origin in origins)
        ]
        if len(matches) > limit:
            return matches[limit - 1], matches[:limit]
        return (rows[-1][0] if len(rows) == ENTRIES_IN_STEP else through), matches

    def _find_names(self, connection: sqlite3.Connection, pattern: str) -> list[int]:
        """Return the numbers of the names that match; events with unnumbered names age normally."""
        (last,) = connection.execute("SELECT last_name FROM position").fetchone()
        if self._names[0] != last:
            self._names = last, connection.execute("SELECT number, text FROM names").fetchall()
        expression = compile_pattern(pattern)
        return [
            number
            for number, text in self._names[1]
            if (text == pattern if expression is None else expression.fullmatch(text))
        ]
