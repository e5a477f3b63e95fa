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
from almenara.cancellation import run_in_task
from almenara.config import Secret
from almenara.errors import AlmenaraError, describe_error
from almenara.security import shared_values
from almenara.security.credentials import Credentials
from almenara.security.shared_values import IDENTITY, Values, is_deleted, is_obsolete, mark_deleted
from almenara.shared_log import LogSession, SharedValues, ValueChange
from almenara.signals import now
from almenara.state_store.signature import sign

log = structlog.get_logger(__name__)

INTERVAL: Final = 0.5
"""Seconds between two looks at the file, which commands change as well."""
RETRY: Final = 1.0
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
        self._revisions, self._reached = {}, 0
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
                elif first is not None:
                    first[change.key] = change
                else:
                    await self._accept([change])

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

    async def _accept(self, changes: list[ValueChange]) -> None:
        """Merge changes into the file, and apply them to the sessions in memory."""
        async with self._lock:
            local = await asyncio.to_thread(shared_values.read_values, self._store)
            values: dict[str, bytes | None] = {}
            bases: dict[str, bytes | None] = {}
            secret = await asyncio.to_thread(self._secret.reveal)
            for change in changes:
                key, remote = change.key, change.value
                if not shared_values.is_own(key):
                    continue
                if remote is None:
                    self._revisions.pop(key, None)
                else:
                    self._revisions[key] = change.revision
                    if (remote := shared_values.verify(secret, key, remote)) is None:
                        log.error("a shared value has no valid signature and is ignored", key=key)
                        continue
                base = self._bases.get(key)
                value, new_base = shared_values.merge(key, local.get(key), base, remote)
                if value != local.get(key):
                    values[key] = value
                if new_base != base:
                    bases[key] = new_base
            if values or bases:
                async with self._credentials.sessions.lock:
                    await asyncio.to_thread(shared_values.write, self._store, values, bases)
                self._note_bases(bases)
        if values:
            await self._credentials.reload()
        async with self._advanced:
            # Not before everything is applied: requests wait for it.
            self._reached = max([self._reached, *(change.revision for change in changes)])
            self._advanced.notify_all()

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
            if before != stamp:
                await self._push()
                stamp = before
            await asyncio.sleep(INTERVAL)

    async def _push(self) -> None:
        """Put what has changed in the file. What has changed there meanwhile arrives soon, and is
        merged before it is tried again."""
        async with self._lock:
            if (shared := self._shared) is None:
                return
            local = await asyncio.to_thread(shared_values.read_values, self._store)
            secret = await asyncio.to_thread(self._secret.reveal)
            bases: dict[str, bytes | None] = {}
            for key in (local.keys() | self._bases.keys()) - {IDENTITY}:
                value, base = local.get(key), self._bases.get(key)
                if value == base:
                    continue
                if value is None:
                    if (deleted := await self._push_deletion(shared, key, base or b"")) != base:
                        bases[key] = deleted
                    continue
                signed = sign(secret, key, value)
                revision = self._revisions.get(key, 0)
                if (stored := await shared.put(key, signed, revision)) is not None:
                    bases[key], self._revisions[key] = value, stored
            if bases:
                await asyncio.to_thread(shared_values.write, self._store, {}, bases)
                self._note_bases(bases)

    async def _push_deletion(self, shared: SharedValues, key: str, base: bytes) -> bytes | None:
        """Delete the shared value of one that is deleted here, and return its new base."""
        revision = self._revisions.get(key, 0)
        if revision and not await shared.delete(key, revision):
            return base
        self._revisions.pop(key, None)
        if not is_deleted(base):
            return mark_deleted(key, base)
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
