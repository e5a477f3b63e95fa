"""What people make in the browser and share by role, with every earlier version.

They are values of a state store, one a version, so that of two users who save at once one gets a
conflict. `dashboards.db` has them, beside sessions and tokens in `storage.dir`: the history can be
dropped without it. What is saved names panels and filters alone; what they show is decided by the
scope of whoever views them, never by that of the owner.
"""

import asyncio
import itertools
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Final, Generic, Literal, TypeVar

import msgspec
import structlog

from almenara.errors import AlmenaraError, Unavailable, describe_error
from almenara.security.identity import Identity, Role
from almenara.signals import now
from almenara.state_store import StateStore
from almenara.state_store.file import FormerTables, ValueFile

log = structlog.get_logger(__name__)

FILE: Final = "dashboards.db"
FORMER_TABLES: Final = {"versions": "dashboard.", "filters": "filter."}
"""The tables that the file had before, with the start of the keys of their items."""
RETRY: Final = 5.0
"""Seconds until a store that cannot be read is tried again."""
MAX_ITEMS: Final = 500
"""Items of a type that exist."""
MAX_DELETED: Final = 200
"""Deleted items of a type whose versions stay stored; of more, the oldest are removed."""
MAX_VERSIONS: Final = 50
"""Versions of an item that are stored; the oldest are deleted."""

Share = Literal["owner", "viewer", "operator", "admin"]
SHARES: Final[dict[str, str]] = {
    "owner": "only me", "viewer": "everyone", "operator": "operators and admins",
    "admin": "admins",
}  # fmt: skip
"""Who else sees an item: those with at least this role."""


class SavedItem(msgspec.Struct, frozen=True, kw_only=True):
    """A version of an item. Times in microseconds."""

    PREFIX: ClassVar[str]
    """The start of the keys of items of its type."""
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
        """What identifies it among those of its type; it has no dot."""
        raise NotImplementedError

    def is_visible(self, identity: Identity) -> bool:
        """Whether a user sees it."""
        return not self.is_deleted and self.is_shared_with(identity)

    def is_shared_with(self, identity: Identity) -> bool:
        """Whether it is or was the user's own, or shared with their role."""
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
    """Another user changed an item since it was opened, or a new one has its name."""

    def __init__(self, current: SavedItem, *, is_new: bool = False) -> None:
        reason = (
            f"There is already a {current.NOUN} {current.name}, saved by {current.changed_by}."
            if is_new
            else f"{current.changed_by} changed this {current.NOUN} after you opened it."
        )
        super().__init__(f"{reason} Nothing was saved, and your version is still in the editor.")
        self.current = current


