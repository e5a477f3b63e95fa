"""Shares tokens and sessions between replicas: `access.db` of each, through values beside the bus.

The file of a replica stays what its requests are checked with, so that nothing waits for NATS. What
changes in it, by this process or by a command, is put to the shared values, and what changes there
is written to the file.
"""

import asyncio
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from almenara.bus import BusClosedError
from almenara.cancellation import finish_within, run_in_task
from almenara.config import Secret
from almenara.errors import AlmenaraError, describe_error
from almenara.security import shared_values
from almenara.security.credentials import Credentials
from almenara.security.shared_values import IDENTITY, Values, is_deleted, is_obsolete, mark_deleted
from almenara.shared_log import LogSession, SharedValues, ValueChange
from almenara.signals import now
from almenara.state_store import StoredValue
from almenara.state_store.signature import sign

log = structlog.get_logger(__name__)

INTERVAL: Final = 0.5
"""Seconds between two looks at the file, which commands change as well."""
RETRY: Final = 0.5
"""Seconds; they count in how soon a revocation arrives after a server has ended."""
PUSHED_AT_ONCE: Final = 100
"""Values that are put before changes of other replicas are accepted again."""
STORE_TIMEOUT: Final = 10.0
"""Seconds for the file: as long as it waits for another process."""
PATIENCE: Final = 1.0
"""Seconds that a request waits for other replicas."""
PASSING: Final = (AlmenaraError, TimeoutError, OSError, sqlite3.Error)
"""Errors of the servers and of the disk, after which it is tried again."""


class SessionSource(Protocol):
    """What has sessions of a shared log: the bus of replicas."""

    async def wait_for_session(self) -> LogSession: ...


