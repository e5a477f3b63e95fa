"""The exchange of tokens and sessions with values that replicas share."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
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
from almenara.security.access_token import HOLDER
from almenara.security.credentials import Credentials
from almenara.security.sessions import Session
from almenara.security.shared_values import DELETED_MARGIN, Merged
from almenara.security.store import SESSION, TOKEN, AccessStore, ApiToken
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

    @property
    def is_read(self) -> bool:
        """Whether the client has received every change."""
        return self._changes.empty()

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
async def exchanging(
    credentials: Credentials, shared: Any, secret: Any = None
) -> AsyncIterator[AccessSync]:
    """Run the exchange beside the block."""

    async def wait_for_session() -> Any:
        return SimpleNamespace(state=shared)

    bus: Any = SimpleNamespace(wait_for_session=wait_for_session)
    sync = AccessSync(credentials, bus, secret or Secret.of("secret"))
    credentials.sessions.share = sync.share
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


async def load(folder: Path) -> Credentials:
    credentials = Credentials(Settings(storage=StorageSettings(dir=folder)), "token")
    credentials.store.set_access_hash("h", 1)
    await credentials.load()
    return credentials


async def start_session(credentials: Credentials) -> tuple[Session, str]:
    """Start a session, and return it with its key."""
    session, _ = await credentials.sessions.create(
        HOLDER, address="a", agent="b", access_token_mark=credentials.access_token.mark
    )
    return session, f"{SESSION}{session.id}"


async def share_activity(shared: MemoryValues, session: Session, seconds: int = 100) -> None:
    """Put what another replica does once the browser was there."""
    key, last_seen = f"{SESSION}{session.id}", session.record.last_seen + seconds * 1_000_000
    record = msgspec.structs.replace(session.record, last_seen=last_seen)
    await shared.put(key, sign("secret", key, msgspec.json.encode(record)), shared.revision)


async def wait_for_deletion(shared: MemoryValues, key: str) -> None:
    async with asyncio.timeout(10):
        while key in shared.values:
            await asyncio.sleep(0.01)


class SlowSecret:
    """A secret whose file takes a while to read, once the test says so."""

    def __init__(self) -> None:
        self.is_slow = False
        self.reading, self.goes_on = threading.Event(), threading.Event()

    def reveal(self) -> str:
        if self.is_slow:
            self.is_slow = False
            self.reading.set()
            assert self.goes_on.wait(10)
        return "secret"


async def test_sign_out_counts_while_a_change_of_its_session_arrives(tmp_path: Path) -> None:
    credentials, shared, secret = await load(tmp_path), MemoryValues(), SlowSecret()
    async with exchanging(credentials, shared, secret) as sync, asyncio.timeout(20):
        session, key = await start_session(credentials)
        while key not in shared.values or not await sync.catch_up():
            await asyncio.sleep(0.01)
        secret.is_slow = True
        await share_activity(shared, session)
        await asyncio.to_thread(secret.reading.wait, 10)
        await credentials.sessions.end(session)
        secret.goes_on.set()
        await sync.catch_up()
        await wait_for_deletion(shared, key)
        assert credentials.sessions.get(session.id) is None
        assert credentials.store.read().sessions == ()


async def test_command_counts_while_a_change_of_its_session_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials, shared = await load(tmp_path), MemoryValues()
    merge = shared_values.merge
    commands: list[threading.Thread] = []
    async with exchanging(credentials, shared) as sync, asyncio.timeout(20):
        session, key = await start_session(credentials)
        while key not in shared.values or not await sync.catch_up():
            await asyncio.sleep(0.01)

        def merge_beside_a_command(*values: Any) -> tuple[bytes | None, bytes | None]:
            if values[0] == key and not commands:
                other = AccessStore(tmp_path)
                command = threading.Thread(target=other.remove_session, args=(session.id,))
                commands.append(command)
                command.start()
                # It may have to wait for the end of this merge.
                command.join(0.5)
            return merge(*values)

        monkeypatch.setattr(shared_values, "merge", merge_beside_a_command)
        await share_activity(shared, session)
        while not commands:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(commands[0].join)
        await wait_for_deletion(shared, key)
        await credentials.reload()
        assert credentials.sessions.get(session.id) is None
        assert credentials.store.read().sessions == ()


async def test_changes_that_wait_are_merged_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials, shared = await load(tmp_path), MemoryValues()
    sizes: list[int] = []
    merge_into = shared_values.merge_into

    def count(store: AccessStore, secret: str, changes: Sequence[ValueChange]) -> Merged:
        sizes.append(len(changes))
        return merge_into(store, secret, changes)

    async with exchanging(credentials, shared) as sync, asyncio.timeout(20):
        sessions = [(await start_session(credentials))[0] for _ in range(30)]
        while len(shared.values) < 30 or not await sync.catch_up():
            await asyncio.sleep(0.01)
        monkeypatch.setattr(shared_values, "merge_into", count)
        credentials.sessions.lock = lock = CountingLock()
        async with lock:
            await share_activity(shared, sessions[0])
            while lock.requests < 2:
                await asyncio.sleep(0.01)
            for session in sessions[1:]:
                await share_activity(shared, session)
            while not shared.is_read:
                await asyncio.sleep(0.01)
        assert await sync.catch_up()
        assert sizes == [1, 29]
        # In memory as in the file, without reading all of that again.
        seen = {record.id: record.last_seen for record in credentials.store.read().sessions}
        assert {session.id: session.last_seen for session in sessions} == seen
        assert all(last_seen > session.record.created for last_seen in seen.values())


async def test_own_change_is_not_merged_when_it_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials, shared = await load(tmp_path), MemoryValues()
    merged: list[str] = []
    merge_into = shared_values.merge_into

    def note(store: AccessStore, secret: str, changes: Sequence[ValueChange]) -> Merged:
        merged.extend(change.key for change in changes)
        return merge_into(store, secret, changes)

    monkeypatch.setattr(shared_values, "merge_into", note)
    async with exchanging(credentials, shared) as sync, asyncio.timeout(20):
        while not await sync.catch_up():
            await asyncio.sleep(0.01)
        _, key = await start_session(credentials)
        assert await sync.catch_up()
        assert key in shared.values
        assert key not in merged


class ConflictingValues(MemoryValues):
    """Shared values that another replica changes whenever this one deletes one."""

    conflicts = 2

    async def delete(self, key: str, revision: int) -> bool:
        if self.conflicts:
            self.conflicts -= 1
            return False
        return await super().delete(key, revision)


async def test_deletion_is_tried_until_it_is_shared(tmp_path: Path) -> None:
    credentials, shared = await load(tmp_path), ConflictingValues()
    async with exchanging(credentials, shared) as sync, asyncio.timeout(20):
        session, key = await start_session(credentials)
        while key not in shared.values or not await sync.catch_up():
            await asyncio.sleep(0.01)
        await credentials.sessions.end(session)
        await wait_for_deletion(shared, key)
    assert shared.conflicts == 0


class HangingValues(MemoryValues):
    """Shared values that respond to the first request only."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = asyncio.Event()

    async def put(self, key: str, value: bytes, revision: int) -> int | None:
        if self.values:
            self.hangs.set()
            await asyncio.Event().wait()
        return await super().put(key, value, revision)


async def test_bases_are_stored_for_a_request_that_waits_no_longer(tmp_path: Path) -> None:
    credentials = Credentials(Settings(storage=StorageSettings(dir=tmp_path)), "token")
    store, shared = credentials.store, HangingValues()
    for token_id in ("t1", "t2"):
        store.add_token(msgspec.structs.replace(make_token(now() + HOUR), id=token_id))
    bus: Any = None
    sync = AccessSync(credentials, bus, Secret.of("secret"))
    sync._shared = shared
    request = asyncio.create_task(sync.share())
    await shared.hangs.wait()
    request.cancel()
    await asyncio.wait([request])
    assert len(shared.values) == 1
    assert shared_values.read_bases(store).keys() == shared.values.keys()
