"""Which resources each source has published and not deleted, with a bound for each source."""

import sqlite3
from collections.abc import Iterable
from typing import Final

from almenara.signals import Resource, Signal

COLUMNS: Final = "source = ? AND kind = ? AND namespace = ? AND name = ?"

Row = tuple[str, str, str, str]
"""Source, kind, namespace and name."""


class KnownResources:
    """The table `known_resources`, written in the transaction of the batch."""

    def __init__(self, connection: sqlite3.Connection, limit: int) -> None:
        self._connection, self.limit = connection, limit
        self.dropped: dict[str, int] = {}
        """New resources that were left out, by source, since the log was opened."""
        self.reload()

    def reload(self) -> None:
        """Count again, after a transaction that was rolled back."""
        self.counts = dict(
            self._connection.execute("SELECT source, count(*) FROM known_resources GROUP BY source")
        )

    @property
    def highest(self) -> int:
        """The resources of the source that has the most."""
        return max(self.counts.values(), default=0)

    def admit(self, source: str, signals: list[Signal]) -> list[Signal]:
        """Return the signals without the new resources that are beyond the bound of their source.

        The rest of the batch is stored: an overfull source must not lose its events as well.
        """
        published = sum(isinstance(signal, Resource) and not signal.deleted for signal in signals)
        free = self.limit - self.counts.get(source, 0)
        if published <= free:
            return signals
        admitted: list[Signal] = []
        new: set[Row] = set()
        for signal in signals:
            if isinstance(signal, Resource) and not signal.deleted:
                row = (source, *signal.key)
                if row not in new and not self._is_known(row):
                    if len(new) >= free:
                        self.dropped[source] = self.dropped.get(source, 0) + 1
                        continue
                    new.add(row)
            admitted.append(signal)
        return admitted

    def _is_known(self, row: Row) -> bool:
        return bool(
            self._connection.execute(
                f"SELECT 1 FROM known_resources WHERE {COLUMNS}",  # nosec B608 # constant fragments, bound values
                row,
            ).fetchone()
        )

    def store(self, source: str, signals: Iterable[Signal]) -> None:
        """Add and remove the resources of a batch; the last state of each counts."""
        deleted = {signal.key: signal.deleted for signal in signals if isinstance(signal, Resource)}
        added = [(source, *key) for key, is_deleted in deleted.items() if not is_deleted]
        removed = [(source, *key) for key, is_deleted in deleted.items() if is_deleted]
        change = 0
        if added:
            change += self._connection.executemany(
                "INSERT OR IGNORE INTO known_resources VALUES (?, ?, ?, ?)", added
            ).rowcount
        if removed:
            change -= self._connection.executemany(
                f"DELETE FROM known_resources WHERE {COLUMNS}",  # nosec B608 # constant fragments, bound values
                removed,
            ).rowcount
        if change:
            self.counts[source] = self.counts.get(source, 0) + change
