"""Refreshes of the sessions that replicas share: a refresh token that counts once is not lost."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from almenara.config import AuthSettings, OidcSettings, Settings, StorageSettings
from almenara.scope import FULL_SCOPE
from almenara.security import reviewer as module
from almenara.security.connections import OpenConnections
from almenara.security.credentials import Credentials
from almenara.security.identity import Identity, Role, User
from almenara.security.oidc_session import OidcRefresher, unseal
from almenara.security.reviewer import Reviewer
from almenara.security.sessions import Session

pytestmark = pytest.mark.anyio

SECRET = "a-secret-that-the-replicas-of-this-test-share"
ADA = User(name="ada", subject="oidc:ada")
CLAIMS = {"sub": "ada", "exp": 4_000_000_000}


class RotatingProvider:
    """A provider whose refresh tokens count once: `r0`, `r1` and so on."""

    def __init__(self) -> None:
        self.settings = OidcSettings(
            issuer="https://provider.test", client_id="almenara", refresh_interval=0.001
        )
        self.issued = 0
        self.is_known = True
        """Whether the user is found after a refresh."""
        self.responds = asyncio.Event()
        self.responds.set()
        self.received: asyncio.Queue[str] = asyncio.Queue()

    async def shared_secret(self) -> str | None:
        return SECRET

    async def refresh(self, refresh_token: str) -> dict[str, Any] | None:
        if refresh_token != f"r{self.issued}":
            return None
        self.issued += 1
        self.received.put_nowait(refresh_token)
        await self.responds.wait()
        return {"refresh_token": f"r{self.issued}"}

    async def decode_id_token(self, token: Mapping[str, Any], nonce: str | None) -> dict[str, Any]:
        raise AssertionError("no response has an ID token")

    async def fetch_user(self, claims: Mapping[str, Any], token: Mapping[str, Any]) -> User:
        if not self.is_known:
            raise OSError("the userinfo endpoint does not respond")
        return ADA


class Resolver:
    """Gives every user a role."""

    depends_on_cluster = False
    access_refresh_interval = 0.001

    async def resolve(self, user: User | None, max_age: float = 0.0) -> Identity | None:
        return user and Identity(user=user, role=Role.VIEWER, scope=FULL_SCOPE)


class Replica:
    """What refreshes the session of one user."""

    def __init__(self, credentials: Credentials, provider: RotatingProvider) -> None:
        self.credentials, self.provider = credentials, provider
        resolver: Any = Resolver()
        audit: Any = None
        connections = OpenConnections(Settings().server, "oidc")
        self.reviewer = Reviewer(AuthSettings(), "oidc", credentials, resolver, connections, audit)

    async def sign_in(self) -> Session:
        token = {"id_token": "x", "refresh_token": "r0"}
        session, _ = await self.credentials.sessions.create(
            Identity(user=ADA, role=Role.VIEWER, scope=FULL_SCOPE),
            address="a", agent="b", refresher=OidcRefresher(self.provider, CLAIMS, token),
        )  # fmt: skip
        session.refreshed = session.user_fetched = 0
        return session

    def read_refresh_token(self) -> str | None:
        """Return the refresh token that another replica continues with."""
        (record,) = self.credentials.store.read().sessions
        refresher = unseal(self.provider, SECRET, record.sealed)
        assert refresher is not None
        return refresher._refresh_token

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator["asyncio.Task[None]"]:
        task = asyncio.create_task(self.reviewer.refresh_shared())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
def replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replica:
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    credentials = Credentials(Settings(storage=StorageSettings(dir=tmp_path)), "oidc")
    return Replica(credentials, RotatingProvider())


async def test_new_refresh_token_is_stored_where_the_user_cannot_be_fetched(
    replica: Replica,
) -> None:
    replica.provider.is_known = False
    await replica.sign_in()
    async with replica.refreshing(), asyncio.timeout(10):
        for number in range(3):
            assert await replica.provider.received.get() == f"r{number}"
    # The last one may just have been sent.
    assert replica.read_refresh_token() == f"r{replica.provider.issued}"
    assert replica.provider.issued >= 3


async def test_refresh_that_is_with_the_provider_ends_before_the_work_does(
    replica: Replica,
) -> None:
    replica.provider.responds.clear()
    await replica.sign_in()
    async with replica.refreshing() as task, asyncio.timeout(10):
        await replica.provider.received.get()
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done
        replica.provider.responds.set()
        await asyncio.wait([task])
        assert task.cancelled()
    assert replica.read_refresh_token() == "r1"
    assert replica.provider.issued == 1


async def test_provider_that_does_not_respond_is_abandoned(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEWAL_TIMEOUT", 0.05)
    replica.provider.responds.clear()
    await replica.sign_in()
    async with replica.refreshing() as task, asyncio.timeout(10):
        await replica.provider.received.get()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    assert replica.read_refresh_token() == "r0"


async def test_session_that_the_provider_ended_ends(replica: Replica) -> None:
    session = await replica.sign_in()
    replica.provider.issued = 7
    events: list[str] = []
    audit: Any = SimpleNamespace(record=lambda event, **fields: events.append(event))
    replica.reviewer.audit = audit
    async with replica.refreshing(), asyncio.timeout(10):
        while not events:
            await asyncio.sleep(0.01)
    assert session.identity is None
    assert events == ["session_ended"]
    assert replica.credentials.store.read().sessions == ()


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("disk I/O error"), OSError("no such file"), None]
)
async def test_refreshes_start_once_the_sessions_can_be_received(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    receive = replica.credentials.receive
    attempts = 0

    async def fail_twice() -> bool:
        nonlocal attempts
        attempts += 1
        if attempts > 2:
            return await receive()
        assert not replica.provider.issued
        if error is not None:
            raise error
        return False

    monkeypatch.setattr(replica.credentials, "receive", fail_twice)
    await replica.sign_in()
    async with replica.refreshing(), asyncio.timeout(10):
        assert await replica.provider.received.get() == "r0"
    assert attempts == 3
