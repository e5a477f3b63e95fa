"""Tokens and sessions that a replica lacks while NATS does not respond, on a real nats-server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from almenara.bus.shared import SharedBus
from almenara.cancellation import cancel_and_wait
from almenara.config import Secret, Settings, StorageSettings
from almenara.config.bus import BusSettings
from almenara.config.model import AuthSettings
from almenara.security.access import AccessControl
from almenara.security.access_token import HOLDER
from almenara.security.errors import AuthUnavailable, TooManyAttempts, Unauthenticated
from almenara.security.identity import Role
from almenara.security.request import RequestInfo
from almenara.security.secret_hash import hash_secret
from almenara.security.sessions import SECURE_COOKIE
from almenara.security.tokens import create_token
from support.nats_source import until
from support.replicas import BUS_SECRET, replica, shared_log
from support.servers import NatsServer

pytestmark = pytest.mark.anyio

ATTEMPTS = 3
PATIENCE = 60.0


def make_access(folder: Path, bus: SharedBus) -> AccessControl:
    settings = Settings(
        storage=StorageSettings(dir=folder),
        auth=AuthSettings(mode="token", max_sign_in_attempts=ATTEMPTS),
        bus=BusSettings(kind="jetstream", secret=Secret.of(BUS_SECRET)),
    )
    return AccessControl(settings, bus, tuple, tuple, bus)


@asynccontextmanager
async def running(access: AccessControl) -> AsyncIterator[None]:
    """Exchange tokens beside the block, which starts once the replica has those of the others."""
    assert access.sync is not None
    await access.credentials.load()
    task = asyncio.create_task(access.sync.run())
    try:
        await until(lambda: access.not_ready is None, "the tokens of the others", PATIENCE)
        yield
    finally:
        await cancel_and_wait(task)


def make_request(token: str) -> RequestInfo:
    return RequestInfo(
        headers={"authorization": [f"Bearer {token}"]}, address="192.0.2.1", peer="192.0.2.1",
        is_secure=True, is_local=False, origin="https://almenara.example", port=443,
    )  # fmt: skip


def make_unknown() -> str:
    return create_token("ci", Role.VIEWER, (), 60.0, created_by="a test")[1]


async def test_unknown_token_is_unavailable_while_nats_does_not_respond(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        access = make_access(tmp_path / "a", bus)
        authenticate = access.authenticator.authenticate
        token, text = create_token("ci", Role.VIEWER, (), 60.0, created_by="a test")
        access.credentials.store.add_token(token)
        access.credentials.store.set_access_hash(hash_secret("the access token"), 1)
        async with running(access):
            with pytest.raises(Unauthenticated):
                await authenticate(make_request(make_unknown()))
            nats_server.freeze()
            try:
                for _ in range(2 * ATTEMPTS):
                    with pytest.raises(AuthUnavailable) as refused:
                        await authenticate(make_request(make_unknown()))
                    assert refused.value.retry_after > 0
                assert await authenticate(make_request(text)) is not None
                # What is compared with a secret counts as ever.
                with pytest.raises(Unauthenticated):
                    await authenticate(make_request(f"{text}x"))
                with pytest.raises(Unauthenticated):
                    await authenticate(make_request("another access token"))
                with pytest.raises(TooManyAttempts):
                    await authenticate(make_request("a third access token"))
                with pytest.raises(TooManyAttempts):
                    await authenticate(make_request(make_unknown()))
            finally:
                nats_server.thaw()


def make_browser_request(secret: str) -> RequestInfo:
    return msgspec.structs.replace(
        make_request(""), headers={"cookie": [f"{SECURE_COOKIE}={secret}"]}
    )


async def test_unknown_session_is_unavailable_while_nats_does_not_respond(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    async with (
        replica(nats_server, tmp_path / "a") as bus,
        replica(nats_server, tmp_path / "b") as other_bus,
    ):
        access, other = make_access(tmp_path / "a", bus), make_access(tmp_path / "b", other_bus)
        for each in (access, other):
            each.credentials.store.set_access_hash(hash_secret("the access token"), 1)
        async with running(access), running(other):
            mark = other.credentials.access_token.mark
            assert mark == access.credentials.access_token.mark
            kept = await create_session(other)
            until_ended = await create_session(access)
            authenticate = access.authenticator.authenticate
            assert await authenticate(make_browser_request(kept)) is not None
            # A secret that no replica has is refused as soon as this replica has everything.
            assert await authenticate(make_browser_request("unknown")) is None
            session = access.sessions.find(until_ended)
            assert session is not None
            nats_server.freeze()
            try:
                for _ in range(2 * ATTEMPTS):
                    with pytest.raises(AuthUnavailable) as refused:
                        await authenticate(make_browser_request("unknown"))
                    assert refused.value.retry_after > 0
                assert await authenticate(make_browser_request(kept)) is not None
                # One that is known to be over leads to the sign-in page as ever.
                session.last_seen = 0
                assert await authenticate(make_browser_request(until_ended)) is None
            finally:
                nats_server.thaw()


async def create_session(access: AccessControl) -> str:
    """Start the session of a browser with the access token; return the secret of its cookie."""
    _, secret = await access.sessions.create(
        HOLDER, address="192.0.2.1", agent="a browser",
        access_token_mark=access.credentials.access_token.mark,
    )  # fmt: skip
    return secret


async def test_wrong_access_token_counts_before_the_tokens_of_others_are_received(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    await shared_log(nats_server).prepare()
    async with replica(nats_server, tmp_path / "a") as bus:
        access = make_access(tmp_path / "a", bus)
        access.credentials.store.set_access_hash(hash_secret("the access token"), 1)
        await access.credentials.load()
        assert access.not_ready is not None
        with pytest.raises(AuthUnavailable):
            await access.authenticator.authenticate(make_request(make_unknown()))
        for number in range(ATTEMPTS):
            with pytest.raises(Unauthenticated):
                await access.authenticator.authenticate(make_request(f"guess {number}"))
        with pytest.raises(TooManyAttempts):
            await access.authenticator.authenticate(make_request("guess"))
