"""What the writer does beside batches: it seals old events and merges the full-text indexes."""

import sqlite3
from time import monotonic
from typing import Final

import structlog

from almenara.bus.sealing import Sealer
from almenara.bus.upkeep import PARTS_MERGED, Upkeep, merge_words
from almenara.errors import describe_error

log = structlog.get_logger(__name__)

MERGE_PAUSE: Final = 1.0
TURN: Final = 0.02
"""Seconds of sealing between two groups of batches where it does not pause; to write a group takes
about as long."""


class Maintenance:
    """Steps of both kinds, in turn with batches."""

    def __init__(self, hot_events: int) -> None:
        self._sealer = sealer = Sealer(hot_events)
        self._sealing = Upkeep(sealer.seal, lambda: sealer.pause)
        self._merging = Upkeep(merge_words, lambda: MERGE_PAUSE)
        self._unmerged = 0
        """Groups and blocks that were written since the full-text indexes were merged."""

    @property
    def due_at(self) -> float:
        """When the next step is due, in the time of `time.monotonic`."""
        return min(self._sealing.due_at, self._merging.due_at)

    def note_group(self) -> None:
        """Count a group or a block that was written: each adds a part to a full-text index."""
        self._unmerged += 1
        if self._unmerged >= PARTS_MERGED:
            self._unmerged = 0
            self._merging.wake()

    def wake_sealing(self) -> None:
        """Seal what is due, unless that is under way."""
        self._sealing.wake()

    def restart_sealing(self) -> None:
        """Start again after events were removed: rows that are being sealed may be missing."""
        self._sealing.stop()
        self._sealing.wake()

    def stop(self) -> None:
        """Drop what is under way; nothing is due until the next call of the other methods."""
        self._sealing.stop()
        self._merging.stop()

    def _seal(self, connection: sqlite3.Connection) -> bool:
        """Do a step of sealing if it is due, and return whether it was done."""
        blocks = self._sealer.blocks
        is_done = self._sealing.run_step(connection)
        if self._sealer.blocks > blocks:
            self.note_group()
        return is_done

    def run(self, connection: sqlite3.Connection) -> None:
        """Do the steps that are due; what fails is started again later."""
        try:
            self._merging.run_step(connection)
            end = monotonic() + TURN
            while self._seal(connection) and monotonic() < end:
                pass
        except Exception as error:
            log.warning("the database could not be maintained", reason=describe_error(error))
