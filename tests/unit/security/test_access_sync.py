"""The exchange of tokens and sessions with values that replicas share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from almenara.config import Secret, Settings, StorageSettings
from almenara.errors import Unavailable
from almenara.security import shared_values
from almenara.security.access_sync import AccessSync
from almenara.security.credentials import Credentials
from almenara.security.shared_values import DELETED_MARGIN
from almenara.security.store import TOKEN, AccessStore, ApiToken
from almenara.shared_log import ValueChange
from almenara.signals import now
from almenara.state_store.signature import sign
from almenara.units import HOUR

pytestmark = pytest.mark.anyio
SECRET = "a-secret-that-the-replicas-of-this-test-share"


class OneReplica:
    """A bus whose shared values change as the test puts changes."""

    def __init__(self) -> None:
        self.changes: asyncio.Queue[ValueChange | None] = asyncio.Queue()
        self.changes.put_nowait(None)
        self.newest = 0

    def put(self, key: str, value: bytes) -> None:
        self.newest += 1
        self.changes.put_nowait(ValueChange(key, sign(SECRET, key, value), self.newest))

    async def wait_for_session(self) -> Any:
        return SimpleNamespace(state=self)

    async def identity(self) -> str:
        return "bucket"

    async def newest_revision(self) -> int:
        return self.newest

    async def watch(self) -> AsyncIterator[ValueChange | None]:
        while True:
            yield await self.changes.get()


class CountingLock(asyncio.Lock):
    """Counts the tasks that acquire it or wait for it."""

    requests = 0

    async def acquire(self) -> Any:
        self.requests += 1
        return await super().acquire()


async def test_request_waits_until_what_others_have_put_is_applied(tmp_path: Path) -> None:
    credentials = Credentials(Settings(storage=StorageSettings(dir=tmp_path)), "token")
    await credentials.load()
    replica = OneReplica()
    sync = AccessSync(credentials, replica, Secret.of(SECRET))
    credentials.catch_up = sync.catch_up
    running = asyncio.create_task(sync.run())
    try:
        async with asyncio.timeout(10):
            while not await sync.catch_up():
                await asyncio.sleep(0.01)
            token = make_token(now() + HOUR)
            credentials.sessions.lock = lock = CountingLock()
            async with lock:
                # The change is received, and can't be written yet.
                replica.put(f"{TOKEN}t1", msgspec.json.encode(token))
                while lock.requests < 2:
                    await asyncio.sleep(0.01)
                request = asyncio.create_task(sync.catch_up())
                done, _ = await asyncio.wait([request], timeout=0.2)
                assert not done
            assert await request
            assert credentials.tokens.get("t1") == token
    finally:
        running.cancel()
        await asyncio.wait([running])


class MemoryValues:
    """Shared values of one client."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.revision = 0
        self._changes: asyncio.Queue[ValueChange | None] = asyncio.Queue()

    def end_watch(self) -> None:
        """Let the client watch again, as after a lost connection."""
        self._changes.put_nowait(None)

    async def put(self, key: str, value: bytes, revision: int) -> int | None:
        self.revision += 1
        self.values[key] = value
        self._changes.put_nowait(ValueChange(key, value, self.revision))
        return self.revision

    async def delete(self, key: str, revision: int) -> bool:
        if key not in self.values:
            return False
        del self.values[key]
        self.revision += 1
        self._changes.put_nowait(ValueChange(key, None, self.revision))
        self.deleted.append(key)
        return True

    async def watch(self) -> AsyncIterator[ValueChange | None]:
        for key, value in self.values.items():
            yield ValueChange(key, value, self.revision)
        yield None
        while (change := await self._changes.get()) is not None:
            yield change
        raise Unavailable("the connection is lost")

    async def identity(self) -> str:
        return "one"

    async def newest_revision(self) -> int:
        return self.revision


def make_token(expires: int) -> ApiToken:
    return ApiToken(
        id="t1", name="ci", hash="x", role=1, grants=(), created=now(), expires=expires,
        created_by="a command",
    )  # fmt: skip


@asynccontextmanager
async def exchanging(credentials: Credentials, shared: MemoryValues) -> AsyncIterator[AccessSync]:
    """Run the exchange beside the block."""

    async def wait_for_session() -> Any:
        return SimpleNamespace(state=shared)

    bus: Any = SimpleNamespace(wait_for_session=wait_for_session)
    sync = AccessSync(credentials, bus, Secret.of("secret"))
    task = asyncio.create_task(sync.run())
    try:
        yield sync
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("lifetime", "is_remembered"), [(HOUR, True), (-DELETED_MARGIN - HOUR, False)]
)
async def test_revocation_is_stored_once_and_while_it_matters(
    tmp_path: Path, lifetime: int, is_remembered: bool
) -> None:
    credentials = Credentials(Settings(storage=StorageSettings(dir=tmp_path)), "token")
    await credentials.load()
    store, shared = AccessStore(tmp_path), MemoryValues()
    store.add_token(make_token(now() + lifetime))

    async with exchanging(credentials, shared) as sync:
        async with asyncio.timeout(10):
            while not shared.values:
                await asyncio.sleep(0.01)
        store.remove_token("t1")
        async with asyncio.timeout(10):
            while (
                not shared.deleted
                or (f"{TOKEN}t1" in shared_values.read_bases(store)) is not is_remembered
            ):
                await sync.share()
        assert shared.deleted == [f"{TOKEN}t1"]
        stamp = store.stamp()
        await sync.share()
        assert store.stamp() == stamp


async def test_values_that_servers_have_lost_are_not_revoked(tmp_path: Path) -> None:
    credentials = Credentials(Settings(storage=StorageSettings(dir=tmp_path)), "token")
    await credentials.load()
    store, shared = AccessStore(tmp_path), MemoryValues()
    store.add_token(make_token(now() + HOUR))
    key = f"{TOKEN}t1"
    async with exchanging(credentials, shared) as sync:
        async with asyncio.timeout(10):
            while key not in shared.values or not await sync.catch_up():
                await asyncio.sleep(0.01)
            # Without flushing them, the servers have lost their newest messages.
            shared.values, shared.revision = {}, 0
            shared.end_watch()
            while key not in shared.values:
                await asyncio.sleep(0.01)
        assert [token.id for token in store.read().tokens] == ["t1"]
        assert await sync.catch_up()


async def test_value_that_is_missing_was_deleted(tmp_path: Path) -> None:
    credentials = Credentials(Settings(storage=StorageSettings(dir=tmp_path)), "token")
    await credentials.load()
    store, shared = AccessStore(tmp_path), MemoryValues()
    store.add_token(make_token(now() + HOUR))
    async with exchanging(credentials, shared), asyncio.timeout(10):
        while not shared.values:
            await asyncio.sleep(0.01)
        # Deleted while this replica did not watch, for so long that the deletion has expired.
        shared.values, shared.revision = {}, shared.revision + 1
        shared.end_watch()
        while store.read().tokens:
            await asyncio.sleep(0.01)
