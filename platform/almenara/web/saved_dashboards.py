"""Dashboards that people made in the browser: `dashboards.db`, with every earlier version.

A file of its own, beside sessions and tokens in `storage.dir`: the history can be dropped without
them. What a dashboard shows is decided by the scope of whoever views it, never by its owner's.
"""

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from almenara.config import DashboardSettings
from almenara.errors import AlmenaraError
from almenara.security.identity import Identity, Role
from almenara.signals import now

FILE: Final = "dashboards.db"
VERSION: Final = 1
BUSY_TIMEOUT: Final = 10.0
"""Seconds that a statement waits for another process."""
MAX_DASHBOARDS: Final = 500
MAX_VERSIONS: Final = 50
"""Versions of a dashboard that are stored; the oldest are deleted."""
TABLES: Final = """
CREATE TABLE versions (name TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (name, version)) WITHOUT ROWID;
"""

Share = Literal["owner", "viewer", "operator", "admin"]
SHARES: Final[dict[str, str]] = {
    "owner": "only me", "viewer": "everyone", "operator": "operators and admins",
    "admin": "admins",
}  # fmt: skip
"""Who else sees a dashboard: those with at least this role."""


class DashboardConflictError(AlmenaraError):
    """Another user changed a dashboard since it was opened, or its name is taken."""

    def __init__(self, current: "SavedDashboard") -> None:
        super().__init__(
            f"{current.changed_by} changed this dashboard after you opened it. Nothing was saved,"
            " and your version is still in the editor."
        )
        self.current = current


class SavedDashboard(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a dashboard. Times in microseconds."""

    settings: DashboardSettings
    version: int
    owner: str
    """The subject of the user who created it."""
    owner_name: str
    share: Share = "owner"
    changed: int
    changed_by: str
    """The name of the user who saved this version."""
    is_deleted: bool = False

    @property
    def name(self) -> str:
        """Its name in the address."""
        return self.settings.name

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


class SavedDashboards:
    """The saved dashboards: read once at the start, then in memory and written through."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._lock = asyncio.Lock()
        self._current: dict[str, SavedDashboard] = {}
        for saved in self._read("SELECT body FROM versions ORDER BY name, version", ()):
            self._current[saved.name] = saved

    def visible(self, identity: Identity) -> list[SavedDashboard]:
        """Return the dashboards that a user sees, by name."""
        return [
            self._current[name]
            for name in sorted(self._current)
            if self._current[name].is_visible(identity)
        ]

    def find(self, name: str, identity: Identity) -> SavedDashboard | None:
        """Return a dashboard that a user sees; None for others and for a name without one."""
        saved = self._current.get(name)
        return saved if saved is not None and saved.is_visible(identity) else None

    async def versions(self, name: str) -> list[SavedDashboard]:
        """Return the stored versions of a dashboard, newest first."""
        return await asyncio.to_thread(
            self._read, "SELECT body FROM versions WHERE name = ? ORDER BY version DESC", (name,)
        )

    async def save(
        self, settings: DashboardSettings, identity: Identity, share: Share, version: int
    ) -> SavedDashboard:
        """Store a version that follows `version`, 0 for a new dashboard, and return it.

        Raises `DashboardConflictError` where another version is current, and `ValueError` where the
        user may not change it, its name is another user's, or there are too many.
        """
        async with self._lock:
            current = self._current.get(settings.name)
            exists = current is not None and not current.is_deleted
            if current is not None and exists and not current.is_editable(identity):
                raise ValueError(
                    f"the name {settings.name} belongs to another dashboard; choose another name"
                )
            if current is not None and exists and current.version != version:
                raise DashboardConflictError(current)
            if not exists and len(self._current) >= MAX_DASHBOARDS:
                raise ValueError(f"there are {MAX_DASHBOARDS} dashboards already; delete one first")
            saved = SavedDashboard(
                settings=settings,
                version=1 if current is None else current.version + 1,
                owner=current.owner if current is not None and exists else identity.user.subject,
                owner_name=current.owner_name if current is not None and exists else identity.name,
                share=share,
                changed=now(),
                changed_by=identity.name,
            )
            await asyncio.to_thread(self._write, saved)
            self._current[saved.name] = saved
            return saved

    async def delete(self, name: str, identity: Identity, version: int) -> None:
        """Delete a dashboard; its versions stay stored. Raises as `save` does."""
        async with self._lock:
            current = self._current.get(name)
            if current is None or not current.is_editable(identity):
                raise ValueError("you may not delete this dashboard, or it no longer exists")
            if current.version != version:
                raise DashboardConflictError(current)
            deleted = msgspec.structs.replace(
                current, version=version + 1, is_deleted=True, changed=now(),
                changed_by=identity.name,
            )  # fmt: skip
            await asyncio.to_thread(self._write, deleted)
            self._current[name] = deleted

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600)
        with closing(
            sqlite3.connect(self._path, timeout=BUSY_TIMEOUT, isolation_level=None)
        ) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.executescript(
                    f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;"
                )
            yield connection

    def _read(self, statement: str, values: Sequence[str]) -> list[SavedDashboard]:
        if not self._path.exists():
            return []
        with self._open() as connection:
            rows = connection.execute(statement, values).fetchall()
        decode = msgspec.json.Decoder(SavedDashboard).decode
        return [decode(body) for (body,) in rows]

    def _write(self, saved: SavedDashboard) -> None:
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT INTO versions VALUES (?, ?, ?)",
                (saved.name, saved.version, msgspec.json.encode(saved).decode()),
            )
            connection.execute(
                "DELETE FROM versions WHERE name = ? AND version <= ?",
                (saved.name, saved.version - MAX_VERSIONS),
            )
            connection.execute("COMMIT")
