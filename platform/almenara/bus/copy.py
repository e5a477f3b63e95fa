"""Moves the history of a folder between an embedded bus and a shared one. Nothing may use either.

The database stays where it is, since the index of a replica and an embedded log are the same. A
shared log starts at a position beyond the sequences of the database; an embedded log continues
after those of the shared one.
"""

import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from almenara.bus.folder import FolderLock
from almenara.bus.log_state import OWNER, POSITION, SNAPSHOT, decode_position
from almenara.bus.schema import connect, migrate
from almenara.bus.snapshot_writer import SnapshotWriter
from almenara.bus.storage_errors import StorageError
from almenara.bus.work import PLACE_BITS, LogPosition
from almenara.bus.writer_thread import DATABASE
from almenara.config import BusSettings
from almenara.shared_log import LogBounds, SharedLog

READ_POSITION: Final = "SELECT value FROM plugin_state WHERE plugin = ? AND key = ?"


class CopyResult(msgspec.Struct, frozen=True):
    """What a copy has done."""

    description: str
    """A sentence for the operator."""
    is_done_before: bool = False
    """Whether it has changed nothing, as replicas use the shared log already."""


async def copy_to_shared(folder: Path, shared_log: SharedLog, settings: BusSettings) -> CopyResult:
    """Create the shared log behind the database of a folder, which becomes that of its first
    replica, and a snapshot for all others.

    Where an earlier call was interrupted, only the snapshot is written, and nothing where replicas
    use the log already. A database of another shared log, such as a backup of a replica whose log
    is lost, continues on this one. Raises `FileNotFoundError`, `FolderInUseError`, `StorageError`,
    `Unavailable` and `ValueError`.
    """
    lock, path = FolderLock.acquire(folder), _database_in(folder)
    try:
        with closing(connect(path, writable=True)) as connection:
            migrate(connection, path)
            position = _read_position(connection)
            bounds = None if position is None else await _read_bounds(shared_log)
            if position is None or bounds is None or position.identity != bounds.identity:
                # Also that of a log that was lost, such as a backup of a replica.
                position = await _create_log(connection, shared_log)
            elif position.position != bounds.last:
                return CopyResult(_describe_log_in_use(folder, position, bounds), True)
        replica = settings.replica or socket.gethostname()
        manifest = await SnapshotWriter(folder, shared_log, settings, replica).write(None)
    finally:
        lock.release()
    return CopyResult(
        f"The shared log continues after message {position.position:,}, where the history in"
        f" {folder} ends. Replicas with an empty folder start from a snapshot of"
        f" {manifest.size:,} bytes."
    )


async def _create_log(connection: sqlite3.Connection, shared_log: SharedLog) -> LogPosition:
    """Create the log behind the sequences of a database, and return the position of that."""
    (last,) = connection.execute("SELECT last_sequence FROM position").fetchone()
    first = (int(last) >> PLACE_BITS) + 2
    await shared_log.prepare(first)
    identity = (await _read_bounds(shared_log)).identity
    position = LogPosition(identity=identity, position=first - 1, stored_at=0, resume_at=first)
    connection.execute(
        "INSERT OR REPLACE INTO plugin_state VALUES (?, ?, ?)",
        (OWNER, POSITION, msgspec.json.encode(position)),
    )
    connection.execute("DELETE FROM plugin_state WHERE plugin = ? AND key = ?", (OWNER, SNAPSHOT))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return position


async def copy_to_embedded(folder: Path, shared_log: SharedLog) -> str:
    """Make the index of a replica the database of an embedded bus; return the result in a
    sentence.

    Raises `FileNotFoundError`, `FolderInUseError`, `StorageError` and `Unavailable`; nothing was
    changed then.
    """
    lock, path = FolderLock.acquire(folder), _database_in(folder)
    try:
        with closing(connect(path, writable=True)) as connection:
            migrate(connection, path)
            position = _read_position(connection)
            if position is None:
                raise StorageError(f"{path} is of an embedded bus already; nothing was changed.")
            async with shared_log.connect() as session:
                bounds = await session.bounds()
            if (position.identity, position.position) != (bounds.identity, bounds.last):
                raise StorageError(
                    f"{path} has the shared log up to message {position.position:,}, and that ends"
                    f" at message {bounds.last:,}. Start this replica until it is ready, and stop"
                    " it after all others; nothing was changed."
                )
            connection.execute("DELETE FROM plugin_state WHERE plugin = ?", (OWNER,))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        lock.release()
    return (
        f"The database in {folder} has the shared log up to message {position.position:,} and"
        " continues without it."
    )


def _describe_log_in_use(folder: Path, position: LogPosition, bounds: LogBounds) -> str:
    """Return why nothing is to be done for a database that was copied before, where that is so.

    Raises `StorageError` where the database was used since, or the log has lost messages.
    """
    to_go_back = (
        f"To go back to the history in {folder}, stop all replicas and delete the stream first, or"
        " set another one in bus.settings."
    )
    if bounds.last < position.position:
        raise StorageError(
            f"the shared log ends at message {bounds.last:,}, and the history in {folder} has"
            f" message {position.position:,} of it: the log has lost its newest messages."
            f" {to_go_back} Nothing was changed."
        )
    if position.stored_at:
        raise StorageError(
            f"the history in {folder} has the shared log up to message {position.position:,}, and"
            f" that goes on to message {bounds.last:,}. Start a replica with this folder: it reads"
            f" the rest. {to_go_back} Nothing was changed."
        )
    return (
        f"The history in {folder} was moved to the shared log before, which has"
        f" {bounds.last - position.position:,} messages since; nothing was changed. {to_go_back}"
    )


async def _read_bounds(shared_log: SharedLog) -> LogBounds:
    async with shared_log.connect() as session:
        return await session.bounds()


def has_embedded_history(path: Path) -> bool:
    """Whether a database has signals that no replica could have applied from a shared log.

    Raises `sqlite3.Error`.
    """
    with closing(connect(path, writable=False)) as connection:
        position = _read_position(connection)
        end = 0 if position is None else position.end
        (last,) = connection.execute("SELECT last_sequence FROM position").fetchone()
        return bool(last > end)


def _read_position(connection: sqlite3.Connection) -> LogPosition | None:
    row = connection.execute(READ_POSITION, (OWNER, POSITION)).fetchone()
    return decode_position(row[0]) if row else None


def _database_in(folder: Path) -> Path:
    path = folder / DATABASE
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no database; check storage.dir")
    return path
