"""Tokens of a cluster on a running server, with a review server in place of the API server."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support.application import Almenara
from support.reviews import ReviewServer, run_review_server

pytestmark = pytest.mark.anyio

NO_NATS = "nats://127.0.0.1:1"
REVIEW_INTERVAL = 1


@pytest.fixture
def reviews() -> Iterator[ReviewServer]:
    with run_review_server() as server:
        server.users["token-of-ada"] = "ada"
        yield server


def configure(folder: Path, reviews: ReviewServer, **settings: str) -> Almenara:
    return Almenara(
        folder,
        NO_NATS,
        PLUGINS__DISABLED="[nats]",
        AUTH__MODE="kubernetes",
        AUTH__KUBERNETES__SERVER=reviews.url,
        AUTH__KUBERNETES__TOKEN="token-of-almenara",
        AUTH__KUBERNETES__TOKEN_REVIEW_INTERVAL=str(REVIEW_INTERVAL),
        AUTH__ROLES="[{role: admin, groups: ['*']}]",
        **settings,
    )


def sign_in(almenara: Almenara, token: str) -> tuple[httpx.Client, str]:
    """Return a signed-in browser and the CSRF token of its forms."""
    browser = httpx.Client(base_url=almenara.url, headers={"origin": almenara.url}, timeout=20)
    form = re.search(r'name="csrf" value="([^"]+)"', browser.get("/sign-in").text)
    assert form is not None
    response = browser.post("/sign-in", data={"csrf": form[1], "token": token})
    assert response.status_code == 303, response.text
    form = re.search(r'name="csrf" value="([^"]+)"', browser.get("/account").text)
    assert form is not None
    return browser, form[1]


@pytest.mark.parametrize("credentials", ["header", "session"])
async def test_websocket_closes_soon_after_its_kubernetes_token_is_revoked(
    tmp_path: Path, reviews: ReviewServer, credentials: str
) -> None:
    with configure(tmp_path / "a", reviews) as almenara:
        headers = {"authorization": "Bearer token-of-ada"}
        if credentials == "session":
            browser, _ = await asyncio.to_thread(sign_in, almenara, "token-of-ada")
            cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
            headers = {"cookie": cookies}
        url = f"ws://127.0.0.1:{almenara.port}/live?panel=events"
        async with connect(url, origin=almenara.url, additional_headers=headers) as socket:  # type: ignore[arg-type]
            await socket.recv()
            # It stays open over several reviews of a valid token.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3 * REVIEW_INTERVAL):
                    while True:
                        await socket.recv()
            del reviews.users["token-of-ada"]
            started = time.monotonic()
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(30):
                    while True:
                        await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
        elapsed = time.monotonic() - started
        print(f"Kubernetes token revoked -> {credentials} closed with 4401 after {elapsed:.1f} s")


async def test_token_cannot_see_sources_that_a_pattern_guards(
    tmp_path: Path, reviews: ReviewServer
) -> None:
    with configure(
        tmp_path / "a",
        reviews,
        AUTH__AUTHORIZATION="kubernetes",
        AUTH__KUBERNETES__SOURCES='["kubernetes-*"]',
    ) as almenara:
        browser, csrf = await asyncio.to_thread(sign_in, almenara, "token-of-ada")

        def create(sources: str) -> bool:
            form = {"csrf": csrf, "name": "script", "role": "admin", "days": "1"}
            response = browser.post("/account/tokens", data={**form, "sources": sources})
            return re.search(r"\balm_[\w-]+", response.text) is not None

        for sources in ("", "kubernetes-eu", "kubernetes-*", "nats kubernetes-eu", "*", ">",
                        "kubernetes-eu/pods", "*-eu"):  # fmt: skip
            assert not create(sources), sources
        assert create("nats")
