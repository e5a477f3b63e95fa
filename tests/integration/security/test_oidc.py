"""Sign-in with a real OpenID Connect provider: node's oidc-provider, in a process of its own."""

import asyncio
import html
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.async_api import async_playwright
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support.application import Almenara
from support.oidc_provider import LOGGED_OUT, SECRET, OidcProvider, signed_in
from support.servers import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def pair(tmp_path: Path, oidc_folder: Path) -> Iterator[tuple[Almenara, OidcProvider]]:
    almenara = Almenara(tmp_path / "a", "nats://127.0.0.1:1")
    provider = OidcProvider(oidc_folder, almenara.url).start()
    almenara.environment |= {
        "ALMENARA_AUTH__MODE": "oidc",
        "ALMENARA_AUTH__OIDC__ISSUER": provider.url,
        "ALMENARA_AUTH__OIDC__CLIENT_ID": "almenara",
        "ALMENARA_AUTH__OIDC__CLIENT_SECRET": SECRET,
        "ALMENARA_AUTH__OIDC__REFRESH_INTERVAL": "1",
        "ALMENARA_AUTH__ROLES": "[{role: admin, groups: [sre]},"
        " {role: viewer, groups: [payments], grants: [{sources: [nats/PAY]}]}]",
    }
    try:
        with almenara:
            yield almenara, provider
    finally:
        provider.stop()


async def closing(almenara: Almenara, browser: httpx.Client) -> tuple[int, float]:
    url = f"ws://127.0.0.1:{almenara.port}/live?panel=events"
    name = almenara.session_cookie
    cookie = f"{name}={browser.cookies.get(name)}"
    async with connect(url, origin=almenara.url, additional_headers={"cookie": cookie}) as socket:  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(20):
                while True:
                    await socket.recv()
        except ConnectionClosed as error:
            return (error.rcvd.code if error.rcvd else 0), time.monotonic()


