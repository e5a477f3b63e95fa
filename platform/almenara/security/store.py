"""The file of what gives access: the access token's hash, API tokens, sessions.

A file of its own, so that commands can change it beside a running Almenara, and so that a copy of
the history holds nothing of it. What is kept of a secret cannot be turned back into it.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.scope import Grant
from almenara.security.identity import Person

FILE: Final = "access.db"
VERSION: Final = 1
TABLES: Final = """
CREATE TABLE access_token (only INTEGER PRIMARY KEY CHECK (only = 1), hash TEXT NOT NULL,
    created INTEGER NOT NULL);
CREATE TABLE api_tokens (id TEXT PRIMARY KEY, name TEXT NOT NULL, hash TEXT NOT NULL,
    body TEXT NOT NULL);
CREATE TABLE sessions (id TEXT PRIMARY KEY, body TEXT NOT NULL);
"""


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token for a script; what it may do and see, and until when."""

    id: str
    name: str
    hash: str
    role: int
    grants: tuple[Grant, ...]
    created: int
    """Microseconds since the epoch."""
    expires: int
    """Microseconds since the epoch."""
    by: str
    """Who made it."""


class KeptSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session as it outlives a restart."""

    id: str
    """The digest of the first cookie; stays when the cookie changes."""
    digest: str
    """The digest of the cookie that is good now."""
    csrf: str
    person: Person
    created: int
    seen: int
    expires: int
    address: str
    agent: str
    access: str = ""
    """Of the access token it came from, a digest of its hash: a new token ends it."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """All that the file holds."""

    access_hash: str = ""
    tokens: tuple[ApiToken, ...] = ()
    sessions: tuple[KeptSession, ...] = ()


class Store:
    """The file; every call opens it, so that any process and thread may make one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
        with closing(sqlite3.connect(self.path, timeout=10, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.executescript(
                    "BEGIN IMMEDIATE; "
                    + TABLES.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")
                    + f" PRAGMA user_version = {VERSION}; COMMIT;"
                )
            yield connection

    def stamp(self) -> tuple[int, int]:
        """What changes with every change of the file."""
        try:
            found = self.path.stat()
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_size

    def read(self) -> Kept:
        """All that the file holds."""
        if not self.path.exists():
            return Kept()
        with self._open() as connection:
            token = connection.execute("SELECT hash FROM access_token").fetchone()
            return Kept(
                access_hash=token[0] if token else "",
                tokens=_decoded(connection, "api_tokens", ApiToken),
                sessions=_decoded(connection, "sessions", KeptSession),
            )

    def set_access_hash(self, hashed: str, created: int) -> None:
        """Replace the access token's hash."""
        with self._open() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO access_token VALUES (1, ?, ?)", (hashed, created)
            )

    def add_token(self, token: ApiToken) -> None:
        """Keep an API token."""
        body = msgspec.json.encode(token).decode()
        with self._open() as connection:
            connection.execute(
                "INSERT INTO api_tokens VALUES (?, ?, ?, ?)",
                (token.id, token.name, token.hash, body),
            )

    def remove_token(self, token_id: str) -> bool:
        """Forget an API token; whether there was one."""
        with self._open() as connection:
            done = connection.execute("DELETE FROM api_tokens WHERE id = ?", (token_id,))
            return done.rowcount > 0

    def keep_session(self, session: KeptSession) -> None:
        """Keep a session, or what became of it."""
        with self._open() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?)",
                (session.id, msgspec.json.encode(session).decode()),
            )

    def remove_session(self, session_id: str) -> bool:
        """Forget a session; whether there was one."""
        with self._open() as connection:
            done = connection.execute("DELETE FROM sessions WHERE id = ?", (session_id,))
            return done.rowcount > 0


def _decoded(connection: sqlite3.Connection, table: str, kind: Any) -> tuple[Any, ...]:
    decode = msgspec.json.Decoder(kind).decode
    return tuple(decode(body) for (body,) in connection.execute(f"SELECT body FROM {table}"))  # nosec B608 # nosemgrep: values-written-into-a-statement # a table of ours
