"""Work of the writer in short steps that take their turn with batches."""

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, LiteralString

from almenara.bus.schema import CHECKPOINT_PAGES

INDEXES: Final = ("events_text", "block_words")
PARTS_MERGED: Final = 4
"""Parts of the full-text index that SQLite merges at once; each commit adds one."""
MERGED_PAGES: Final = 8
"""Pages of the full-text index that are merged in one step."""


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
    for table in INDEXES:
        yield from merge(connection, table)


def merge(
    connection: sqlite3.Connection, table: LiteralString, is_whole: bool = False
) -> Iterator[None]:
    """Merge the parts of an index that are due, or all of them; yield after each short step."""
    # From the documentation of FTS5: a negative number starts to merge all, and fewer changes than
    # two mean that nothing is left.
    pages, changes = -MERGED_PAGES if is_whole else MERGED_PAGES, 2
    while changes >= 2:
        before = connection.total_changes
        with commit_later(connection):
            connection.execute(
                f"INSERT INTO {table} ({table}, rank) VALUES ('merge', ?)",  # nosec B608 # tables of ours
                (pages,),
            )
        pages, changes = MERGED_PAGES, connection.total_changes - before
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
