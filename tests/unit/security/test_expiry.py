"""Sessions that expire by the clock of one replica, which may be wrong."""

import asyncio
from pathlib import Path

import pytest

from almenara.config import Settings, StorageSettings
from almenara.security import credentials as credentials_module, sessions as sessions_module, tokens
from almenara.security.access_token import HOLDER
from almenara.security.credentials import Credentials
from almenara.security.sessions import Session
from almenara.security.store import ApiToken
from almenara.security.tokens import identity_of
from almenara.signals import now
from almenara.units import DAY, HOUR
from support.moved_clock import MovedClock

pytestmark = pytest.mark.anyio
HOURS = 3600.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MovedClock:
    clock = MovedClock(now())
    for module in (credentials_module, sessions_module, tokens):
        monkeypatch.setattr(module, "now", clock.now)
    return clock


async def share() -> None:
    """Stand for replicas that share what changes."""


async def load(folder: Path, *, is_shared: bool) -> Credentials:
    credentials = Credentials(Settings(storage=StorageSettings(dir=folder)), "token")
    credentials.store.set_access_hash("h", 1)
    credentials.sessions.share = share if is_shared else None
    await credentials.load()
    return credentials


async def start_session(credentials: Credentials) -> tuple[Session, str]:
    return await credentials.sessions.create(
        HOLDER, address="a", agent="b", access_token_mark=credentials.access_token.mark
    )


def list_stored(credentials: Credentials) -> list[str]:
    return [record.id for record in credentials.store.read().sessions]


async def test_wrong_clock_ends_shared_sessions_on_its_replica_only(
    tmp_path: Path, clock: MovedClock
) -> None:
    credentials = await load(tmp_path, is_shared=True)
    session, secret = await start_session(credentials)
    clock.move(2 * HOURS)
    await credentials.end_invalid_sessions()
    assert credentials.sessions.find(secret) is None
    assert not credentials.sessions.is_usable(session)
    # Nor when it restarts, also after the end of its lifetime.
    clock.move(11 * HOURS)
    restarted = await load(tmp_path, is_shared=True)
    await restarted.end_invalid_sessions()
    assert restarted.sessions.find(secret) is None
    assert list_stored(restarted) == [session.id]
    clock.move(-13 * HOURS)
    assert credentials.sessions.find(secret) is session
    assert restarted.sessions.find(secret) is not None


async def test_expired_session_is_deleted_after_a_day(tmp_path: Path, clock: MovedClock) -> None:
    credentials = await load(tmp_path, is_shared=True)
    await start_session(credentials)
    clock.move(25 * HOURS - 1)
    await credentials.end_invalid_sessions()
    assert len(list_stored(credentials)) == 1
    clock.move(1)
    await credentials.end_invalid_sessions()
    assert list_stored(credentials) == []
    assert list(credentials.sessions) == []


async def test_expired_session_of_one_process_is_deleted_at_once(
    tmp_path: Path, clock: MovedClock
) -> None:
    credentials = await load(tmp_path, is_shared=False)
    await start_session(credentials)
    clock.move(1 * HOURS)
    await credentials.end_invalid_sessions()
    assert list_stored(credentials) == []


@pytest.mark.parametrize("is_shared", [True, False])
async def test_wrong_clock_ends_sessions_of_a_token_on_its_replica_only(
    tmp_path: Path, clock: MovedClock, is_shared: bool
) -> None:
    credentials = await load(tmp_path, is_shared=is_shared)
    token = ApiToken(
        id="t1", name="ci", hash="x", role=1, grants=(), created=clock.now(),
        expires=clock.now() + HOUR // 2, created_by="ada",
    )  # fmt: skip
    await credentials.add_token(token)
    session, secret = await credentials.sessions.create(identity_of(token), address="a", agent="b")
    assert credentials.sessions.find(secret) is session
    clock.move(0.6 * HOURS)
    await credentials.end_invalid_sessions()
    assert credentials.sessions.find(secret) is None
    assert session.identity is None
    assert list_stored(credentials) == ([session.id] if is_shared else [])
    restarted = await load(tmp_path, is_shared=is_shared)
    assert restarted.sessions.find(secret) is None
    assert list_stored(restarted) == ([session.id] if is_shared else [])
    assert restarted.tokens.is_known("t1")
    # Its deletion is shared once every replica must know that it has expired.
    clock.move(DAY / 1_000_000 + 12 * HOURS)
    await restarted.end_invalid_sessions()
    assert list_stored(restarted) == []


async def test_revoked_token_ends_its_sessions_for_all(tmp_path: Path, clock: MovedClock) -> None:
    credentials = await load(tmp_path, is_shared=True)
    token = ApiToken(
        id="t1", name="ci", hash="x", role=1, grants=(), created=clock.now(),
        expires=clock.now() + HOUR, created_by="ada",
    )  # fmt: skip
    await credentials.add_token(token)
    await credentials.sessions.create(identity_of(token), address="a", agent="b")
    await asyncio.to_thread(credentials.store.remove_token, "t1")
    await credentials.reload()
    await credentials.end_invalid_sessions()
    assert list_stored(credentials) == []
