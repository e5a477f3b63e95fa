"""Work of the writer in short steps that take their turn with batches."""

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, LiteralString

from almenara.bus.schema import CHECKPOINT_PAGES
from almenara.bus.text_tables import current_table

PARTS_MERGED: Final = 8
"""Parts of the full-text index that are merged at once; each commit adds one. SQLite merges within
a batch once there are 16."""
MERGED_PAGES: Final = 8
"""Pages of the full-text index that are merged by one statement."""
MERGE_SECONDS: Final = 0.001
"""Length of a step, after which no further statement is started."""


class Upkeep:
    """Runs steps on the connection of the writer, and pauses after each."""

    def __init__(
        self,
        start: Callable[[sqlite3.Connection], Iterator[None]],
        pause: Callable[[], float],
    ) -> None:
        """`start` returns the steps, `pause` how many times as long as a step the pause is."""
        self._start, self._pause = start, pause
        self._steps: Iterator[None] | None = None
        self.due_at = math.inf
        """When the next step is due, in the time of `time.monotonic`."""

    def wake(self) -> None:
        """Start the steps, unless they are under way."""
        if self._steps is None:
            self.due_at = 0.0

    def stop(self) -> None:
        """Drop the steps, until the next `wake`."""
        self._steps, self.due_at = None, math.inf

    def run_step(self, connection: sqlite3.Connection) -> bool:
        """Do one step if it is due, and return whether it was done.

        Raises what the step raises; the steps end then.
        """
        started = time.monotonic()
        if started < self.due_at:
            return False
        steps = self._steps or self._start(connection)
        self.stop()
        for _ in steps:
            now = time.monotonic()
            self._steps, self.due_at = steps, now + (now - started) * self._pause()
            return True
        return False


def merge_words(connection: sqlite3.Connection) -> Iterator[None]:
    """Merge the parts that batches and blocks have added to the full-text indexes; yield after each
    short step.

    SQLite would do it within some of the batches, at many times their length.
    """
    tables: list[LiteralString] = [current_table(connection), "block_words"]
    while tables:
        with commit_later(connection):
            end = time.monotonic() + MERGE_SECONDS
            while tables and time.monotonic() < end:
                before, table = connection.total_changes, tables[0]
                connection.execute(
                    f"INSERT INTO {table} ({table}, rank) VALUES ('merge', ?)",  # nosec B608 # tables of ours
                    (MERGED_PAGES,),
                )
                # From the documentation of FTS5: fewer changes than two mean that nothing is left.
                if connection.total_changes - before < 2:
                    tables.pop(0)
        yield


@contextmanager
def commit_later(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a transaction that becomes durable with the next batch.

    A power failure may undo it as a whole, so it must only move what is stored. Moving the
    write-ahead log into the file, which takes many times as long as a step, is left to batches too,
    unless none come.
    """
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {4 * CHECKPOINT_PAGES}").fetchall()
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    finally:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}").fetchall()
