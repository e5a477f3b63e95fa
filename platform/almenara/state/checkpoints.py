"""Checkpoints of all resources, and what changed in between: the state as of any moment.

They are in a database of their own, `resources.db`. A checkpoint holds every resource, compressed;
a piece of changes holds those of some seconds. The state as of a moment is the checkpoint before it
and the changes up to it. Notes have how far the bus was at a time, and how the sources were. What
is not written when the process is killed is still in the bus: a start reads the newest checkpoint,
the changes after it, and the bus from there.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.bus.schema import closed_on_error, create_private
from almenara.config import CheckpointSettings
from almenara.errors import AlmenaraError
from almenara.signals import Resource
from almenara.state.checkpoint_codec import (
    Change,
    SharedResources,
    decode_changes,
    decode_parts,
    decode_resources,
    encode_parts,
)
from almenara.state.samples import Key
from almenara.units import SECOND

DATABASE: Final = "resources.db"
VERSION: Final = 2
TABLES: Final = """
CREATE TABLE checkpoints (
    time INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE TABLE changes (
    last INTEGER PRIMARY KEY, first INTEGER NOT NULL, sequence INTEGER NOT NULL, body BLOB NOT NULL
);
"""
NOTES: Final = """
CREATE TABLE notes (
    last INTEGER PRIMARY KEY, first INTEGER NOT NULL, sequence INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX notes_by_sequence ON notes (sequence);
"""
STEPS: Final = (TABLES, NOTES)
"""By version: the statements that turn the tables of that version into those of the next."""

SourceNote = Mapping[str, Any]
"""The state of a source, as its supervisor reports it."""


class Note(msgspec.Struct, frozen=True, array_like=True):
    """What was stored at a time."""

    time: int
    """Microseconds since the epoch."""
    sequence: int
    """Of the bus: the last signal that was stored."""
    sources: Sequence[SourceNote] | None = None
    """The sources, where they have changed since the note before."""


class CheckpointsTooNewError(AlmenaraError):
    """A newer Almenara wrote this database; the text names the file and a remedy."""


class StoredState(msgspec.Struct, frozen=True):
    """Resources as of a moment."""

    time: int
    """Of the checkpoint, or of the last change after it."""
    sequence: int
    """Of the bus: everything up to it is in the state."""
    resources: dict[Key, Resource]


class CheckpointDatabase:
    """The database; its methods block, and are for one thread at a time."""

    def __init__(self, path: Path, settings: CheckpointSettings) -> None:
        """Raises `CheckpointsTooNewError`, `OSError` and `sqlite3.Error`."""
        self.path, self._settings = path, settings
        create_private(path)
        self._connection = sqlite3.connect(
            path, timeout=10, isolation_level=None, check_same_thread=False
        )
        with closed_on_error(self._connection):
            self._open()

    def _open(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        # What a power failure takes is read again from the bus, so no commit waits for the disk.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        connection.execute("PRAGMA cache_size = -1024")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise CheckpointsTooNewError(
                f"{self.path} was written by a newer Almenara (schema {version}, this version reads"
                f" up to {VERSION}). Upgrade Almenara, or remove the file."
            )
        if version < VERSION:
            script = "".join(STEPS[version:])
            connection.executescript(f"BEGIN; {script} PRAGMA user_version = {VERSION}; COMMIT;")
        for table, column in (("checkpoints", "time"), ("changes", "last"), ("notes", "last")):
            connection.execute(f"SELECT max({column}) FROM {table}").fetchone()  # nosec B608 # the tables above

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def store_changes(self, changes: list[Change], sequence: int) -> None:
        """Store changes in their order; `sequence` is that of the bus after them."""
        self._connection.execute(
            "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?)",
            (changes[-1][0], changes[0][0], sequence, encode_parts(changes)),
        )

    def store_notes(self, notes: Sequence[Note]) -> None:
        """Store notes in their order; the first has the sources."""
        self._connection.execute(
            "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?)",
            (notes[-1].time, notes[0].time, notes[-1].sequence, encode_parts(notes)),
        )

    def read_notes(self, since: int, until: int) -> list[Note]:
        """Return the notes of the pieces that have any between two times, both included, and of
        the last piece before."""
        rows = self._connection.execute(
            "SELECT body FROM notes WHERE last <= ? AND last >= coalesce("
            "(SELECT max(last) FROM notes WHERE first <= ?), 0) ORDER BY last",
            (self._last_piece(until), since),
        )
        return [
            note for (body,) in rows for part in decode_parts(body, list[Note]) for note in part
        ]

    def read_note_of(self, sequence: int) -> Note | None:
        """Return the first note that has a signal of the bus; None where it is not noted."""
        row = self._connection.execute(
            "SELECT body FROM notes WHERE sequence >= ? ORDER BY sequence, last LIMIT 1",
            (sequence,),
        ).fetchone()
        if row is None:
            return None
        notes = (note for part in decode_parts(row[0], list[Note]) for note in part)
        return next((note for note in notes if note.sequence >= sequence), None)

    def _last_piece(self, until: int) -> int:
        row = self._connection.execute(
            "SELECT max(last) FROM notes WHERE first <= ?", (until,)
        ).fetchone()
        return int(row[0] or 0)

    def read_earliest(self) -> int | None:
        """Return the time of the first checkpoint; None without one."""
        row = self._connection.execute("SELECT min(time) FROM checkpoints").fetchone()
        return None if row is None else row[0]

    def read_changes(
        self, after: int, until: int, shared: SharedResources | None = None
    ) -> list[Change]:
        """Return the changes after one moment and up to another, in their order."""
        pieces = self._connection.execute(
            "SELECT body FROM changes WHERE last > ? AND first <= ? ORDER BY last", (after, until)
        )
        decode = decode_changes if shared is None else shared.decode_changes
        return [change for (piece,) in pieces for change in decode(piece, after, until)]

    def has_checkpoint(self, after: int, until: int) -> bool:
        """Whether a checkpoint was written after one moment and up to another."""
        row = self._connection.execute(
            "SELECT 1 FROM checkpoints WHERE time > ? AND time <= ? LIMIT 1", (after, until)
        ).fetchone()
        return row is not None

    def store_checkpoint(self, time: int, sequence: int, resources: Iterable[Resource]) -> None:
        """Store every resource as of a moment, and remove what is older than it may be."""
        self._connection.execute(
            "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)",
            (time, sequence, encode_parts(list(resources))),
        )
        self._remove(time)

    def read_latest(self) -> StoredState | None:
        """Return the newest state; None without a checkpoint."""
        return self.read_at(2**62)

    def read_checkpoint(
        self, time: int, shared: SharedResources | None = None
    ) -> StoredState | None:
        """Return the last checkpoint up to a moment; None for one before the first."""
        row = self._connection.execute(
            "SELECT time, sequence, body FROM checkpoints WHERE time <= ?"
            " ORDER BY time DESC LIMIT 1",
            (time,),
        ).fetchone()
        if row is None:
            return None
        start, sequence, body = row
        decoded = decode_resources(body) if shared is None else shared.decode_resources(body)
        return StoredState(start, sequence, {resource.key: resource for resource in decoded})

    def read_at(self, time: int) -> StoredState | None:
        """Return the state as of a moment; None for one before the first checkpoint."""
        checkpoint = self.read_checkpoint(time)
        if checkpoint is None:
            return None
        start, sequence, resources = checkpoint.time, checkpoint.sequence, checkpoint.resources
        reached = start
        pieces = self._connection.execute(
            "SELECT last, sequence, body FROM changes WHERE last > ? AND first <= ? ORDER BY last",
            (start, time),
        )
        for reached, sequence, piece in pieces:  # noqa: B007
            apply_changes(resources, decode_changes(piece, start, time), start, time)
        return StoredState(reached, sequence, resources)

    def _remove(self, time: int) -> None:
        """Remove checkpoints beyond the age, and the oldest beyond the size; the newest stays."""
        connection, settings = self._connection, self._settings
        earliest = time - int(settings.retention_age * SECOND)
        sizes = connection.execute(
            "SELECT time, length(body) + (SELECT coalesce(sum(length(body)), 0) FROM changes"
            " WHERE last > checkpoints.time AND last <= coalesce((SELECT min(later.time)"
            " FROM checkpoints later WHERE later.time > checkpoints.time), 1 << 62))"
            " + (SELECT coalesce(sum(length(body)), 0) FROM notes"
            " WHERE last > checkpoints.time AND last <= coalesce((SELECT min(later.time)"
            " FROM checkpoints later WHERE later.time > checkpoints.time), 1 << 62))"
            " FROM checkpoints ORDER BY time DESC"
        ).fetchall()
        total, first = 0, time
        for start, size in sizes:
            total += size
            if total > settings.retention_size and start < first:
                break
            first = start
            if start < earliest:
                # The one before the age still has the state as of then.
                break
        connection.execute("DELETE FROM checkpoints WHERE time < ?", (first,))
        connection.execute("DELETE FROM changes WHERE last <= ?", (first,))
        connection.execute("DELETE FROM notes WHERE last < ?", (first,))
        connection.execute("PRAGMA incremental_vacuum").fetchall()


def apply_changes(
    resources: dict[Key, Resource], changes: Iterable[Change], after: int, until: int
) -> None:
    """Apply changes after one moment and up to another."""
    for time, resource in changes:
        if after < time <= until:
            if resource.deleted:
                resources.pop(resource.key, None)
            else:
                resources[resource.key] = resource
