"""API tokens: scope, revocation, and wrong ones, on a running server."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from support.application import Almenara
from support.secured_server import THEIRS, SecuredServer, wait_for_close
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio


async def test_token_revocation_ends_its_sessions(secured: SecuredServer) -> None:
    token = secured.command("create", "short", "--role", "viewer")
    wait_until(lambda: secured.token_status(token) == 200, "the token")
    client, _ = secured.sign_in(token)
    waiting = asyncio.create_task(wait_for_close(secured, client))
    await asyncio.sleep(0.3)
    secured.command("revoke", token.split("_")[1])
    code, _ = await waiting
    assert code == 4401
    assert secured.token_status(token) == 401
    for bad in ("alm_", "alm__", "alm_000000000000_x", token + "x", "nothing", "a" * 9000):
        assert secured.token_status(bad) == 401, bad


async def test_scoped_admin_cannot_create_a_token_beyond_the_scope(secured: SecuredServer) -> None:
    client, csrf = secured.sign_in(secured.tokens["scoped admin"])

    def made(**more: str) -> str:
        """Return the token that the account page shows; empty where it was refused."""
        form = {"csrf": csrf, "name": "it", "role": "admin", "days": "1", **more}
        match = re.search(r"\balm_[\w-]+", client.post("/account/tokens", data=form).text)
        return match[0] if match else ""

    for more in ({"types": "teamb.>"}, {"types": ">"}, {"types": "teama.> teamb.happened"}):
        assert made(**more) == "", more
    token = made()
    wait_until(lambda: secured.token_status(token) == 200, "the token")
    secured.tokens["made"] = token
    session = secured.get("/api/session", "made").json()
    assert (session["role"], session["scope"][0]["types"]) == ("admin", ["teama.>"])
    for path in ("/api/events?limit=1000", "/api/events.ndjson", "/events", "/api/resources"):
        assert THEIRS not in secured.get(path, "made").text
    del secured.tokens["made"]
    secured.command("revoke", token.split("_")[1])


async def test_wrong_tokens_do_not_delay_verified_ones(tmp_path: Path) -> None:
    with Almenara(tmp_path / "a", "nats://127.0.0.1:1", AUTH__MODE="token",
                  PLUGINS__DISABLED="[nats]") as almenara:  # fmt: skip
        good = almenara.command("access", "rotate").stdout.strip()

        def status(token: str) -> int:
            headers = {"authorization": f"Bearer {token}"}
            return httpx.get(f"{almenara.url}/api/session", headers=headers).status_code

        assert status(good) == 200
        wait_until(lambda: status("a-token-that-is-wrong") == 429, "the wait after wrong tokens")
        assert status(good) == 200
        almenara.command("access", "rotate")
        wait_until(lambda: status(good) != 200, "the end of what was good")


async def test_secrets_are_neither_logged_nor_stored(secured: SecuredServer) -> None:
    client, csrf = secured.sign_in()
    secrets = [secured.access_token, *secured.tokens.values(), csrf, *client.cookies.values()]
    folder = secured.almenara.folder
    texts = [
        each.read_bytes()
        for each in folder.rglob("*")
        if each.is_file() and "nats" not in str(each)
    ]
    for secret in secrets:
        if secret == csrf:
            continue  # worthless without the cookie
        assert not any(secret.encode() in text for text in texts)
        if secret.startswith("alm_"):
            # The secret part of an API token, which stands behind its id.
            assert not any(secret.split("_", 2)[-1].encode() in text for text in texts)
    mode = (folder / "var" / "access.db").stat().st_mode
    assert mode & 0o077 == 0


async def test_wrong_tokens_wait_longer_each_time(tmp_path: Path, nats_server: NatsServer) -> None:
    with Almenara(tmp_path / "a", nats_server.url, AUTH__MODE="token") as almenara:
        statuses = [almenara.status("/api/session", Authorization="Bearer x") for _ in range(8)]
        assert statuses == [401] * 5 + [429] * 3
        assert almenara.status("/healthz") == 200
