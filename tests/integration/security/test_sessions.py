"""Sessions: starting, rotating, ending and counting them, on a running server."""

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.application import Almenara
from support.secured_server import SecuredServer, wait_for_close
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio


async def test_session_revocation_closes_pages_with_4401_within_5_seconds(
    secured: SecuredServer,
) -> None:
    taken = []
    for how in ("sign out", "revoked by an admin", "revoked by command"):
        client, csrf = await asyncio.to_thread(secured.sign_in)
        waiting = asyncio.create_task(wait_for_close(secured, client))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        ids = re.findall(r"/account/sessions/(\w+)/end", client.get("/account").text)
        started = time.monotonic()
        if how == "sign out":
            assert client.post("/sign-out", data={"csrf": csrf}).status_code == 303
        elif how == "revoked by an admin":
            done = client.post(f"/account/sessions/{ids[0]}/end", data={"csrf": csrf})
            assert done.status_code == 303
        else:
            for each in ids:
                await asyncio.to_thread(secured.command, "revoke", each)
            started = time.monotonic()
        code, ended = await waiting
        assert code == 4401, how
        taken.append(ended - started)
        assert client.get("/events").status_code == 303
    print(f"revoked -> closed with 4401: {max(taken):.2f} s at most")
    assert max(taken) < 5


async def test_websocket_without_session_is_accepted_and_closed_with_4401(
    secured: SecuredServer,
) -> None:
    url = f"{secured.url.replace('http', 'ws')}/live?panel=events"
    async with connect(url, origin=secured.url) as socket:  # type: ignore[arg-type]
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


async def test_sign_in_ignores_a_planted_cookie(secured: SecuredServer) -> None:
    planted = "planted-by-another-host"
    client = secured.browser()
    client.cookies.set(secured.almenara.session_cookie, planted, domain="127.0.0.1")
    csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/sign-in").text)
    assert csrf is not None
    done = client.post("/sign-in", data={"csrf": csrf[1], "token": secured.access_token})
    assert done.status_code == 303
    cookie = done.headers["set-cookie"]
    assert planted not in cookie
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert (
        httpx.get(
            secured.url + "/api/session", cookies={secured.almenara.session_cookie: planted}
        ).status_code
        == 401
    )
    secure = secured.browser()
    host = f"127.0.0.1:{secured.almenara.port}"
    page = secure.get("/sign-in", headers={"origin": f"https://{host}"})
    assert f"__Host-almenara-form-{secured.almenara.port}=" in page.headers["set-cookie"]
    assert "Secure" in page.headers["set-cookie"]
    assert "strict-transport-security" in page.headers


async def test_sign_in_redirects_to_local_paths_only(secured: SecuredServer) -> None:
    for bad in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:x",
                "/\t/evil.example", "evil", "/%09/x\r\nset-cookie: a=b"):  # fmt: skip
        client = secured.browser()
        csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/sign-in").text)
        assert csrf is not None
        done = client.post(
            "/sign-in", data={"csrf": csrf[1], "token": secured.access_token, "next": bad}
        )
        assert done.status_code == 303
        assert done.headers["location"] == "/", bad


async def test_websockets_beyond_the_user_limit_are_refused(secured: SecuredServer) -> None:
    url = f"{secured.url.replace('http', 'ws')}/live?panel=events"
    headers = {"authorization": f"Bearer {secured.tokens['operator']}"}
    sockets = [
        await connect(url, origin=secured.url, additional_headers=headers)  # type: ignore[arg-type]
        for _ in range(4)
    ]
    started = time.monotonic()
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, origin=secured.url, additional_headers=headers):  # type: ignore[arg-type]
            pass
    print(f"over the cap: 503 after {(time.monotonic() - started) * 1000:.0f} ms")
    assert refused.value.response.status_code == 503
    for each in sockets:
        await each.close()

    def none_left() -> bool:
        return bool(secured.get("/api/health", "viewer").json()["subscribers"] == 0)

    await asyncio.to_thread(wait_until, none_left, "the end of those that were closed")
    # All at once they are no more either: what is being opened counts.
    trying = [connect(url, origin=secured.url, additional_headers=headers) for _ in range(40)]  # type: ignore[arg-type]
    came = await asyncio.gather(*trying, return_exceptions=True)
    opened = [each for each in came if not isinstance(each, BaseException)]
    assert len(opened) == 4
    for each in opened:
        await each.close()


