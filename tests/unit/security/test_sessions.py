"""Limits of sessions: a user who signs in often ends its own sessions only."""

from pathlib import Path

import pytest

from almenara.config import AuthSettings
from almenara.scope import FULL_SCOPE
from almenara.security import sessions as module
from almenara.security.identity import Identity, Role, User
from almenara.security.sessions import Session, Sessions
from almenara.security.store import AccessStore

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
