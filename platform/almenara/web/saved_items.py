"""What people make in the browser and share by role: `dashboards.db`, with every earlier version.

A file of its own, beside sessions and tokens in `storage.dir`: the history can be dropped without
it. What is saved names panels and filters alone; what they show is decided by the scope of whoever
views them, never by that of the owner.
"""

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import ClassVar, Final, Generic, Literal, TypeVar

import msgspec

from almenara.errors import AlmenaraError
from almenara.security.identity import Identity, Role
from almenara.signals import now

FILE: Final = "dashboards.db"
BUSY_TIMEOUT: Final = 10.0
"""Seconds that a statement waits for another process."""
MAX_ITEMS: Final = 500
"""Items of a type that exist."""
MAX_DELETED: Final = 200
"""Deleted items of a type whose versions stay stored; of more, the oldest are removed."""
MAX_VERSIONS: Final = 50
"""Versions of an item that are stored; the oldest are deleted."""
STEPS: Final = (
    "CREATE TABLE IF NOT EXISTS versions (name TEXT NOT NULL, version INTEGER NOT NULL,"
    " body TEXT NOT NULL, PRIMARY KEY (name, version)) WITHOUT ROWID;",
    "CREATE TABLE IF NOT EXISTS filters (name TEXT NOT NULL, version INTEGER NOT NULL,"
    " body TEXT NOT NULL, PRIMARY KEY (name, version)) WITHOUT ROWID;",
)
"""By version: the statements that turn the tables of that version into those of the next."""

Share = Literal["owner", "viewer", "operator", "admin"]
SHARES: Final[dict[str, str]] = {
    "owner": "only me", "viewer": "everyone", "operator": "operators and admins",
    "admin": "admins",
}  # fmt: skip
"""Who else sees an item: those with at least this role."""


class SavedItem(msgspec.Struct, frozen=True, kw_only=True):
    """A version of an item. Times in microseconds."""

    TABLE: ClassVar[str]
    NOUN: ClassVar[str]

    version: int = 0
    owner: str = ""
    """The subject of the user who created it."""
    owner_name: str = ""
    share: Share = "owner"
    changed: int = 0
    changed_by: str = ""
    """The name of the user who saved this version."""
    is_deleted: bool = False

    @property
    def name(self) -> str:
        """What identifies it among those of its type."""
        raise NotImplementedError

    def is_visible(self, identity: Identity) -> bool:
        """Whether a user sees it."""
        if self.is_deleted:
            return False
        if self.owner == identity.user.subject:
            return True
        return self.share != "owner" and identity.role >= Role[self.share.upper()]

    def is_editable(self, identity: Identity) -> bool:
        """Whether a user may change and delete it: the owner, and admins who see it."""
        is_owner = self.owner == identity.user.subject
        return not self.is_deleted and (
            is_owner or (self.is_visible(identity) and identity.role >= Role.ADMIN)
        )


S = TypeVar("S", bound=SavedItem)


class SaveConflictError(AlmenaraError):
    """Another user changed an item since it was opened."""

    def __init__(self, current: SavedItem) -> None:
        super().__init__(
            f"{current.changed_by} changed this {current.NOUN} after you opened it. Nothing was"
            " saved, and your version is still in the editor."
        )
        self.current = current