async def test_access_token_rotation_ends_sessions_of_the_old_one(secured: SecuredServer) -> None:
    client, _ = secured.sign_in()
    old = secured.access_token
    secured.access_token = secured.command("rotate")
    assert secured.token_status(secured.access_token) == 200, "it is good at once"
    assert secured.token_status(secured.command("create", "at once")) == 200
    wait_until(lambda: client.get("/events").status_code == 303, "the old session's end")
    assert secured.token_status(old) == 401
    client, _ = secured.sign_in()
    assert client.get("/events").status_code == 200


async def test_sessions_survive_a_restart_and_expire(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    almenara = Almenara(
        tmp_path / "a", nats_server.url, AUTH__MODE="token", AUTH__SESSION_ROTATION_INTERVAL="1"
    )
    token = almenara.command("access", "rotate").stdout.strip()

    def sign_in() -> httpx.Client:
        browser = httpx.Client(base_url=almenara.url, headers={"origin": almenara.url}, timeout=20)
        csrf = re.search(r'name="csrf" value="([^"]+)"', browser.get("/sign-in").text)
        assert csrf is not None
        browser.post("/sign-in", data={"csrf": csrf[1], "token": token})
        return browser

    name = almenara.session_cookie
    with almenara:
        browser = sign_in()
        first = browser.cookies[name]
        time.sleep(1.2)
        browser.get("/", headers={"sec-fetch-dest": "document"})
        assert browser.cookies[name] != first, "the cookie was exchanged"
        # Where the answer with the new one never came, the old one goes on and is exchanged again.
        previous = browser.cookies[name]
        browser.get("/")
        time.sleep(1.2)
        lost = httpx.get(
            almenara.url, cookies={name: previous}, headers={"sec-fetch-dest": "document"}
        ).cookies[name]
        time.sleep(1.2)
        again = httpx.get(
            almenara.url, cookies={name: previous}, headers={"sec-fetch-dest": "document"}
        )
        assert again.status_code == 200
        got = again.cookies[name]
        for cookie, status in ((got, 200), (previous, 200), (lost, 303)):
            assert httpx.get(almenara.url, cookies={name: cookie}).status_code == status
        # Tabs that are opened at once have one exchange between them.
        time.sleep(1.2)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: httpx.get(
                almenara.url, cookies={name: got}, headers={"sec-fetch-dest": "document"}
            ), range(6)))  # fmt: skip
        assert [each.status_code for each in answers] == [200] * 6
        fresh = [each.cookies[name] for each in answers if name in each.cookies]
        assert len(fresh) == 1
        browser.cookies.set(name, fresh[0], domain="127.0.0.1")
        almenara.stop()
        almenara.environment["ALMENARA_AUTH__SESSION_LIFETIME"] = "3"
        almenara.start()
        assert browser.get("/events").status_code == 200
        started = time.monotonic()
        short = sign_in()
        wait_until(lambda: short.get("/events").status_code == 303, "its end", 20)
        assert time.monotonic() - started > 2.9


async def test_websockets_of_one_token_count_together_over_its_sessions(
    secured: SecuredServer,
) -> None:
    token = secured.command("create", "many-sessions", "--role", "viewer")
    wait_until(lambda: secured.token_status(token) == 200, "the token")
    browsers = [(await asyncio.to_thread(secured.sign_in, token))[0] for _ in range(3)]
    url = f"{secured.url.replace('http', 'ws')}/live?panel=events"
    opened, refused = [], 0
    for browser in browsers:
        cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        headers = {"cookie": cookies}
        for _ in range(3):
            try:
                socket = connect(url, origin=secured.url, additional_headers=headers)  # type: ignore[arg-type]
                opened.append(await socket)
            except InvalidStatus as error:
                assert error.response.status_code == 503
                refused += 1
    assert (len(opened), refused) == (4, 5), "server.websockets_per_user is 4"
    for socket in opened:
        await socket.close()
