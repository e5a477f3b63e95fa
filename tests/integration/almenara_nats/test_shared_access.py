"""Sessions and tokens of two replicas on one bus."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import nats
import pytest

from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from support.application import Almenara
from support.replicas import replicated_almenara
from support.servers import NatsServer, wait_until

ATTEMPTS = 10
PROMISED = 5.0
"""Seconds within which a sign-out or a revocation holds on every replica."""
PATIENCE = 20.0


@pytest.fixture
def replicas(tmp_path: Path, nats_server: NatsServer) -> Iterator[tuple[Almenara, Almenara]]:
    auth = {"mode": "token", "max_sign_in_attempts": ATTEMPTS}
    first, second = (
        replicated_almenara(nats_server, tmp_path / name, name, auth=auth) for name in ("a", "b")
    )
    assert first.command("streams", "apply").returncode == 0
    with first, second:
        yield first, second


def command(almenara: Almenara, *arguments: str) -> str:
    done = almenara.command("access", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bearer_status(almenara: Almenara, token: str) -> int:
    return almenara.status("/api/session", authorization=f"Bearer {token}")


def page_status(almenara: Almenara, secret: str) -> int:
    cookie = {"cookie": f"{almenara.session_cookie}={secret}"}
    return httpx.get(f"{almenara.url}/account", headers=cookie).status_code


def sign_in(almenara: Almenara, token: str) -> str:
    """Sign in and return the secret of the cookie."""
    with httpx.Client(base_url=almenara.url, headers={"origin": almenara.url}) as client:
        page = client.get("/sign-in")
        form = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert form is not None, f"{page.status_code}: {page.text}"
        done = client.post("/sign-in", data={"csrf": form[1], "token": token})
        assert done.status_code == 303, done.text
        return str(client.cookies[almenara.session_cookie])


def wait_for_bearer(
    almenara: Almenara, bearer: str, status: int, what: str, patience: float = PATIENCE
) -> None:
    """Wait until a replica answers a token with a status."""
    wait_until(lambda: bearer_status(almenara, bearer) == status, what, patience)


def test_sign_in_and_revocation_hold_on_both_replicas(
    replicas: tuple[Almenara, Almenara], nats_server: NatsServer
) -> None:
    first, second = replicas
    access_token = command(first, "rotate")
    for each in replicas:
        wait_for_bearer(each, access_token, 200, "the access token")
    # A browser that is sent to the other replica is signed in there at once.
    secret = sign_in(first, access_token)
    assert page_status(second, secret) == 200
    assert page_status(first, secret) == 200
    other = sign_in(second, access_token)
    assert page_status(first, other) == 200
    ended = re.findall(r"session +(\w+)", command(second, "list"))
    assert len(ended) == 2
    command(second, "revoke", ended[0])
    wait_until(
        lambda: sorted(page_status(first, each) for each in (secret, other)) == [200, 303],
        "the end of one session",
    )
    token = command(second, "create", "script")
    wait_for_bearer(first, token, 200, "the API token")
    command(first, "revoke", token.split("_")[1])
    wait_for_bearer(second, token, 401, "the revocation")
    # A token that another client of NATS has put there is not accepted.
    asyncio.run(forge(nats_server, token))
    command(first, "rotate")
    wait_until(lambda: page_status(second, secret) == 303, "the end of the session")
    wait_until(lambda: page_status(second, other) == 303, "the end of the other session")
    assert bearer_status(first, token) == bearer_status(second, token) == 401
    assert "no valid signature" in first.log


def sign_out(almenara: Almenara, secret: str) -> None:
    """Sign a browser out, on the page of its account."""
    headers = {"origin": almenara.url, "cookie": f"{almenara.session_cookie}={secret}"}
    with httpx.Client(base_url=almenara.url, headers=headers) as client:
        form = re.search(r'name="csrf" value="([^"]+)"', client.get("/account").text)
        assert form is not None
        assert client.post("/sign-out", data={"csrf": form[1]}).status_code == 303


def test_sign_out_and_revocation_reach_every_replica_in_time(
    replicas: tuple[Almenara, Almenara], nats_server: NatsServer, tmp_path: Path
) -> None:
    first, second = replicas
    with replicated_almenara(nats_server, tmp_path / "c", "c", auth={"mode": "token"}) as third:
        others = (second, third)
        access_token = command(first, "rotate")
        for each in (first, *others):
            wait_for_bearer(each, access_token, 200, "the token")
        secrets = [sign_in(first, access_token) for _ in range(3)]
        token = command(first, "create", "script")

        def is_known(status: int, secret: str) -> bool:
            return all(page_status(each, secret) == status for each in others)

        for each in others:
            wait_for_bearer(each, token, 200, "the API token")
        assert all(is_known(200, secret) for secret in secrets)
        started = time.monotonic()
        sign_out(first, secrets[0])
        wait_until(lambda: is_known(303, secrets[0]), "the sign-out", PROMISED)
        signed_out, started = time.monotonic() - started, time.monotonic()
        command(first, "revoke", token.split("_")[1])
        for each in others:
            wait_for_bearer(each, token, 401, "the revocation", PROMISED)
        revoked, started = time.monotonic() - started, time.monotonic()
        assert is_known(200, secrets[1])
        command(first, "rotate")
        wait_until(lambda: is_known(303, secrets[1]), "the end of a session", PROMISED)
        wait_until(lambda: is_known(303, secrets[2]), "the end of the other session", PROMISED)
        for each in others:
            wait_for_bearer(each, access_token, 401, "the end of the token", PROMISED)
        ended = time.monotonic() - started
    print(
        f"on every replica after: sign-out {signed_out:.2f} s, revocation {revoked:.2f} s,"
        f" new access token {ended:.2f} s"
    )


def count_refusals(almenara: Almenara, token: str) -> int:
    path = "/api/events?type=almenara.access.sign_in_refused&limit=100"
    return len(almenara.get(path, {"authorization": f"Bearer {token}"})["events"])


def test_failed_sign_ins_count_on_both_replicas(replicas: tuple[Almenara, Almenara]) -> None:
    first, second = replicas
    token = command(first, "create", "admin", "--role", "admin")
    name = token.split("_")[1]
    wait_until(lambda: name in command(second, "list"), "the API token")
    assert bearer_status(second, token) == 200
    # Neither replica delays these by its own count.
    most = ATTEMPTS - 1
    assert [bearer_status(first, f"a{number}") for number in range(most)] == [401] * most
    wait_until(lambda: count_refusals(second, token) == most, "the attempts at the other replica")
    assert 429 in [bearer_status(second, f"b{number}") for number in range(most)]


def test_token_that_has_not_arrived_yet_locks_no_address(
    replicas: tuple[Almenara, Almenara],
) -> None:
    first, second = replicas
    admin = command(first, "create", "admin", "--role", "admin")
    wait_for_bearer(second, admin, 200, "the first token")
    # What a command stores beside the first replica, it shares up to half a second later.
    early, text = create_token("script", Role.VIEWER, (), 3600, created_by="test")
    assert [bearer_status(second, text) for _ in range(3 * ATTEMPTS)] == [401] * 3 * ATTEMPTS
    AccessStore(first.folder / "var").add_token(early)
    wait_for_bearer(second, text, 200, "the token")
    assert count_refusals(second, admin) < ATTEMPTS


async def forge(server: NatsServer, token: str) -> None:
    """Put a token into the bucket, without a signature."""
    client = await nats.connect(server.url)
    values = await client.jetstream().key_value("ALMENARA_BUS_STATE")
    _, id_, _ = token.split("_", 2)
    body = {"id": id_, "name": "x", "hash": "x", "role": 3, "grants": [[]], "created": 1,
            "expires": 2**60, "by": "x"}  # fmt: skip
    await values.put(f"token.{id_}", bytes(32) + json.dumps(body).encode())
    await client.close()
