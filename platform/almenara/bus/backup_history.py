"""The history in a backup directory: sealed blocks in files that are copied once, and the rest.

A block never changes, except that a retention rule may leave fewer events in it; so its last
sequence and its number of events identify its content. Blocks are copied in files of about
`SEGMENT_BYTES`; a file is removed when the history has none of its blocks any more. Everything else
(rows, counts, names, ids, positions) is copied by each backup, with the list of the blocks that
belong to it. Indexes of words are not copied: a restore builds them.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from almenara.bus.backup_folder import BackupError, BackupFile, BackupFolder, BackupList, check_file
from almenara.bus.block_format import Block, DamagedBlockError
from almenara.bus.blocks import index_block
from almenara.bus.schema import TABLES, VERSION, connect, create_private, require_current
from almenara.bus.text_tables import index_rows
from almenara.bus.writer_thread import DATABASE

SEGMENT: Final = "blocks"
REST: Final = "history"
SEGMENT_BYTES: Final = 64 * 1024**2
COPIED_TABLES: Final = (
    "clock", "event_counts", "event_ids_0", "event_ids_1", "events", "known_resources",
    "name_pairs", "names", "new_event_ids", "observations", "plugin_state", "position",
    "sealed_rows",
)  # fmt: skip
REBUILT_TABLES: Final = (
    "blocks", "block_contents", "block_names", "block_word_counts", "block_words", "events_text",
    "events_text_1", "severe_events",
)  # fmt: skip
"""Tables that a restore fills from the files of blocks and the rows."""
REST_TABLES: Final = (
    f"PRAGMA main.auto_vacuum = INCREMENTAL; BEGIN; {TABLES} DELETE FROM position;"  # nosec B608 # tables of ours
    " CREATE TABLE sealed_blocks (last_sequence INTEGER PRIMARY KEY, events INTEGER NOT NULL);"
    f" PRAGMA main.user_version = {VERSION}; COMMIT;"
)
SEGMENT_TABLES: Final = """
CREATE TABLE segment.blocks (
    last_sequence INTEGER PRIMARY KEY, first_sequence INTEGER NOT NULL, events INTEGER NOT NULL,
    first_time INTEGER NOT NULL, last_time INTEGER NOT NULL, severity INTEGER NOT NULL,
    summary BLOB NOT NULL
);
CREATE TABLE segment.block_contents (block INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE segment.block_names (
    number INTEGER NOT NULL, block INTEGER NOT NULL, PRIMARY KEY (number, block)
) WITHOUT ROWID;
"""
COPY_TO_SEGMENT: Final = (
    "INSERT INTO segment.blocks SELECT * FROM live.blocks WHERE last_sequence = ?",
    "INSERT INTO segment.block_contents SELECT * FROM live.block_contents WHERE block = ?",
    "INSERT INTO segment.block_names SELECT * FROM live.block_names WHERE block = ?",
)
COPY_FROM_SEGMENT: Final = (
    "INSERT INTO main.blocks SELECT * FROM segment.blocks WHERE last_sequence = ?",
    "INSERT INTO main.block_contents SELECT * FROM segment.block_contents WHERE block = ?",
    "INSERT INTO main.block_names SELECT * FROM segment.block_names WHERE block = ?",
)

BlockKey = tuple[int, int]
"""Last sequence and number of events of a block."""


class HistoryBackup(msgspec.Struct):
    """The history in a backup."""

    events: int
    files: list[BackupFile]
    damaged_blocks: int = 0
    """Blocks that were damaged in the database already."""


def back_up_history(source: Path, folder: BackupFolder, *, verify: bool) -> HistoryBackup:
    """Copy the history of a folder, as of one moment, as far as the backup does not have it.

    Raises `FileNotFoundError` where there is no database, `StorageError` for an older schema,
    `SchemaTooNewError` and `sqlite3.Error`.
    """
    database = source / DATABASE
    if not database.exists():
        raise FileNotFoundError(f"{source} has no database; check storage.dir")
    with closing(connect(database, writable=False)) as connection:
        require_current(connection, database)
    segments = {
        file: read_keys(folder.path / file.name)
        for file in folder.find(SEGMENT, DATABASE, verify=verify)
    }
    writer = _SegmentWriter(database, folder)
    known = set().union(*segments.values())
    # Most blocks are copied in transactions of their own: a long one would let the write-ahead log
    # of the database grow.
    for group in writer.list_groups(known):
        segments.update(writer.copy(group))
    known = set().union(*segments.values())
    rest = folder.unfinished(REST)
    last = folder.unfinished(SEGMENT)
    with _attach(rest, live=database, segment=last) as connection:
        connection.executescript(f"{REST_TABLES}{SEGMENT_TABLES}")
        connection.execute("BEGIN")
        keys = list_keys(connection)
        writer.insert(connection, sorted(keys - known))
        events = _copy_rest(connection)
        connection.execute("COMMIT")
        if connection.execute("PRAGMA main.quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the copy is damaged; run `almenara storage check`")
    segments.update(writer.finish(last, keys - known))
    files = [file for file, stored in segments.items() if stored & keys]
    files.append(folder.add(rest, REST, DATABASE))
    return HistoryBackup(events, files, writer.damaged)


def list_keys(connection: sqlite3.Connection) -> set[BlockKey]:
    """Return the blocks of the database that is attached as `live`."""
    return set(connection.execute("SELECT last_sequence, events FROM live.blocks"))


def read_keys(path: Path) -> set[BlockKey]:
    """Return the blocks in a file."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as segment:
        return set(segment.execute("SELECT last_sequence, events FROM blocks"))


class _SegmentWriter:
    """Copies blocks into files, and counts those that are damaged."""

    def __init__(self, database: Path, folder: BackupFolder) -> None:
        self._database, self._folder = database, folder
        self.damaged = 0

    def list_groups(self, known: set[BlockKey]) -> list[list[BlockKey]]:
        """Return the blocks that are not known, in groups for a file each; the last group, which
        does not fill a file, is left out."""
        groups: list[list[BlockKey]] = [[]]
        size = 0
        with closing(connect(self._database, writable=False)) as connection:
            rows = connection.execute(
                "SELECT last_sequence, events, length(content) FROM blocks"
                " JOIN block_contents ON block = last_sequence ORDER BY last_sequence"
            )
            for last, events, length in rows:
                if (last, events) in known:
                    continue
                groups[-1].append((last, events))
                size += length
                if size >= SEGMENT_BYTES:
                    groups.append([])
                    size = 0
        return groups[:-1]

    def copy(self, keys: Sequence[BlockKey]) -> dict[BackupFile, set[BlockKey]]:
        """Copy blocks into a file; those that have changed meanwhile are in it as they are now."""
        unfinished = self._folder.unfinished(SEGMENT)
        with _attach(None, live=self._database, segment=unfinished) as connection:
            connection.executescript(SEGMENT_TABLES)
            connection.execute("BEGIN")
            self.insert(connection, keys)
            connection.execute("COMMIT")
        return self.finish(unfinished, read_keys(unfinished))

    def insert(self, connection: sqlite3.Connection, keys: Sequence[BlockKey]) -> None:
        """Copy blocks between attached databases, in the caller's transaction."""
        ends = [(last,) for last, _ in keys]
        for statement in COPY_TO_SEGMENT:
            connection.executemany(statement, ends)
        for (content,) in connection.execute("SELECT content FROM segment.block_contents"):
            try:
                Block(content)
            except DamagedBlockError:
                self.damaged += 1

    def finish(self, unfinished: Path, keys: set[BlockKey]) -> dict[BackupFile, set[BlockKey]]:
        """Add a file of blocks to the backup; an empty one is removed."""
        if not keys:
            unfinished.unlink()
            return {}
        stem = f"{SEGMENT}-{min(keys)[0]}-{max(keys)[0]}"
        return {self._folder.add(unfinished, stem, DATABASE): keys}


def _copy_rest(connection: sqlite3.Connection) -> int:
    for table in COPIED_TABLES:
        columns = ", ".join(
            name
            for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
        )
        connection.execute(  # nosemgrep: values-written-into-a-statement
            f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM live.{table}"  # nosec B608 # tables of ours
        )
    connection.execute(
        "INSERT INTO main.sealed_blocks SELECT last_sequence, events FROM live.blocks"
    )
    (events,) = connection.execute("SELECT events FROM main.position").fetchone()
    return int(events)


@contextmanager
def _attach(path: Path | None, *, live: Path, segment: Path) -> Iterator[sqlite3.Connection]:
    """Open an unfinished file, with the database that is read and a file of blocks beside it."""
    target = ":memory:" if path is None else path.absolute().as_uri()
    with closing(sqlite3.connect(target, uri=True, isolation_level=None)) as connection:
        connection.execute("ATTACH DATABASE ? AS live", (f"{live.absolute().as_uri()}?mode=ro",))
        connection.execute("ATTACH DATABASE ? AS segment", (segment.absolute().as_uri(),))
        # The files are unfinished until they are synchronized as a whole.
        for schema in ("main", "segment"):
            connection.execute(f"PRAGMA {schema}.journal_mode = OFF")
            connection.execute(f"PRAGMA {schema}.synchronous = OFF")
        yield connection


def restore_history(
    folder: Path, backup: BackupList, target: Path, report: Callable[[int, int], None]
) -> int:
    """Write the history of a backup to the new file `target`; return its events.

    `report` is called with the blocks that are restored, and all of them. Raises `BackupError` and
    `sqlite3.Error`.
    """
    if backup.schema != VERSION:
        raise BackupError(
            f"The backup has the tables of schema {backup.schema}, this version those of {VERSION}."
            " Restore it with the version that made it; then upgrade."
        )
    files = [file for file in backup.files if file.restores == DATABASE]
    segments = [file for file in files if file.name.startswith(f"{SEGMENT}-")]
    (rest,) = (file for file in files if file not in segments)
    create_private(target)
    shutil.copyfile(check_file(folder, rest), target)
    with closing(connect(target, writable=True)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        missing = set(connection.execute("SELECT last_sequence, events FROM sealed_blocks"))
        total = len(missing)
        for file in segments:
            missing -= _restore_segment(connection, check_file(folder, file), missing)
            report(total - len(missing), total)
        if missing:
            raise BackupError(
                f"{len(missing):,} of {total:,} blocks are missing in the backup. Use another."
            )
        _finish_restore(connection)
        (events,) = connection.execute("SELECT events FROM position").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    return int(events)


def _restore_segment(
    connection: sqlite3.Connection, path: Path, missing: set[BlockKey]
) -> set[BlockKey]:
    connection.execute("ATTACH DATABASE ? AS segment", (str(path),))
    try:
        stored = set(connection.execute("SELECT last_sequence, events FROM segment.blocks"))
        keys = sorted(stored & missing)
        connection.execute("BEGIN")
        for statement in COPY_FROM_SEGMENT:
            connection.executemany(statement, [(last,) for last, _ in keys])
        for last, _ in keys:
            index_block(connection, last)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute("DETACH DATABASE segment")
    return set(keys)


def _finish_restore(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute(
        "UPDATE position SET text_changed_at = 0, text_table = 0, text_from = 0,"
        " former_text_from = 0"
    )
    index_rows(connection, 0)
    connection.execute("DROP TABLE sealed_blocks")
    connection.execute("COMMIT")
