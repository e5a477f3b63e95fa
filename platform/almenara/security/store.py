"""`access.db`: the hash of the access token, API tokens and sessions.

A file of its own, so that commands can change it beside a running Almenara, and so that a copy of
the history contains no credentials. Only hashes and digests of secrets are stored.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.scope import Grant
from almenara.security.identity import User

FILE: Final = "access.db"
VERSION: Final = 1
BUSY_TIMEOUT: Final = 10.0
"""Seconds that a statement waits for another process."""
TABLES: Final = """
CREATE TABLE access_token (only INTEGER PRIMARY KEY CHECK (only = 1), hash TEXT NOT NULL,
    created INTEGER NOT NULL);
CREATE TABLE api_tokens (id TEXT PRIMARY KEY, name TEXT NOT NULL, hash TEXT NOT NULL,
    body TEXT NOT NULL);
CREATE TABLE sessions (id TEXT PRIMARY KEY, body TEXT NOT NULL);
"""


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """An API token: its role, its scope and its expiry. All times in microseconds.

    New fields have defaults, so that tokens of earlier versions stay valid.
    """

    id: str
    name: str
    hash: str
    role: int
    grants: tuple[Grant, ...]
    created: int
    expires: int
    created_by: str = msgspec.field(name="by")
    intake: str = ""
    """The intake that it may push to and do nothing else; empty for a token that reads."""


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A session as it is stored. All times in microseconds.

    Renamed fields keep their stored name, so that sessions of earlier versions stay valid.
    """

    id: str
    """From the digest of the first cookie; stays the same when the cookie rotates."""
    digest: str
    """The digest of the current cookie."""
    csrf: str
    user: User = msgspec.field(name="person")
    created: int
    last_seen: int = msgspec.field(name="seen")
    expires: int
    address: str
    agent: str
    access_token_mark: str = msgspec.field(default="", name="access")
    """Identifies the access token that started it: a new access token ends the session."""


class StoredAccess(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file."""

    access_hash: str = ""
    tokens: tuple[ApiToken, ...] = ()
    sessions: tuple[SessionRecord, ...] = ()


class AccessStore:
    """Reads and writes the file. Every call opens it, so that any process and thread may use it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for the length of a block; it is created where it does not exist."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
        with closing(
            sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.executescript(
                    "BEGIN IMMEDIATE; "
                    + TABLES.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
                    + f" PRAGMA user_version = {VERSION}; COMMIT;"
                )
            yield connection

    def stamp(self) -> tuple[int, int]:
        """Return modification time and size, which change with every change of the file."""
        try:
            status = self.path.stat()
        except OSError:
            return 0, 0
        return status.st_mtime_ns, status.st_size

    def read(self) -> StoredAccess:
        """Return the content of the file; empty where it does not exist."""
        if not self.path.exists():
            return StoredAccess()
        with self.open() as connection:
            token = connection.execute("SELECT hash FROM access_token").fetchone()
            return StoredAccess(
                access_hash=token[0] if token else "",
                tokens=_read_table(connection, "api_tokens", ApiToken),
                sessions=_read_table(connection, "sessions", SessionRecord),
            )

    def set_access_hash(self, access_hash: str, created: int) -> None:
        """Replace the hash of the access token."""
        with self.open() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO access_token VALUES (1, ?, ?)", (access_hash, created)
            )

    def add_token(self, token: ApiToken) -> None:
        """Insert an API token."""
        body = msgspec.json.encode(token).decode()
        with self.open() as connection:
            connection.execute(
                "INSERT INTO api_tokens VALUES (?, ?, ?, ?)",
                (token.id, token.name, token.hash, body),
            )

    def remove_token(self, token_id: str) -> bool:
        """Delete an API token; return whether it existed."""
        with self.open() as connection:
            cursor = connection.execute("DELETE FROM api_tokens WHERE id = ?", (token_id,))
            return cursor.rowcount > 0

    def put_session(self, session: SessionRecord) -> None:
        """Insert or replace a session."""
        with self.open() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?)",
                (session.id, msgspec.json.encode(session).decode()),
            )

    def remove_session(self, session_id: str) -> bool:
        """Delete a session; return whether it existed."""
        with self.open() as connection:
            cursor = connection.execute("DELETE FROM sessions WHERE id = ?", (session_id,))
            return cursor.rowcount > 0


def _read_table(connection: sqlite3.Connection, table: str, kind: Any) -> tuple[Any, ...]:
    decode = msgspec.json.Decoder(kind).decode
    return tuple(decode(body) for (body,) in connection.execute(f"SELECT body FROM {table}"))  # nosec B608 # nosemgrep: values-written-into-a-statement # a table of ours
