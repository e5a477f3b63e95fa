"""Values in a file of SQLite: for one process, and for the commands beside it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from almenara.errors import AlmenaraError, Unavailable, describe_error
from almenara.shared_log import ValueChange
from almenara.state_store import StoredValue

FORMAT: Final = 3
BUSY_TIMEOUT: Final = 10.0
"""Seconds that a statement waits for another process."""
WATCH_INTERVAL: Final = 0.5
"""Seconds between two looks at the file, which commands change as well."""
TABLES: Final = (
    "CREATE TABLE state_values (key TEXT PRIMARY KEY, value BLOB NOT NULL,"
    " revision INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE last_revision (revision INTEGER NOT NULL)",
    "INSERT INTO last_revision VALUES (0)",
)

OF_PREFIX: Final = "WHERE key >= ?1 AND key < ?1 || char(1114111)"
"""Selects by the start of the key, with the index of the keys."""

Changes = Mapping[str, StoredValue | None]
"""Values by key; None deletes one."""


class FormatError(AlmenaraError):
    """A file was written by a newer version."""


class FormerTables(msgspec.Struct, frozen=True):
    """The tables of a file of an earlier format: they are moved into values once."""

    names: tuple[str, ...]
    read: Callable[[sqlite3.Connection], Mapping[str, bytes]]
    """Returns what they contain as values; a file of an earlier format may have some of them."""


class ValueFile:
    """The file. Every call opens it, so that any process and thread may use it.

    Each method raises `sqlite3.Error`, and `FormatError` for a file of a newer version.
    """

    def __init__(self, path: Path, former: FormerTables) -> None:
        self.path, self._former = path, former

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file; it is created where it does not exist."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)
        with closing(
            sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA synchronous = FULL")
            if self._read_format(connection) < FORMAT:
                with _transaction(connection):
                    self._migrate(connection)
            yield connection

    def _read_format(self, connection: sqlite3.Connection) -> int:
        (number,) = connection.execute("PRAGMA user_version").fetchone()
        if number > FORMAT:
            raise FormatError(
                f"{self.path} was written by a newer version of Almenara (format {number}); this"
                f" one reads formats up to {FORMAT}. Upgrade, or restore a backup."
            )
        return int(number)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        # Read again: another process may have been faster.
        number = self._read_format(connection)
        if number == FORMAT:
            return
        values = self._former.read(connection) if number else {}
        for statement in TABLES:
            connection.execute(statement)
        for key, value in values.items():
            _write(connection, key, StoredValue(value, _next_revision(connection)))
        for name in self._former.names if number else ():
            connection.execute(f"DROP TABLE IF EXISTS {name}")  # nosec B608 # constant names
        connection.execute(f"PRAGMA user_version = {FORMAT}")

    def stamp(self) -> tuple[int, int]:
        """Return modification time and size, which change with every change of the file."""
        try:
            status = self.path.stat()
        except OSError:
            return 0, 0
        return status.st_mtime_ns, status.st_size

    def read(self, prefix: str = "") -> dict[str, StoredValue]:
        """Return the values whose keys begin with a prefix, sorted by key."""
        if not self.path.exists():
            return {}
        with self._open() as connection:
            rows = connection.execute(
                f"SELECT key, value, revision FROM state_values {OF_PREFIX} ORDER BY key",  # nosec B608
                (prefix,),
            ).fetchall()
        return {key: StoredValue(bytes(value), revision) for key, value, revision in rows}

    def read_keys(self, keys: Iterable[str]) -> dict[str, StoredValue]:
        """Return the values of some keys, as far as they exist."""
        if not self.path.exists():
            return {}
        with self._open() as connection:
            return _read(connection, keys)

    def read_changes(
        self, prefixes: Iterable[str], known: Mapping[str, int]
    ) -> tuple[dict[str, int], dict[str, StoredValue]]:
        """Return the revisions of the values whose keys begin with one of some prefixes, and those
        of the values that have another revision than the known one."""
        if not self.path.exists():
            return {}, {}
        revisions: dict[str, int] = {}
        with self._open() as connection, _transaction(connection, is_writing=False):
            for prefix in prefixes:
                statement = f"SELECT key, revision FROM state_values {OF_PREFIX}"  # nosec B608
                revisions.update(connection.execute(statement, (prefix,)))
            changed = [key for key, revision in revisions.items() if known.get(key) != revision]
            return revisions, _read(connection, changed)

    def put(self, key: str, value: bytes, revision: int) -> int | None:
        """As `StateStore.put`."""
        with self._open() as connection, _transaction(connection):
            if (_revision_of(connection, key) or 0) != revision:
                return None
            stored = StoredValue(value, _next_revision(connection))
            _write(connection, key, stored)
            return stored.revision

    def delete(self, key: str, revision: int) -> bool:
        """As `StateStore.delete`."""
        with self._open() as connection, _transaction(connection):
            if _revision_of(connection, key) != revision:
                return False
            _write(connection, key, None)
            return True

    def write(self, changes: Changes) -> None:
        """Write values with the revisions that they have elsewhere, in one transaction."""
        with self._open() as connection, _transaction(connection):
            for key, stored in changes.items():
                _write(connection, key, stored)

    def set_all(self, values: Mapping[str, bytes | None]) -> None:
        """Set values whatever their revisions, in one transaction; None deletes one."""
        self.update((), lambda _: values)

    def update(
        self,
        keys: Iterable[str],
        change: Callable[[Mapping[str, bytes]], Mapping[str, bytes | None]],
    ) -> None:
        """Set what `change` returns for the values of some keys; None deletes one. All of it is one
        transaction, so that no other process changes them in between."""
        with self._open() as connection, _transaction(connection):
            stored = {key: known.value for key, known in _read(connection, keys).items()}
            values = change(stored)
            revision = _reserve_revisions(connection, len(values)) if values else 0
            for number, (key, value) in enumerate(values.items()):
                new = None if value is None else StoredValue(value, revision + number)
                _write(connection, key, new)

    def remove(self, key: str) -> bool:
        """Delete a value whatever its revision; return whether it existed."""
        with self._open() as connection, _transaction(connection):
            existed = _revision_of(connection, key) is not None
            _write(connection, key, None)
            return existed


class FileStateStore:
    """The values of a file, for a process that has them alone."""

    def __init__(self, file: ValueFile) -> None:
        self.file = file

    async def get(self, key: str) -> StoredValue | None:
        return (await self.list_values(key)).get(key)

    async def list_values(self, prefix: str = "") -> dict[str, StoredValue]:
        with _available(self.file.path):
            return await asyncio.to_thread(self.file.read, prefix)

    async def put(self, key: str, value: bytes, revision: int) -> int | None:
        with _available(self.file.path):
            return await asyncio.to_thread(self.file.put, key, value, revision)

    async def delete(self, key: str, revision: int) -> bool:
        with _available(self.file.path):
            return await asyncio.to_thread(self.file.delete, key, revision)

    async def watch(self, prefix: str = "") -> AsyncIterator[ValueChange | None]:
        stamp, known = self.file.stamp(), await self.list_values(prefix)
        for key, stored in known.items():
            yield ValueChange(key, stored.value, stored.revision)
        yield None
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            if (newest := self.file.stamp()) == stamp:
                continue
            stamp, before, known = newest, known, await self.list_values(prefix)
            for change in list_changes(before, known):
                yield change


def list_changes(
    before: Mapping[str, StoredValue], after: Mapping[str, StoredValue]
) -> list[ValueChange]:
    """Return what has changed between two states of the values."""
    changes = [
        ValueChange(key, stored.value, stored.revision)
        for key, stored in after.items()
        if before.get(key) != stored
    ]
    removed = [ValueChange(key, None, before[key].revision) for key in before if key not in after]
    return removed + changes


@contextmanager
def _available(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(
            f"{path} cannot be used: {describe_error(error)}. Check the disk and its permissions."
        ) from error


@contextmanager
def _transaction(connection: sqlite3.Connection, *, is_writing: bool = True) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE" if is_writing else "BEGIN DEFERRED")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _write(connection: sqlite3.Connection, key: str, stored: StoredValue | None) -> None:
    if stored is None:
        connection.execute("DELETE FROM state_values WHERE key = ?", (key,))
    else:
        connection.execute(
            "INSERT OR REPLACE INTO state_values VALUES (?, ?, ?)",
            (key, stored.value, stored.revision),
        )


def _read(connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, StoredValue]:
    values: dict[str, StoredValue] = {}
    for key in keys:
        statement = "SELECT value, revision FROM state_values WHERE key = ?"
        for value, revision in connection.execute(statement, (key,)):
            values[key] = StoredValue(bytes(value), revision)
    return values


def _revision_of(connection: sqlite3.Connection, key: str) -> int | None:
    row = connection.execute("SELECT revision FROM state_values WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else None


def _next_revision(connection: sqlite3.Connection) -> int:
    # Values that were shared have the revisions of where they were shared.
    connection.execute(
        "UPDATE last_revision SET revision = 1 + max(revision,"
        " (SELECT coalesce(max(revision), 0) FROM state_values))"
    )
    (revision,) = connection.execute("SELECT revision FROM last_revision").fetchone()
    return int(revision)


def _reserve_revisions(connection: sqlite3.Connection, count: int) -> int:
    """Return the first of some new revisions. Values with revisions of elsewhere are in no file
    that this is used for: to find the highest of them takes as long as to read all values."""
    connection.execute("UPDATE last_revision SET revision = revision + ?", (count,))
    (revision,) = connection.execute("SELECT revision FROM last_revision").fetchone()
    return int(revision) - count + 1
