"""Limits of sessions: a user who signs in often ends its own sessions only."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from almenara.config import AuthSettings
from almenara.scope import FULL_SCOPE
from almenara.security import sessions as module
from almenara.security.identity import Identity, Role, User
from almenara.security.sessions import Session, Sessions
from almenara.security.store import AccessStore, SessionRecord
from almenara.units import HOUR, SECOND

pytestmark = pytest.mark.anyio


def identity(subject: str, token_id: str = "") -> Identity:
    user = User(name=subject, subject=subject, token_id=token_id, is_shared=bool(token_id))
    return Identity(user=user, role=Role.VIEWER, scope=FULL_SCOPE)


async def create(sessions: Sessions, caller: Identity) -> Session:
    session, _ = await sessions.create(caller, address="192.0.2.1", agent="test")
    return session


async def test_sessions_beyond_the_user_limit_end_the_oldest_of_the_user(tmp_path: Path) -> None:
    sessions = Sessions(AccessStore(tmp_path), AuthSettings())
    victim = await create(sessions, identity("oidc:ada"))
    own = [
        await create(sessions, identity("api:1", "1")) for _ in range(module.MAX_USER_SESSIONS + 10)
    ]
    assert victim.identity is not None
    alive = [session for session in own if session.identity is not None]
    assert alive == own[10:]
    assert len(AccessStore(tmp_path).read().sessions) == module.MAX_USER_SESSIONS + 1


async def test_sessions_beyond_the_total_end_those_of_the_largest_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 20)
    sessions = Sessions(AccessStore(tmp_path), AuthSettings())
    others = [await create(sessions, identity(f"oidc:{number}")) for number in range(10)]
    own = [await create(sessions, identity("api:1", "1")) for _ in range(40)]
    assert all(session.identity is not None for session in others)
    assert [session for session in own if session.identity is not None] == own[30:]
    # A newcomer takes the place of one of the many, not of another user.
    newcomer = await create(sessions, identity("oidc:new"))
    assert newcomer.identity is not None
    assert all(session.identity is not None for session in others)
    assert own[30].identity is None


class Refresher:
    """The refresher of a session whose provider sends another refresh token each time."""

    sealed = "first"

    async def seal(self) -> str:
        return self.sealed


@pytest.mark.parametrize("change", ["user", "cookie", "activity"])
async def test_change_does_not_restore_a_session_that_a_command_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    store = AccessStore(tmp_path)
    sessions = Sessions(store, AuthSettings(session_rotation_interval=0.001))
    caller, refresher = identity("oidc:ada"), Refresher()
    session, _ = await sessions.create(caller, address="a", agent="b", refresher=refresher)
    assert store.remove_session(session.id)
    refresher.sealed = "second"
    session.last_seen += HOUR
    match change:
        case "user":
            await sessions.save_user(session, caller.user)
        case "cookie":
            while not sessions.is_rotation_due(session):
                await asyncio.sleep(0.001)
            assert await sessions.rotate(session) is None
        case _:
            await sessions.save_last_seen()
    assert store.read().sessions == ()


async def test_activity_is_stored_for_all_sessions_at_once_and_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AccessStore(tmp_path)
    sessions = Sessions(store, AuthSettings(session_idle_timeout=1000))
    own = [await create(sessions, identity(f"oidc:{number}")) for number in range(3)]
    written: list[set[str]] = []
    update = store.update_sessions

    def note(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, SessionRecord]:
        written.append(set(changes))
        return update(changes)

    monkeypatch.setattr(store, "update_sessions", note)
    for session, seconds in zip(own, (100, 101, 102), strict=True):
        session.last_seen = session.record.last_seen + seconds * SECOND
    await sessions.save_last_seen()
    await sessions.save_last_seen()
    # A tenth of the idle timeout is not late yet.
    assert written == [{own[1].id, own[2].id}]
    stored = {record.id: record.last_seen for record in store.read().sessions}
    assert [stored[session.id] == session.last_seen for session in own] == [False, True, True]
