"""Sessions and tokens of two replicas on one bus."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import nats
import pytest

from support.application import Almenara
from support.replicas import replicated_almenara
from support.servers import NatsServer, wait_until


@pytest.fixture
def attempts() -> int:
    """Failed sign-ins before an address has to wait."""
    return 5


@pytest.fixture
def replicas(
    tmp_path: Path, nats_server: NatsServer, attempts: int
) -> Iterator[tuple[Almenara, Almenara]]:
    auth = {"mode": "token", "max_sign_in_attempts": attempts}
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


def test_sign_in_and_revocation_hold_on_both_replicas(
    replicas: tuple[Almenara, Almenara], nats_server: NatsServer
) -> None:
    first, second = replicas
    access_token = command(first, "rotate")
    for each in replicas:
        wait_until(lambda each=each: bearer_status(each, access_token) == 200, "the access token")
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
    wait_until(lambda: bearer_status(first, token) == 200, "the API token")
    command(first, "revoke", token.split("_")[1])
    wait_until(lambda: bearer_status(second, token) == 401, "the revocation")
    # A token that another client of NATS has put there is not accepted.
    asyncio.run(forge(nats_server, token))
    command(first, "rotate")
    wait_until(lambda: page_status(second, secret) == 303, "the end of the session")
    wait_until(lambda: page_status(second, other) == 303, "the end of the other session")
    assert bearer_status(first, token) == bearer_status(second, token) == 401
    assert "no valid signature" in first.log


def count_refusals(almenara: Almenara, token: str) -> int:
    path = "/api/events?type=almenara.access.sign_in_refused&limit=100"
    return len(almenara.get(path, {"authorization": f"Bearer {token}"})["events"])


@pytest.mark.parametrize("attempts", [20])
def test_failed_sign_ins_count_on_both_replicas(replicas: tuple[Almenara, Almenara]) -> None:
    first, second = replicas
    token = command(first, "create", "admin", "--role", "admin")
    wait_until(lambda: bearer_status(second, token) == 200, "the API token")
    # Neither replica delays these by its own count.
    assert [bearer_status(first, "wrong") for _ in range(15)] == [401] * 15
    wait_until(lambda: count_refusals(second, token) == 15, "the attempts at the other replica")
    assert 429 in [bearer_status(second, "wrong") for _ in range(15)]


async def forge(server: NatsServer, token: str) -> None:
    """Put a token into the bucket, without a signature."""
    client = await nats.connect(server.url)
    values = await client.jetstream().key_value("ALMENARA_BUS_STATE")
    _, id_, _ = token.split("_", 2)
    body = {"id": id_, "name": "x", "hash": "x", "role": 3, "grants": [[]], "created": 1,
            "expires": 2**60, "by": "x"}  # fmt: skip
    await values.put(f"token.{id_}", bytes(32) + json.dumps(body).encode())
    await client.close()