class SavedItems(Generic[S]):
    """The items of a type: loaded once at the start, then in memory and written through."""

    def __init__(self, store: StateStore, item_type: type[S]) -> None:
        self._store, self._type = store, item_type
        self._decoder = msgspec.json.Decoder(item_type)
        self._lock = asyncio.Lock()
        self._current: dict[str, S] = {}

    async def load(self) -> None:
        """Load what is stored. Raises `Unavailable`."""
        for key, stored in (await self._store.list_values(self._type.PREFIX)).items():
            self._note(key, stored.value)

    async def run(self) -> None:
        """Follow what other replicas save, until cancelled."""
        while True:
            try:
                async for change in self._store.watch(self._type.PREFIX):
                    if change is not None:
                        self._note(change.key, change.value)
            except Unavailable as error:
                log.warning("saved items cannot be read", reason=describe_error(error))
            await asyncio.sleep(RETRY)

    def _note(self, key: str, value: bytes | None) -> None:
        """Remember a version that is the newest of its item; forget an item without it."""
        if value is None:
            name, _, version = key.removeprefix(self._type.PREFIX).rpartition(".")
            current = self._current.get(name)
            if current is not None and str(current.version) == version:
                del self._current[name]
        elif (saved := self._decode(key, value)) is not None:
            current = self._current.get(saved.name)
            if current is None or current.version < saved.version:
                self._current[saved.name] = saved

    def _decode(self, key: str, value: bytes) -> S | None:
        """Return a stored version; None for one that cannot be read, which others must not miss."""
        try:
            return self._decoder.decode(value)
        except msgspec.MsgspecError as error:
            log.warning("a saved item cannot be read", key=key, reason=describe_error(error))
            return None

    def _key(self, name: str, version: int | str) -> str:
        return f"{self._type.PREFIX}{name}.{version}"

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

    def find_free_name(self, base: str) -> str:
        """Return a name that no item has: `base`, or `base-2` and so on."""
        names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        taken = {name for name, each in self._current.items() if not each.is_deleted}
        return next(name for name in names if name not in taken)

    async def versions(self, name: str, identity: Identity) -> list[S]:
        """Return the stored versions of an item that a user sees, newest first: not those from
        before it was shared, or of a private one that was deleted. Raises `Unavailable`."""
        stored = await self._store.list_values(self._key(name, ""))
        versions = [self._decode(key, each.value) for key, each in stored.items()]
        return sorted(
            (each for each in versions if each is not None and each.is_shared_with(identity)),
            key=lambda each: -each.version,
        )

    async def store(self, draft: S, identity: Identity, version: int) -> S:
        """Store a version that follows `version`, 0 for a new item, and return it.

        Raises `SaveConflictError` where another version is current, `ValueError` where the user may
        not change it, its name is another user's, or there are too many, and `Unavailable`.
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
                raise SaveConflictError(current, is_new=version == 0)
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
            try:
                await self._write(saved)
            except SaveConflictError as error:
                if error.current.is_visible(identity):
                    raise
                raise ValueError(
                    f"the name {draft.name} belongs to another {noun}; choose another name"
                ) from None
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
            await self._write(deleted)
            if self._count(is_deleted=True) > MAX_DELETED:
                oldest = min(
                    (each for each in self._current.values() if each.is_deleted),
                    key=lambda each: each.changed,
                )
                await self._remove(oldest.name)
                self._current.pop(oldest.name, None)

    def _count(self, *, is_deleted: bool) -> int:
        return sum(each.is_deleted is is_deleted for each in self._current.values())

    async def _write(self, saved: S) -> None:
        """Store a new version, and delete the one beyond the limit."""
        key, body = self._key(saved.name, saved.version), msgspec.json.encode(saved)
        if await self._store.put(key, body, 0) is None:
            # Another replica has stored this version.
            await self.load()
            raise SaveConflictError(self._current.get(saved.name, saved))
        self._note(key, body)
        oldest = self._key(saved.name, saved.version - MAX_VERSIONS)
        if (stored := await self._store.get(oldest)) is not None:
            await self._store.delete(oldest, stored.revision)

    async def _remove(self, name: str) -> None:
        """Delete all versions of an item."""
        for key, stored in (await self._store.list_values(self._key(name, ""))).items():
            await self._store.delete(key, stored.revision)


def open_file(folder: Path) -> ValueFile:
    """Return the file of what is saved."""
    return ValueFile(folder / FILE, FormerTables(tuple(FORMER_TABLES), _read_former))


def _read_former(connection: sqlite3.Connection) -> dict[str, bytes]:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    return {
        f"{FORMER_TABLES[table]}{name}.{version}": body.encode()
        for table in tables & FORMER_TABLES.keys()
        for name, version, body in connection.execute(f"SELECT name, version, body FROM {table}")  # nosec B608 # a constant
    }


def read_share(form: Mapping[str, str]) -> Share:
    """Return who sees an item, from the form of its editor. Raises `ValueError`."""
    try:
        share: Share = msgspec.convert(form.get("share", "owner"), Share)
    except msgspec.ValidationError:
        raise ValueError("choose who sees it") from None
    return share
