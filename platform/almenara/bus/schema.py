"""The tables of the embedded log, which history reads too."""

import re
import sqlite3
from pathlib import Path
from typing import Final

from almenara.errors import AlmenaraError

VERSION: Final = 3

KNOWN_RESOURCES: Final = """
CREATE TABLE known_resources (
    source TEXT NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (source, kind, namespace, name)
) WITHOUT ROWID;
"""
RENAME_TOLD: Final = """
ALTER TABLE told RENAME TO known_resources;
UPDATE observations
    SET body = json_remove(json_set(body, '$.resource.deleted', json('true')), '$.resource.gone')
    WHERE json_extract(body, '$.resource.gone');
"""
TABLES: Final = f"""
{KNOWN_RESOURCES}
CREATE TABLE position (
    only INTEGER PRIMARY KEY CHECK (only = 1), last_sequence INTEGER NOT NULL,
    seen_generation INTEGER NOT NULL, seen_count INTEGER NOT NULL, events INTEGER NOT NULL
);
INSERT INTO position VALUES (1, 0, 0, 0, 0);
CREATE TABLE names (number INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
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
    data TEXT NOT NULL
);
CREATE INDEX events_by_type ON events (type, sequence, severity);
CREATE INDEX events_by_origin ON events (origin, sequence, severity);
CREATE INDEX events_by_correlation ON events (correlation) WHERE correlation IS NOT NULL;
CREATE INDEX events_by_severity ON events (severity) WHERE severity >= 13;
CREATE INDEX events_by_time ON events (time, severity, type, origin);
CREATE INDEX failures_by_time ON events (time) WHERE severity >= 17;
CREATE VIRTUAL TABLE events_text USING fts5 (
    subject, data, content=''
);
CREATE TABLE observations (sequence INTEGER PRIMARY KEY, time INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE clock (time INTEGER PRIMARY KEY, sequence INTEGER NOT NULL);
CREATE TABLE seen_0 (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE seen_1 (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE plugin_state (
    plugin TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (plugin, key)
) WITHOUT ROWID;
"""  # nosec B608 # tables of ours
STEPS: Final = ("", KNOWN_RESOURCES.replace("known_resources", "told"), RENAME_TOLD)
"""By version: the statements that turn the tables of that version into those of the next."""

INDEXED_DATA: Final = r"replace(replace(data, '\n', '  '), '\t', '  ')"
"""The text of `data` that is searched: JSON's escapes for line ends would stick to the words."""


class SchemaTooNewError(AlmenaraError):
    """A newer Almenara wrote this database; the text says which file and what to do."""


def _regexp(expression: str, text: str) -> bool:
    return re.fullmatch(expression, text, re.DOTALL) is not None


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """A connection to the log at `path`, for use in one thread at a time."""
    connection = sqlite3.connect(
        path if writable else f"file:{path}?mode=ro",
        uri=not writable,
        timeout=10,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    connection.create_function("regexp", 2, _regexp, deterministic=True)
    if writable:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        # An upstream acknowledgement hangs on the commit, so the commit must reach the disk.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
    else:
        connection.execute("PRAGMA cache_size = -2048")
        connection.execute("PRAGMA query_only = ON")
    return connection


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of an empty database, or bring those of an earlier version up to date.

    Raises `SchemaTooNewError`.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise SchemaTooNewError(
            f"{path} was written by a newer Almenara (schema {version}, this one knows {VERSION});"
            " upgrade Almenara or point storage.dir at another folder"
        )
    if version == VERSION:
        return
    script = TABLES if version == 0 else "".join(STEPS[version:])
    connection.executescript(f"BEGIN; {script} PRAGMA user_version = {VERSION}; COMMIT;")