class SavedItems(Generic[S]):
    """The items of a type: read once at the start, then in memory and written through."""

    def __init__(self, folder: Path, item_type: type[S]) -> None:
        self._path, self._type = folder / FILE, item_type
        self._decode = msgspec.json.Decoder(item_type).decode
        self._lock = asyncio.Lock()
        self._current: dict[str, S] = {}
        for saved in self._read(
            f"SELECT body FROM {item_type.TABLE} ORDER BY name, version", ()  # nosec B608 # a constant
        ):  # fmt: skip
            self._current[saved.name] = saved

    def visible(self, identity: Identity) -> list[S]:
        """Return the items that a user sees, by name."""
        return [
            self._current[name]
            for name in sorted(self._current)
            if self._current[name].is_visible(identity)
        ]

    def find(self, name: str, identity: Identity) -> S | None:
        """Return an item that a user sees; None for others and for a name without one."""
        saved = self._current.get(name)
        return saved if saved is not None and saved.is_visible(identity) else None

    async def versions(self, name: str) -> list[S]:
        """Return the stored versions of an item, newest first."""
        return await asyncio.to_thread(
            self._read,
            f"SELECT body FROM {self._type.TABLE} WHERE name = ? ORDER BY version DESC",  # nosec B608 # a constant
            (name,),
        )

    async def store(self, draft: S, identity: Identity, version: int) -> S:
        """Store a version that follows `version`, 0 for a new item, and return it.

        Raises `SaveConflictError` where another version is current, and `ValueError` where the user
        may not change it, its name is another user's, or there are too many.
        """
        async with self._lock:
            before = self._current.get(draft.name)
            current = None if before is None or before.is_deleted else before
            noun = draft.NOUN
            if current is not None and not current.is_editable(identity):
                raise ValueError(
                    f"the name {draft.name} belongs to another {noun}; choose another name"
                )
            if current is not None and current.version != version:
                raise SaveConflictError(current)
            if current is None and self._count(is_deleted=False) >= MAX_ITEMS:
                raise ValueError(f"there are {MAX_ITEMS} {noun}s already; delete one first")
            saved = msgspec.structs.replace(
                draft,
                version=1 if before is None else before.version + 1,
                owner=identity.user.subject if current is None else current.owner,
                owner_name=identity.name if current is None else current.owner_name,
                changed=now(),
                changed_by=identity.name,
            )
            await asyncio.to_thread(self._write, saved)
            self._current[saved.name] = saved
            return saved

    async def delete(self, name: str, identity: Identity, version: int) -> None:
        """Delete an item; its versions stay stored. Raises as `store` does."""
        async with self._lock:
            current = self._current.get(name)
            if current is None or not current.is_editable(identity):
                raise ValueError(
                    f"you may not delete this {self._type.NOUN}, or it no longer exists"
                )
            if current.version != version:
                raise SaveConflictError(current)
            deleted = msgspec.structs.replace(
                current, version=version + 1, is_deleted=True, changed=now(),
                changed_by=identity.name,
            )  # fmt: skip
            await asyncio.to_thread(self._write, deleted)
            self._current[name] = deleted
            if self._count(is_deleted=True) > MAX_DELETED:
                oldest = min(
                    (each for each in self._current.values() if each.is_deleted),
                    key=lambda each: each.changed,
                )
                await asyncio.to_thread(self._remove, oldest.name)
                del self._current[oldest.name]

    def _count(self, *, is_deleted: bool) -> int:
        return sum(each.is_deleted is is_deleted for each in self._current.values())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)
        with closing(
            sqlite3.connect(self._path, timeout=BUSY_TIMEOUT, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < len(STEPS):
                script = "".join(STEPS[version:])
                connection.executescript(
                    f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {len(STEPS)}; COMMIT;"
                )
            yield connection

    def _read(self, statement: str, values: Sequence[str]) -> list[S]:
        if not self._path.exists():
            return []
        with self._open() as connection:
            rows = connection.execute(statement, values).fetchall()
        return [self._decode(body) for (body,) in rows]

    def _write(self, saved: S) -> None:
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                f"INSERT INTO {saved.TABLE} VALUES (?, ?, ?)",  # nosec B608 # a constant
                (saved.name, saved.version, msgspec.json.encode(saved).decode()),
            )
            connection.execute(
                f"DELETE FROM {saved.TABLE} WHERE name = ? AND version <= ?",  # nosec B608 # a constant
                (saved.name, saved.version - MAX_VERSIONS),
            )
            connection.execute("COMMIT")

    def _remove(self, name: str) -> None:
        with self._open() as connection:
            connection.execute(
                f"DELETE FROM {self._type.TABLE} WHERE name = ?",  # nosec B608 # a constant
                (name,),
            )


def read_share(form: Mapping[str, str]) -> Share:
    """Return who sees an item, from the form of its editor. Raises `ValueError`."""
    try:
        share: Share = msgspec.convert(form.get("share", "owner"), Share)
    except msgspec.ValidationError:
        raise ValueError("choose who sees it") from None
    return share
