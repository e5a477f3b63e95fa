"""The tables of the embedded log, which history reads too."""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from almenara.bus.blocks import index_blocks
from almenara.bus.event_ids import convert_former_ids
from almenara.bus.storage_errors import StorageError
from almenara.bus.text_index import (
    SEARCHED_DATA,
    SEARCHED_DATA_BEFORE_8,
    SEARCHED_SUBJECT,
    decode_text,
    searched_text,
    space_letters,
)
from almenara.errors import AlmenaraError

VERSION: Final = 11
BLOCKS_FROM: Final = 6
"""The first version with blocks."""
LETTERS_SPACED_FROM: Final = 8
"""The first version that indexes the letters of languages without spaces as words."""
IDS_IN_PARTS_FROM: Final = 10
"""The first version with ids of events in parts."""
CHECKPOINT_PAGES: Final = 4_000
"""Pages of the write-ahead log that are moved into the file at once."""

KNOWN_RESOURCES: Final = """
CREATE TABLE known_resources (
    source TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (source, kind, namespace, name)
) WITHOUT ROWID;
"""
NAME_PAIRS: Final = """
CREATE TABLE name_pairs (
    origin INTEGER NOT NULL, type INTEGER NOT NULL, uses INTEGER NOT NULL,
    PRIMARY KEY (origin, type)
) WITHOUT ROWID;
"""
EVENT_COUNTS: Final = """
CREATE TABLE event_counts (
    level INTEGER NOT NULL, origin INTEGER NOT NULL, type INTEGER NOT NULL, slot INTEGER NOT NULL,
    namespace INTEGER NOT NULL, severity INTEGER NOT NULL, events INTEGER NOT NULL,
    PRIMARY KEY (level, origin, type, slot, namespace, severity)
) WITHOUT ROWID;
"""
MERGE_LATER: Final = "INSERT INTO events_text (events_text, rank) VALUES ('automerge', 0);"
"""Parts of the index are merged between batches (`almenara.bus.upkeep`)."""
SECOND_TEXT_TABLE: Final = """
CREATE VIRTUAL TABLE events_text_1 USING fts5 (
    subject, data, content='', columnsize=0
);
INSERT INTO events_text_1 (events_text_1, rank) VALUES ('automerge', 0);
"""
BLOCK_WORDS: Final = """
CREATE VIRTUAL TABLE block_words USING fts5 (
    tokens, content='', detail='none', tokenize='ascii'
);
INSERT INTO block_words (block_words, rank) VALUES ('automerge', 0);
"""
BLOCK_WORD_COUNTS: Final = """
CREATE TABLE IF NOT EXISTS block_word_counts (block INTEGER PRIMARY KEY, counts BLOB NOT NULL);
"""
SEVERE_EVENTS: Final = """
CREATE TABLE IF NOT EXISTS severe_events (
    block INTEGER PRIMARY KEY, severity INTEGER NOT NULL, content BLOB NOT NULL
);
"""
EVENT_IDS: Final = """
CREATE TABLE new_event_ids (number INTEGER PRIMARY KEY, ids BLOB NOT NULL);
CREATE TABLE event_ids_0 (place INTEGER PRIMARY KEY, ids BLOB NOT NULL);
CREATE TABLE event_ids_1 (place INTEGER PRIMARY KEY, ids BLOB NOT NULL);
"""
BLOCKS: Final = f"""
CREATE TABLE blocks (
    last_sequence INTEGER PRIMARY KEY,
    first_sequence INTEGER NOT NULL,
    events INTEGER NOT NULL,
    first_time INTEGER NOT NULL,
    last_time INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    summary BLOB NOT NULL
);
CREATE TABLE block_contents (block INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE INDEX blocks_by_time ON blocks (last_time, first_time);
{BLOCK_WORDS}
{BLOCK_WORD_COUNTS}
{SEVERE_EVENTS}
CREATE TABLE block_names (
    number INTEGER NOT NULL, block INTEGER NOT NULL, PRIMARY KEY (number, block)
) WITHOUT ROWID;
CREATE INDEX block_names_by_block ON block_names (block);
CREATE TABLE sealed_rows (first_sequence INTEGER PRIMARY KEY, last_sequence INTEGER NOT NULL);
"""
TABLES: Final = f"""
{KNOWN_RESOURCES}
CREATE TABLE position (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    last_sequence INTEGER NOT NULL,
    seen_generation INTEGER NOT NULL,
    seen_count INTEGER NOT NULL,
    events INTEGER NOT NULL,
    last_name INTEGER NOT NULL DEFAULT 0,
    names_counted_from INTEGER NOT NULL DEFAULT 0,
    last_name_before_inline INTEGER NOT NULL DEFAULT 0,
    text_changed_at INTEGER NOT NULL DEFAULT 0,
    anchor TEXT,
    uncounted_through INTEGER NOT NULL DEFAULT 0,
    sealed_through INTEGER NOT NULL DEFAULT 0,
    sealed_events INTEGER NOT NULL DEFAULT 0,
    text_table INTEGER NOT NULL DEFAULT 0,
    text_from INTEGER NOT NULL DEFAULT 0,
    former_text_from INTEGER NOT NULL DEFAULT 0
);
INSERT INTO position (only, last_sequence, seen_generation, seen_count, events)
    VALUES (1, 0, 0, 0, 0);
CREATE TABLE names (
    number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, uses INTEGER NOT NULL DEFAULT 0
);
{NAME_PAIRS}
{EVENT_COUNTS}
{BLOCKS}
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    source INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    type INTEGER NOT NULL,
    subject TEXT NOT NULL,
    time INTEGER NOT NULL,
    severity INTEGER NOT NULL,
    correlation TEXT,
    attributes TEXT,
    problem TEXT,
    raw BLOB,
    data TEXT NOT NULL,
    namespace INTEGER,
    checksum INTEGER
);
CREATE INDEX events_by_type ON events (type, sequence, severity);
CREATE INDEX events_by_origin ON events (origin, sequence, severity);
CREATE INDEX events_by_correlation ON events (correlation) WHERE correlation IS NOT NULL;
CREATE INDEX events_by_severity ON events (severity) WHERE severity >= 13;
CREATE INDEX events_by_time ON events (time, severity, type, origin);
CREATE INDEX failures_by_time ON events (time) WHERE severity >= 17;
CREATE VIRTUAL TABLE events_text USING fts5 (
    subject, data, content='', columnsize=0
);
{MERGE_LATER}
{SECOND_TEXT_TABLE}
CREATE TABLE observations (
    sequence INTEGER PRIMARY KEY, time INTEGER NOT NULL, body TEXT NOT NULL, checksum INTEGER
);
CREATE TABLE clock (time INTEGER PRIMARY KEY, sequence INTEGER NOT NULL);
{EVENT_IDS}
CREATE TABLE plugin_state (
    plugin TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (plugin, key)
) WITHOUT ROWID;
"""  # nosec B608 # tables of ours

