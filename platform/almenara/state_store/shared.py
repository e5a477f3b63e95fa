"""Values that replicas share beside their log, with a copy in the file of each.

What is read comes from the copy, so that a page does not wait for another server. What is written
goes to the shared values first: their revision decides between two writers. Each value is signed,
because other clients of the server may be able to write there.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from typing import Final, Protocol

import structlog

from almenara.config import Secret
from almenara.errors import AlmenaraError, Unavailable, describe_error
from almenara.shared_log import LogSession, SharedValues, ValueChange
from almenara.state_store import StoredValue
from almenara.state_store.file import Changes, FileStateStore, ValueFile
from almenara.state_store.signature import sign, verify

log = structlog.get_logger(__name__)

IDENTITY: Final = "#identity"
"""Key that identifies the shared values; none of them can have it."""
RETRY: Final = 1.0
PASSING: Final = (AlmenaraError, TimeoutError, OSError, sqlite3.Error)
"""Errors of the servers and of the disk, after which it is tried again."""


async def share_values(values: Mapping[str, bytes], shared: SharedValues, secret: str) -> int:
    """Put the values that are not shared yet; return how many. Raises `Unavailable`."""
    known = set()
    async for change in shared.watch():
        if change is None:
            break
        known.add(change.key)
    missing = [key for key in values if key not in known]
    for key in missing:
        await shared.put(key, sign(secret, key, values[key]), 0)
    return len(missing)


class SessionSource(Protocol):
    """What has sessions of a shared log: the bus of replicas."""

    async def wait_for_session(self) -> LogSession: ...


class SharedStateStore:
    """The values whose keys begin with one of some prefixes. Run `run` beside the server."""

    def __init__(
        self, file: ValueFile, bus: SessionSource, prefixes: tuple[str, ...], secret: Secret
    ) -> None:
        self._file, self._bus, self._prefixes, self._secret = file, bus, prefixes, secret
        self._copy = FileStateStore(file)
        self._shared: SharedValues | None = None
        self._lock = asyncio.Lock()
        """Guards the copy: an older change must not replace a newer one."""

    async def get(self, key: str) -> StoredValue | None:
        return await self._copy.get(key)

    async def list_values(self, prefix: str = "") -> dict[str, StoredValue]:
        return await self._copy.list_values(prefix)

    async def put(self, key: str, value: bytes, revision: int) -> int | None:
        signed = sign(await asyncio.to_thread(self._secret.reveal), key, value)
        new = await self._connected().put(key, signed, revision)
        if new is not None:
            await self._accept(ValueChange(key, value, new))
        return new

    async def delete(self, key: str, revision: int) -> bool:
        is_deleted = await self._connected().delete(key, revision)
        if is_deleted:
            await self._accept(ValueChange(key, None, revision + 1))
        return is_deleted

    def watch(self, prefix: str = "") -> AsyncIterator[ValueChange | None]:
        return self._copy.watch(prefix)

    def _connected(self) -> SharedValues:
        if self._shared is None:
            raise Unavailable("the replicas cannot be reached at the moment; try again later")
        return self._shared

    async def _store(self, changes: Changes) -> None:
        await asyncio.to_thread(self._file.write, changes)

    async def run(self) -> None:
        """Bring the copy up to date until cancelled."""
        while True:
            try:
                session = await self._bus.wait_for_session()
            except Unavailable:
                # The probes report it, and only a restart helps.
                await asyncio.Event().wait()
            try:
                await self._follow(session.state)
            except PASSING as error:
                log.warning("shared values cannot be read", reason=describe_error(error))
            finally:
                self._shared = None
            await asyncio.sleep(RETRY)

    async def _follow(self, shared: SharedValues) -> None:
        await self._compare_identity(await shared.identity())
        newest = await shared.newest_revision()
        first: dict[str, ValueChange | None] | None = {}
        async for signed in shared.watch():
            if signed is None:
                if first is not None:
                    await self._merge(shared, first, newest)
                    first = None
            elif not signed.key.startswith(self._prefixes):
                continue
            elif (change := await self._verify(signed)) is not None and first is None:
                await self._accept(change)
            elif first is not None:
                first[signed.key] = change

    async def _verify(self, change: ValueChange) -> ValueChange | None:
        if change.value is None:
            return change
        secret = await asyncio.to_thread(self._secret.reveal)
        value = verify(secret, change.key, change.value)
        if value is None:
            log.error("a shared value has no valid signature and is ignored", key=change.key)
            return None
        return ValueChange(change.key, value, change.revision)

    async def _compare_identity(self, identity: str) -> None:
        """Share everything again where the shared values were deleted as a whole, or are others:
        nothing that is missing there was deleted on purpose."""
        copy = await self._copy.list_values()
        known = copy.pop(IDENTITY, None)
        if known is None or known.value != identity.encode():
            changes = {key: StoredValue(stored.value, 0) for key, stored in copy.items()}
            await self._store({**changes, IDENTITY: StoredValue(identity.encode(), 0)})

    async def _merge(
        self, shared: SharedValues, first: dict[str, ValueChange | None], newest: int
    ) -> None:
        """Apply what exists, share what only the copy has, and delete what was deleted; `newest` is
        the newest revision that existed before."""
        for change in first.values():
            if change is not None:
                await self._accept(change)
        self._shared = shared
        for key, stored in (await self._copy.list_values()).items():
            if not key.startswith(self._prefixes):
                continue
            if stored.revision > newest:
                # The servers have lost their newest messages; what they have is older.
                await self._store({key: StoredValue(stored.value, 0)})
                older = first.get(key)
                await self.put(key, stored.value, older.revision if older is not None else 0)
            elif key in first:
                continue
            elif stored.revision:
                await self._store({key: None})
            else:
                await self.put(key, stored.value, 0)

    async def _accept(self, change: ValueChange) -> None:
        async with self._lock:
            known = await self._copy.get(change.key)
            if known is not None and known.revision >= change.revision:
                return
            if known is not None and not known.revision and known.value != change.value:
                log.warning("a value of this replica is replaced by a shared one", key=change.key)
            value = None if change.value is None else StoredValue(change.value, change.revision)
            await self._store({change.key: value})
