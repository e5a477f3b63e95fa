"""Tokens and sessions that another replica has put."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from almenara.config import Secret, Settings, StorageSettings
from almenara.security.access_sync import AccessSync
from almenara.security.credentials import Credentials
from almenara.security.store import TOKEN, ApiToken
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
    """Counts who wanted to acquire it."""

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
            token = ApiToken(
                id="t1", name="ci", hash="x", role=1, grants=(), created=now(),
                expires=now() + HOUR, created_by="another replica",
            )  # fmt: skip
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