RENAME_TOLD: Final = """
ALTER TABLE told RENAME TO known_resources;
UPDATE observations
    SET body = json_remove(json_set(body, '$.resource.deleted', json('true')), '$.resource.gone')
    WHERE json_valid(body) AND json_extract(body, '$.resource.gone');
"""
COUNT_NAMES: Final = f"""
{NAME_PAIRS}
INSERT INTO name_pairs SELECT origin, type, count(*) FROM events GROUP BY origin, type;
ALTER TABLE position ADD COLUMN last_name INTEGER NOT NULL DEFAULT 0;
ALTER TABLE position ADD COLUMN names_counted_from INTEGER NOT NULL DEFAULT 0;
ALTER TABLE position ADD COLUMN has_inline_names INTEGER NOT NULL DEFAULT 0;
ALTER TABLE position ADD COLUMN text_changed_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE position ADD COLUMN anchor TEXT;
ALTER TABLE names ADD COLUMN uses INTEGER NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN namespace INTEGER;
ALTER TABLE events ADD COLUMN checksum INTEGER;
ALTER TABLE observations ADD COLUMN checksum INTEGER;
UPDATE position SET
    last_name = (SELECT coalesce(max(number), 0) FROM names),
    names_counted_from = last_sequence,
    text_changed_at = last_sequence;
"""  # nosec B608 # tables of ours
COUNT_EVENTS: Final = f"""
{EVENT_COUNTS}
ALTER TABLE position ADD COLUMN uncounted_through INTEGER NOT NULL DEFAULT 0;
UPDATE position SET uncounted_through = last_sequence;
"""  # nosec B608 # tables of ours
SEAL_EVENTS: Final = f"""
{BLOCKS}
ALTER TABLE position ADD COLUMN sealed_through INTEGER NOT NULL DEFAULT 0;
ALTER TABLE position ADD COLUMN sealed_events INTEGER NOT NULL DEFAULT 0;
{MERGE_LATER}
"""  # nosec B608 # tables of ours
INDEX_BLOCKS: Final = f"DROP TABLE block_words; {BLOCK_WORDS}"
"""What the blocks have is added by `almenara.bus.blocks.index_blocks`."""
ADD_TEXT_TABLE: Final = f"""
{BLOCK_WORD_COUNTS}
{SEVERE_EVENTS}
{SECOND_TEXT_TABLE}
ALTER TABLE position ADD COLUMN text_table INTEGER NOT NULL DEFAULT 0;
ALTER TABLE position ADD COLUMN text_from INTEGER NOT NULL DEFAULT 0;
ALTER TABLE position ADD COLUMN former_text_from INTEGER NOT NULL DEFAULT 0;
"""
RENAME_INLINE_NAMES: Final = (
    "ALTER TABLE position RENAME COLUMN has_inline_names TO last_name_before_inline;"
)
"""A 1 then says that names after the first may be stored as text."""
STEPS: Final = (
    "",
    KNOWN_RESOURCES.replace("known_resources", "told"),
    RENAME_TOLD,
    COUNT_NAMES,
    COUNT_EVENTS,
    SEAL_EVENTS,
    INDEX_BLOCKS,
    INDEX_BLOCKS,
    ADD_TEXT_TABLE,
    EVENT_IDS,
    RENAME_INLINE_NAMES,
)
"""By version: the statements that turn the tables of that version into those of the next."""