class AccessSync:
    """The exchange of one replica. Run `run` beside the server."""

    def __init__(self, credentials: Credentials, bus: SessionSource, secret: Secret) -> None:
        self._credentials, self._bus, self._secret = credentials, bus, secret
        self._store = credentials.store
        self._shared: SharedValues | None = None
        self._lock = asyncio.Lock()
        """Guards the bases and revisions: one exchange at a time."""
        self._bases: Values = {}
        self._revisions: dict[str, int] = {}
        """Those of the shared values, by key."""
        self._pushed: dict[str, int] = {}
        """Those of the values of the file that were compared with their bases, by key."""
        self._unshared: set[str] = set()
        """Keys of the values that have to be put or deleted."""
        self._reached = 0
        """The last revision that is in the file and in memory."""
        self._advanced = asyncio.Condition()
        self.has_received = False
        """Whether the file has what other replicas had put when this one started."""

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            try:
                session = await self._bus.wait_for_session()
            except BusClosedError:
                # The probes report it, and only a restart helps.
                await asyncio.Event().wait()
            try:
                await run_in_task(self._exchange(session.state))
            except* PASSING as errors:
                log.warning("sessions are not shared", reason=describe_error(errors))
            finally:
                self._shared = None
            await asyncio.sleep(RETRY)

    async def _exchange(self, shared: SharedValues) -> None:
        await self._read_bases(await shared.identity())
        # Of what exists, the newest revision may be lower: deletions are stored for some time only.
        newest = await shared.newest_revision()
        has_lost_some = newest < self._reached
        async with self._lock:
            self._revisions, self._pushed, self._reached = {}, {}, 0
            self._unshared.clear()
        waiting: list[ValueChange] = []
        has_arrived = asyncio.Event()
        first: dict[str, ValueChange] | None = {}
        async with asyncio.TaskGroup() as group:
            async for change in shared.watch():
                if change is None:
                    if first is not None:
                        missing = self._bases.keys() - first.keys() - {IDENTITY}
                        if has_lost_some:
                            await self._forget(missing)
                            missing = set()
                        removed = [ValueChange(key, None, 0) for key in missing]
                        await self._accept([*first.values(), *removed])
                        self._reached = max(self._reached, newest)
                        first, self._shared, self.has_received = None, shared, True
                        group.create_task(self._push_changes())
                        group.create_task(self._accept_all(waiting, has_arrived))
                elif first is not None:
                    first[change.key] = change
                else:
                    waiting.append(change)
                    has_arrived.set()

    async def _read_bases(self, identity: str) -> None:
        self._bases = await asyncio.to_thread(shared_values.read_bases, self._store)
        if self._bases.get(IDENTITY) != identity.encode():
            await self._forget(self._bases.keys(), {IDENTITY: identity.encode()})

    async def _forget(self, keys: Iterable[str], others: Values | None = None) -> None:
        """Forget what was shared of some values, and store other bases: what servers have lost, as
        a whole or the newest of it, was not revoked."""
        bases = {key: None for key in keys if not is_deleted(self._bases[key])}
        changes: dict[str, bytes | None] = {**bases, **(others or {})}
        await asyncio.to_thread(shared_values.write, self._store, {}, changes)
        self._note_bases(changes)

    async def _accept_all(self, waiting: list[ValueChange], has_arrived: asyncio.Event) -> None:
        """Merge changes as they arrive: all that wait, so that many take little more than one."""
        while True:
            await has_arrived.wait()
            has_arrived.clear()
            changes = waiting[:]
            waiting.clear()
            await self._accept(changes)

    async def _accept(self, changes: list[ValueChange]) -> None:
        """Merge changes into the file, and apply them to the sessions in memory."""
        secret = await asyncio.to_thread(self._secret.reveal)
        # A sign-out waits meanwhile, and finds the session in memory as in the file.
        async with self._lock, self._credentials.sessions.lock:
            own = [change for change in changes if self._note_revision(change)]
            merged = await asyncio.to_thread(shared_values.merge_into, self._store, secret, own)
            self._note_bases(merged.bases)
            self._unshared |= merged.unshared
            await self._credentials.apply(merged.values)
        async with self._advanced:
            # Not before everything is applied: requests wait for it.
            self._reached = max([self._reached, *(change.revision for change in changes)])
            self._advanced.notify_all()

    def _note_revision(self, change: ValueChange) -> bool:
        """Note the revision of a shared value; return whether it has to be merged: a token or
        session that this replica has not put itself."""
        if not shared_values.is_own(change.key):
            return False
        if change.value is None:
            self._revisions.pop(change.key, None)
            return True
        known = self._revisions.get(change.key)
        self._revisions[change.key] = change.revision
        return change.revision != known

    def _note_bases(self, bases: dict[str, bytes | None]) -> None:
        for key, base in bases.items():
            if base is None:
                self._bases.pop(key, None)
            else:
                self._bases[key] = base

    async def _push_changes(self) -> None:
        stamp = None
        while True:
            before = self._store.stamp()
            if before != stamp or self._unshared:
                await self._push()
                stamp = before
            await asyncio.sleep(INTERVAL)

    async def _push(self) -> None:
        """Put what has changed in the file. What has changed there meanwhile arrives soon, and is
        merged before it is tried again."""
        async with self._lock:
            if self._shared is None:
                return
            await self._find_unshared()
            # What was revoked comes first.
            keys = sorted(self._unshared, key=self._pushed.__contains__)
        for start in range(0, len(keys), PUSHED_AT_ONCE):
            # In between, changes of other replicas are accepted.
            async with self._lock:
                await self._push_some(keys[start : start + PUSHED_AT_ONCE])

    async def _find_unshared(self) -> None:
        """Compare what has changed in the file with the bases."""
        revisions, changed = await asyncio.to_thread(
            self._store.file.read_changes, shared_values.PREFIXES, self._pushed
        )
        moment = now()
        self._unshared |= {
            key
            for key, stored in changed.items()
            if stored.value != self._bases.get(key)
            and shared_values.is_shareable(key, stored.value)
        }
        self._unshared |= {
            key
            for key, base in self._bases.items()
            if key != IDENTITY
            and (is_obsolete(base, moment) if is_deleted(base) else key not in revisions)
        }
        self._pushed = revisions

    async def _push_some(self, keys: list[str]) -> None:
        if (shared := self._shared) is None:
            return
        local = await asyncio.to_thread(self._store.file.read_keys, keys)
        secret = await asyncio.to_thread(self._secret.reveal)
        bases: dict[str, bytes | None] = {}
        revisions: dict[str, int] = {}
        try:
            for key in keys:
                value, base = local[key].value if key in local else None, self._bases.get(key)
                if value is None:
                    new_base = await self._push_deletion(shared, key, base)
                    if new_base != base:
                        bases[key] = new_base
                elif value != base:
                    signed = sign(secret, key, value)
                    revision = await shared.put(key, signed, self._revisions.get(key, 0))
                    if revision is not None:
                        bases[key], revisions[key] = value, revision
        finally:
            # Also for a request that waits no longer: what is deleted before its own change arrives
            # would be taken for a value of another replica.
            if bases:
                writing = asyncio.to_thread(shared_values.write, self._store, {}, bases)
                await finish_within(STORE_TIMEOUT, writing)
                self._note_bases(bases)
                self._revisions.update(revisions)
        self._unshared.difference_update(
            key for key in keys if self._is_shared(key, local.get(key))
        )

    def _is_shared(self, key: str, stored: StoredValue | None) -> bool:
        """Return whether the shared value is the one of the file."""
        if stored is None:
            return key not in self._revisions
        return stored.value == self._bases.get(key)

    async def _push_deletion(
        self, shared: SharedValues, key: str, base: bytes | None
    ) -> bytes | None:
        """Delete the shared value of one that is deleted here, and return its new base."""
        revision = self._revisions.get(key, 0)
        if revision and not await shared.delete(key, revision):
            return base
        self._revisions.pop(key, None)
        if base is None or not is_deleted(base):
            return None if base is None else mark_deleted(key, base)
        return None if is_obsolete(base, now()) else base

    # -- for requests

    async def share(self) -> None:
        """Put what this process has just changed, so that the next request finds it anywhere."""
        with suppress(*PASSING):
            async with asyncio.timeout(PATIENCE):
                await self._push()

    async def catch_up(self) -> bool:
        """Wait until the file has what other replicas have put so far; return False where that
        cannot be known."""
        if (shared := self._shared) is None:
            return False
        with suppress(*PASSING):
            async with asyncio.timeout(PATIENCE):
                newest = await shared.newest_revision()
                async with self._advanced:
                    await self._advanced.wait_for(lambda: self._reached >= newest)
                return True
        return False
