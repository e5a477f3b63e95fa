"""Credentials that a command has just stored, beside a running process."""

import asyncio
from pathlib import Path

import pytest

from almenara.config import Settings, StorageSettings
from almenara.security.credentials import Credentials
from almenara.security.store import AccessStore, ApiToken
from almenara.signals import now
from almenara.units import HOUR

pytestmark = pytest.mark.anyio


async def test_new_token_is_known_to_all_requests_that_wait_for_it(tmp_path: Path) -> None:
    credentials = Credentials(Settings(storage=StorageSettings(dir=tmp_path)), "token")
    await credentials.load()
    known = credentials.revision
    token = ApiToken(
        id="t1", name="ci", hash="x", role=1, grants=(), created=now(), expires=now() + HOUR,
        created_by="a command",
    )  # fmt: skip
    AccessStore(tmp_path).add_token(token)

    # The second one reads nothing: the first has just done so.
    async def find_new() -> ApiToken | None:
        await credentials.receive()
        return credentials.tokens.get("t1") if credentials.revision != known else None

    assert await asyncio.gather(find_new(), find_new()) == [token, token]
    received = credentials.revision
    await credentials.receive()
    assert credentials.revision == received