async def test_oidc_users_get_the_role_of_their_groups(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, _ = pair
    ada = signed_in(almenara, "ada")
    assert ada.get(f"{almenara.url}/sources").status_code == 200
    session = ada.get(f"{almenara.url}/api/session").json()
    assert (session["name"], session["role"], session["groups"]) == ("ada", "admin", ["sre"])
    grace = signed_in(almenara, "grace").get(f"{almenara.url}/api/session").json()
    assert grace["role"] == "viewer"
    assert grace["scope"][0]["sources"] == ["nats/PAY"]
    without_role = signed_in(almenara, "nobody")
    assert without_role.get(f"{almenara.url}/api/session").status_code == 401
    assert "Warning" not in almenara.log


async def test_oidc_refresh_keeps_the_page_until_access_is_lost(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, provider = pair
    for caller, what in (("ada", "groups/ada/payments"), ("grace", "gone/grace")):
        browser = signed_in(almenara, caller)
        waiting = asyncio.create_task(closing(almenara, browser))
        await asyncio.sleep(4)
        assert not waiting.done(), "three refreshes went by and the page stayed open"
        changed_at = time.monotonic()
        await asyncio.to_thread(provider.control, what)
        code, ended = await waiting
        assert code == 4401
        print(f"{what} -> closed with 4401 after {ended - changed_at:.1f} s")
        assert ended - changed_at < 30


async def test_oidc_back_channel_logout_ends_the_session(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, provider = pair
    browser = signed_in(almenara, "ada")
    waiting = asyncio.create_task(closing(almenara, browser))
    await asyncio.sleep(0.5)
    page = browser.get(f"{provider.url}/session/end")
    form = re.search(r'name="xsrf" value="([^"]+)"', page.text)
    assert form is not None
    browser.post(f"{provider.url}/session/end/confirm", data={"xsrf": form[1], "logout": "yes"})
    code, _ = await waiting
    assert code == 4401, almenara.log[-2000:]
    wait_until(lambda: LOGGED_OUT in provider.log, "the end of the logout")


async def test_oidc_sign_out_continues_at_the_provider(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, provider = pair
    browser = signed_in(almenara, "ada")
    form = re.search(r'name="csrf" value="([^"]+)"', browser.get(f"{almenara.url}/account").text)
    assert form is not None
    done = browser.post(
        f"{almenara.url}/sign-out", data={"csrf": form[1]}, headers={"origin": almenara.url},
        follow_redirects=False,
    )  # fmt: skip
    assert done.status_code == 200
    onward = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', done.text)
    assert onward is not None
    address = httpx.URL(html.unescape(onward[1]))
    assert str(address).startswith(provider.url)
    assert address.params["client_id"] == "almenara"
    assert address.params["id_token_hint"]
    assert browser.get(f"{almenara.url}/api/session").status_code == 401
    assert 'name="xsrf"' in browser.get(address).text


async def test_oidc_sign_out_in_a_browser_reaches_the_provider(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, provider = pair
    path = os.environ.get("ALMENARA_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("there is no Chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = await browser.new_page()
        await page.context.add_cookies([{"name": "who", "value": "ada", "url": provider.url}])
        await page.goto(f"{almenara.url}/sign-in/start?next=/account")
        await page.click("button:has-text('Sign out')")
        await page.wait_for_url(f"{provider.url}/session/end?**")
        await page.goto(f"{almenara.url}/account")
        assert "/sign-in" in page.url
        await browser.close()


async def test_oidc_rotated_keys_are_downloaded(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, provider = pair
    signed_in(almenara, "ada")
    before = httpx.get(f"{provider.url}/jwks").json()["keys"][0]["kid"]
    provider.stop()
    provider.start()
    assert httpx.get(f"{provider.url}/jwks").json()["keys"][0]["kid"] != before

    def comes_in() -> bool:
        browser = httpx.Client(follow_redirects=True, timeout=20)
        browser.cookies.set("who", "grace", domain="127.0.0.1", path="/")
        browser.get(f"{almenara.url}/sign-in/start")
        return browser.get(f"{almenara.url}/api/session").status_code == 200

    since = time.monotonic()
    wait_until(comes_in, "a sign-in with the new keys", 20)
    print(f"signed in with new keys after {time.monotonic() - since:.1f} s")
    # Tokens with unknown keys do not cause a download each.
    downloads = provider.log.count("GET /jwks")
    for _ in range(20):
        token = "eyJhbGciOiJSUzI1NiIsImtpZCI6Im1hZGUtdXAifQ.e30.AAAA"
        answer = httpx.post(
            f"{almenara.url}/sign-in/back-channel-logout", data={"logout_token": token}
        )
        assert answer.status_code == 400
    assert provider.log.count("GET /jwks") - downloads <= 2


async def test_oidc_forged_callbacks_and_logout_tokens_are_refused(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, _ = pair
    browser = httpx.Client(timeout=20)
    away = browser.get(f"{almenara.url}/sign-in/start")
    address = httpx.URL(away.headers["location"])
    assert address.params["code_challenge_method"] == "S256"
    assert len(address.params["nonce"]) >= 40
    state = address.params["state"]
    callback = f"{almenara.url}/sign-in/callback"
    other = httpx.Client(timeout=20)
    for client, parameters, status in (
        (other, {"state": state, "code": "x"}, 400),  # another browser
        (browser, {"state": state[:-1], "code": "x"}, 400),
        (browser, {"state": "made-up", "code": "x"}, 400),
        (browser, {"code": "x"}, 400),
        (browser, {}, 400),
    ):
        answer = client.get(callback, params=parameters)
        assert answer.status_code == status, parameters
        assert f"{almenara.session_cookie}=" not in answer.headers.get("set-cookie", "")
    away = browser.get(f"{almenara.url}/sign-in/start")
    state = httpx.URL(away.headers["location"]).params["state"]
    assert browser.get(callback, params={"state": state, "code": "forged"}).status_code == 503
    for token in ("", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30."):
        answer = httpx.post(
            f"{almenara.url}/sign-in/back-channel-logout", data={"logout_token": token}
        )
        assert answer.status_code == 400


async def test_oidc_callback_over_https_needs_the_host_cookie(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, _ = pair
    over_https = {"origin": almenara.url.replace("http:", "https:")}
    for prefix, status in (("almenara-state", 400), ("__Host-almenara-state", 503)):
        away = httpx.get(f"{almenara.url}/sign-in/start", headers=over_https)
        ((suffix, binding),) = re.findall(
            "__Host-almenara-state(-[^=]+)=([^;]+)", away.headers["set-cookie"]
        )
        parameters = {
            "state": httpx.URL(away.headers["location"]).params["state"],
            "code": "forged",
        }
        answer = httpx.get(
            f"{almenara.url}/sign-in/callback", params=parameters,
            headers={**over_https, "cookie": f"{prefix}{suffix}={binding}"},
        )  # fmt: skip
        assert answer.status_code == status


async def test_oidc_hanging_provider_delays_no_revocation(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, provider = pair
    browsers = [signed_in(almenara, caller) for caller in ("ada", "grace")]
    made = almenara.command("access", "create", "probe", "--role", "viewer")
    token = made.stdout.strip()
    headers = {"authorization": f"Bearer {token}"}
    known = f"{almenara.url}/api/session"
    wait_until(lambda: httpx.get(known, headers=headers).status_code == 200, "the token")
    assert provider.process is not None
    provider.process.send_signal(signal.SIGSTOP)
    try:
        url = f"ws://127.0.0.1:{almenara.port}/live?panel=events"
        async with connect(url, origin=almenara.url, additional_headers=headers) as page:  # type: ignore[arg-type]
            await page.recv()
            # Their sessions are due for a refresh by now, which hangs.
            await asyncio.sleep(2.5)
            done = await asyncio.to_thread(
                almenara.command, "access", "revoke", token.split("_")[1]
            )
            since = time.monotonic()
            assert done.returncode == 0, done.stderr
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(20):
                    while True:
                        await page.recv()
        took = time.monotonic() - since
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
        print(f"revoked while the provider hangs -> 4401 after {took:.1f} s")
        assert all(each.get(known).status_code == 200 for each in browsers)
    finally:
        provider.process.send_signal(signal.SIGCONT)


async def test_oidc_unreachable_provider_is_reported(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, provider = pair
    browser = signed_in(almenara, "ada")
    provider.stop()
    await asyncio.sleep(3)
    # Whoever is in stays in, until the session's own end.
    assert browser.get(f"{almenara.url}/api/session").status_code == 200
    away = httpx.get(f"{almenara.url}/sign-in/start")
    assert away.status_code in (303, 503)


async def test_oidc_sign_in_in_several_tabs_leads_each_to_its_page(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, _ = pair
    browser = httpx.Client(timeout=20)
    browser.cookies.set("who", "ada", domain="127.0.0.1", path="/")

    def start(page: str) -> str:
        """Open the sign-in of a tab; return the address at the provider."""
        away = browser.get(f"{almenara.url}/sign-in/start", params={"next": page})
        assert away.status_code == 303
        return str(away.headers["location"])

    first, second = start("/sources"), start("/events?text=x")
    # The tab that started first is not the one that was started last.
    done = browser.get(first, follow_redirects=True)
    assert str(done.url) == f"{almenara.url}/sources"
    session = browser.cookies[almenara.session_cookie]
    callback = done.history[-1].url
    done = browser.get(second, follow_redirects=True)
    assert str(done.url) == f"{almenara.url}/events?text=x"
    assert browser.cookies[almenara.session_cookie] == session, "the first tab keeps its session"
    # A reload of the callback, and another sign-in, just continue.
    assert browser.get(callback).headers["location"] == "/"
    assert start("/sources") == "/sources"
    assert browser.get(f"{almenara.url}/sources").status_code == 200


async def test_oidc_failed_sign_in_keeps_the_page(pair: tuple[Almenara, OidcProvider]) -> None:
    almenara, _ = pair
    browser = httpx.Client(timeout=20)
    away = browser.get(f"{almenara.url}/sign-in/start", params={"next": "/events?text=x"})
    state = httpx.URL(away.headers["location"]).params["state"]
    parameters = {"state": state, "error": "access_denied"}
    page = browser.get(f"{almenara.url}/sign-in/callback", params=parameters)
    assert page.status_code == 403
    assert "/sign-in/start?next=%2Fevents%3Ftext%3Dx" in page.text


async def test_oidc_redirect_uri_is_the_public_address(
    pair: tuple[Almenara, OidcProvider],
) -> None:
    almenara, _ = pair

    def redirect_uri(**headers: str) -> str:
        away = httpx.get(f"{almenara.url}/sign-in/start", headers=headers)
        return str(httpx.URL(away.headers["location"]).params["redirect_uri"])

    assert redirect_uri() == f"{almenara.url}/sign-in/callback"
    forwarded = {
        "x-forwarded-for": "203.0.113.9, 127.0.0.2", "x-forwarded-proto": "https,http",
        "x-forwarded-host": "watch.example", "x-forwarded-port": "8443",
    }  # fmt: skip
    assert redirect_uri(**forwarded) == f"{almenara.url}/sign-in/callback", "nothing is trusted"
    almenara.stop()
    almenara.environment |= {
        "ALMENARA_SERVER__TRUSTED_PROXIES": '["127.0.0.0/8"]',
        "ALMENARA_SERVER__ALLOWED_HOSTS": '["watch.example", "inner"]',
    }
    almenara.start()
    assert redirect_uri(**forwarded) == "https://watch.example:8443/sign-in/callback"
    almenara.stop()
    almenara.environment["ALMENARA_SERVER__URL"] = "https://public.example"
    almenara.start()
    lost = {"host": "inner", "x-forwarded-for": "203.0.113.9"}
    assert redirect_uri(**lost) == "https://public.example/sign-in/callback"