POSITIONS: Final = """
UPDATE position SET last_sequence = max(
    last_sequence,
    coalesce((SELECT max(sequence) FROM events), 0),
    coalesce((SELECT max(sequence) FROM observations), 0)
);
"""
"""What makes the position right where something else has written to the file."""
MERGED_PARTS: Final = 8
MERGE_RARELY: Final = "".join(
    f"INSERT INTO {table} ({table}, rank) VALUES ('usermerge', {MERGED_PARTS});"  # nosec B608 # tables of ours
    for table in ("events_text", "events_text_1", "block_words")
)
"""Merge that many parts of a full-text index at once. With half as many, as is usual, each word is
written half as often again."""


class SchemaTooNewError(AlmenaraError):
    """A newer Almenara wrote this database; the text names the file and a remedy."""


def _regexp(expression: str, text: str) -> bool:
    return re.fullmatch(expression, text, re.DOTALL) is not None


def connect(path: Path, *, writable: bool, immutable: bool = False) -> sqlite3.Connection:
    """Return a connection to the log at `path`, for use in one thread at a time.

    `immutable` reads the file alone, where not even the index of the write-ahead log can be made:
    on a full disk after a clean stop, for example.
    """
    if writable:
        create_private(path)
    mode = "immutable=1" if immutable else "mode=ro"
    connection = sqlite3.connect(
        path if writable else f"{path.absolute().as_uri()}?{mode}",
        uri=not writable,
        timeout=10,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.create_function("regexp", 2, _regexp, deterministic=True)
    for function in (searched_text, decode_text, space_letters):
        connection.create_function(function.__name__, 1, function, deterministic=True)
    with closed_on_error(connection):
        _configure(connection, writable)
    return connection


@contextlib.contextmanager
def closed_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    """Close a connection whose database cannot be opened. Raises `sqlite3.DatabaseError` for a
    damaged schema."""
    try:
        yield
    except UnicodeDecodeError:
        # The message of SQLite quotes the schema, in which a byte has changed.
        connection.close()
        raise sqlite3.DatabaseError("malformed database schema: it is not UTF-8") from None
    except BaseException:
        connection.close()
        raise


def _configure(connection: sqlite3.Connection, writable: bool) -> None:
    if not writable:
        connection.execute("PRAGMA cache_size = -2048")
        connection.execute("PRAGMA query_only = ON")
        return
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    # An upstream acknowledgement depends on the commit, so the commit must reach the disk.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    # Retention must work where the disk is full.
    connection.execute("PRAGMA temp_store = MEMORY")


def create_private(path: Path) -> None:
    """Create a file that only its owner may read, or make an existing one such where it is ours.

    SQLite gives the files beside the database the same permissions.
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        path.chmod(0o600)


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the schema's version of a database. Raises `SchemaTooNewError`."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise SchemaTooNewError(
            f"{path} was written by a newer Almenara (schema {version}, this version reads up to"
            f" {VERSION}). Upgrade Almenara, or set storage.dir to another folder."
        )
    return int(version)


def require_current(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StorageError` for a database that was not migrated yet, and `SchemaTooNewError`."""
    version = check_version(connection, path)
    if version < VERSION:
        raise StorageError(
            f"{path} has the older schema {version}. Start Almenara once: it migrates the database."
            " Then run this command again."
        )


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of an empty database, or bring those of an earlier version up to date.

    Raises `SchemaTooNewError`.
    """
    version = check_version(connection, path)
    if version < VERSION:
        script = TABLES if version == 0 else "".join(STEPS[version:])
        connection.executescript(f"BEGIN; {script}")
        try:
            if 0 < version < LETTERS_SPACED_FROM:
                _space_letters(connection)
            if BLOCKS_FROM <= version < LETTERS_SPACED_FROM:
                index_blocks(connection)
            if 0 < version < IDS_IN_PARTS_FROM:
                convert_former_ids(connection)
            connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    _check_columns(connection)
    connection.executescript(f"BEGIN IMMEDIATE; {POSITIONS} {MERGE_RARELY} COMMIT;")


def _space_letters(connection: sqlite3.Connection) -> None:
    """Index events with letters beyond ASCII again, in the form of schema 8."""
    condition = (
        " FROM events WHERE sequence > (SELECT text_changed_at FROM position)"
        " AND (length(subject) < length(CAST(subject AS BLOB))"
        r" OR length(data) < length(CAST(data AS BLOB)) OR instr(data, '\u') > 0)"
    )
    connection.execute(
        "INSERT INTO events_text (events_text, rowid, subject, data)"  # nosec B608 # constant fragments
        f" SELECT 'delete', sequence, subject, {SEARCHED_DATA_BEFORE_8} {condition}"
    )
    connection.execute(
        "INSERT INTO events_text (rowid, subject, data)"  # nosec B608 # constant fragments
        f" SELECT sequence, {SEARCHED_SUBJECT}, {SEARCHED_DATA} {condition}"
    )


def _check_columns(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` where a table or column is missing.

    A changed byte in the stored schema renames it, and SQLite notices only when it is used.
    """
    actual = _read_columns(connection)
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        model.executescript(TABLES)
        missing = _read_columns(model) - actual
    if missing:
        table, column = min(missing)
        raise sqlite3.DatabaseError(
            f"malformed database schema: the table {table} has no column {column}"
        )


def _read_columns(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(
        connection.execute(
            "SELECT tables.name, columns.name FROM sqlite_master tables,"
            " pragma_table_info(tables.name) columns WHERE tables.type = 'table'"
        )
    )
