"""`access.db`: the hash of the access token, API tokens and sessions.

A file of its own, so that commands can change it beside a running Almenara, and so that a copy of
the history contains no credentials. Only hashes and digests of secrets are stored, and with
`bus.secret` what refreshes sessions of a provider, encrypted with it.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.scope import Grant
from almenara.security.identity import User
from almenara.state_store.file import FormerTables, ValueFile

FILE: Final = "access.db"
ACCESS: Final = "access"
TOKEN: Final = "token."  # noqa: S105  # nosec B105 # the start of a key
SESSION: Final = "session."
BASE: Final = "base."
"""The start of the key of what this replica and the others had last in common of a value."""
FORMER_TABLES: Final = ("access_token", "api_tokens", "sessions", "shared")


class AccessHash(msgspec.Struct, frozen=True):
    """The value of the access token: its hash."""

    hash: str
    created: int


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
    sealed: str = ""
    """What refreshes it at its provider, encrypted, where replicas share it; see
    `oidc_session.SealedSession`."""
    refreshed: int = 0
    """When `user` and `sealed` were last replaced."""

    @property
    def is_shareable(self) -> bool:
        """Whether every replica can confirm it: a token has started it, or it contains what
        refreshes it. What confirms others is in the memory of one replica."""
        return bool(self.user.token_id or self.access_token_mark or self.sealed)


class StoredAccess(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file."""

    access_hash: str = ""
    tokens: tuple[ApiToken, ...] = ()
    sessions: tuple[SessionRecord, ...] = ()


class AccessStore:
    """Reads and writes the file. Any process and thread may use it."""

    def __init__(self, folder: Path) -> None:
        self.file = ValueFile(folder / FILE, FormerTables(FORMER_TABLES, _read_former))

    def stamp(self) -> tuple[int, int]:
        """Return modification time and size, which change with every change of the file."""
        return self.file.stamp()

    def read(self) -> StoredAccess:
        """Return the content of the file; empty where it does not exist."""
        values = {key: stored.value for key, stored in self.file.read().items()}
        access = values.get(ACCESS)
        return StoredAccess(
            access_hash=msgspec.json.decode(access, type=AccessHash).hash if access else "",
            tokens=_decode(values.items(), TOKEN, ApiToken),
            sessions=_decode(values.items(), SESSION, SessionRecord),
        )

    def set_access_hash(self, access_hash: str, created: int) -> None:
        """Replace the hash of the access token."""
        value = msgspec.json.encode(AccessHash(access_hash, created))
        self.file.set_all({ACCESS: value})

    def add_token(self, token: ApiToken) -> None:
        """Insert an API token."""
        self.file.set_all({f"{TOKEN}{token.id}": msgspec.json.encode(token)})

    def remove_token(self, token_id: str) -> bool:
        """Delete an API token; return whether it existed."""
        return self.file.remove(f"{TOKEN}{token_id}")

    def put_session(self, session: SessionRecord) -> None:
        """Insert or replace a session."""
        self.file.set_all({f"{SESSION}{session.id}": msgspec.json.encode(session)})

    def update_session(self, session_id: str, **changes: Any) -> SessionRecord | None:
        """Replace fields of a session, and return it; None where another process has ended it."""
        records = self.update_sessions({session_id: changes})
        return records.get(session_id)

    def update_sessions(self, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, SessionRecord]:
        """Replace fields of sessions by their id, and return those that still exist."""
        records: dict[str, SessionRecord] = {}

        def replace(stored: Mapping[str, bytes]) -> dict[str, bytes | None]:
            for key, value in stored.items():
                record = msgspec.json.decode(value, type=SessionRecord)
                fields = changes[key.removeprefix(SESSION)]
                records[record.id] = msgspec.structs.replace(record, **fields)
            return {
                f"{SESSION}{record.id}": msgspec.json.encode(record) for record in records.values()
            }

        self.file.update([f"{SESSION}{session_id}" for session_id in changes], replace)
        return records

    def remove_session(self, session_id: str) -> bool:
        """Delete a session; return whether it existed."""
        return self.file.remove(f"{SESSION}{session_id}")


class AccessChanges(msgspec.Struct, frozen=True, kw_only=True):
    """Values of the file that have changed, and the keys of those that were deleted."""

    access_hash: str | None
    """None where it has not changed."""
    tokens: tuple[ApiToken, ...]
    sessions: tuple[SessionRecord, ...]
    deleted: frozenset[str]

    @property
    def can_confirm_sessions(self) -> bool:
        """Whether a session that could not be confirmed before may be now."""
        return self.access_hash is not None or bool(self.tokens)


def decode_changes(values: Mapping[str, bytes | None]) -> AccessChanges:
    """Return changed values by what they are; None stands for one that was deleted."""
    changed = {key: value for key, value in values.items() if value is not None}
    access_hash = "" if ACCESS in values else None
    if ACCESS in changed:
        access_hash = msgspec.json.decode(changed[ACCESS], type=AccessHash).hash
    return AccessChanges(
        access_hash=access_hash,
        tokens=_decode(changed.items(), TOKEN, ApiToken),
        sessions=_decode(changed.items(), SESSION, SessionRecord),
        deleted=frozenset(values.keys() - changed.keys()),
    )


def _decode(values: Iterable[tuple[str, bytes]], prefix: str, kind: Any) -> tuple[Any, ...]:
    decode = msgspec.json.Decoder(kind).decode
    return tuple(decode(value) for key, value in values if key.startswith(prefix))


def _read_former(connection: sqlite3.Connection) -> dict[str, bytes]:
    """Return the rows of the tables that the file had before."""
    values: dict[str, bytes] = {}
    for hash_, created in connection.execute("SELECT hash, created FROM access_token"):
        values[ACCESS] = msgspec.json.encode(AccessHash(hash_, created))
    for id_, body in connection.execute("SELECT id, body FROM api_tokens"):
        values[f"{TOKEN}{id_}"] = body.encode()
    for id_, body in connection.execute("SELECT id, body FROM sessions"):
        values[f"{SESSION}{id_}"] = body.encode()
    # Only a replica has had this table.
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'shared'").fetchone():
        for key, base in connection.execute("SELECT key, base FROM shared"):
            values[f"{BASE}{key}"] = bytes(base)
    return values
