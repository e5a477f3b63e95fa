"""Who may see what, against a running Almenara."""

import asyncio
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from litestar import Litestar, WebSocket, get, websocket
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.params import FromPath
from litestar.routes import HTTPRoute, WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from almenara.config import Settings
from almenara.security.auth_context import AuthContext
from almenara.security.identity import Role, everybody
from almenara.web.app import routed
from almenara.web.authorization import NEEDS, NotAllowedError, permit
from support.application import Almenara
from support.kubernetes_source import OURS, THEIRS, Watched
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio

PUBLIC = {
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/static/{name:path}"),
    ("GET", "/sign-in"), ("POST", "/sign-in"), ("GET", "/sign-in/start"),
    ("GET", "/sign-in/callback"), ("POST", "/sign-in/back-channel-logout"),
}  # fmt: skip


def router() -> Litestar:
    services: Any = SimpleNamespace(settings=Settings(), version="test")
    return routed(services)


def unruled(app: Litestar) -> list[str]:
    """The paths of the handlers that do not say who may use them."""
    return [
        path
        for route in app.routes
        for handler in _handlers(route)
        for path in sorted(handler.paths)
        if NEEDS not in handler.opt
    ]


def _handlers(route: Any) -> list[BaseRouteHandler]:
    if isinstance(route, HTTPRoute):
        return [it for it in route.route_handlers if "OPTIONS" not in it.http_methods]
    return [route.route_handler]


def routes() -> list[tuple[str, str, HTTPRouteHandler]]:
    """Every method and path of the application, from its router."""
    found = [
        (str(method), route.path_format, handler)
        for route in router().routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if method not in ("OPTIONS", "HEAD")
    ]
    return [(method, _typed(handler, path), handler) for method, path, handler in found]


def _typed(handler: HTTPRouteHandler, path: str) -> str:
    return next((it for it in sorted(handler.paths) if _same(it, path)), path)


def _same(one: str, other: str) -> bool:
    return re.sub(r":\w+}", "}", one) == other


ROUTES = routes()
SOCKETS = [it.path for it in router().routes if isinstance(it, WebSocketRoute)]


def test_every_route_says_who_may_use_it_and_only_these_are_open() -> None:
    assert unruled(router()) == []
    assert {(method, path) for method, path, it in ROUTES if it.opt[NEEDS] is None} == PUBLIC


async def test_a_new_route_or_socket_without_a_rule_is_found_and_closed() -> None:
    @get("/new/{name:str}")
    async def new(name: FromPath[str]) -> str:
        return name

    @websocket("/new-socket")
    async def new_socket(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()

    app = router()
    for handler in (new, new_socket):
        app.register(handler)
    assert unruled(app) == ["/new/{name:str}", "/new-socket"]
    everything: Any = SimpleNamespace(
        scope={"state": {"ticket": AuthContext(identity=everybody(Role.ADMIN))}},
        app=SimpleNamespace(state=SimpleNamespace(services=None)),
    )
    closed = [it for route in app.routes for it in _handlers(route) if NEEDS not in it.opt]
    assert len(closed) == 2
    for handler in closed:
        assert permit in handler.resolve_guards()
        with pytest.raises(NotAllowedError):
            await permit(everything, handler)


WITHOUT_SCOPE = {
    "/static/{name:path}", "/api/openapi.json/{path}", "/account/tokens/{token_id:str}/revoke",
    "/account/sessions/{session_id:str}/end",
}  # fmt: skip


def filled(path: str, watched: Watched) -> list[str]:
    """Addresses of a route, those of what is out of a scope among them."""
    if "{sequence" in path:
        address = re.sub(r"{sequence(:int)?}", "{}", path)
        return [address.format(it) for it in watched.sequences]
    if path == "/dashboards/{name:str}":
        return ["/dashboards/overview"]
    if path == "/panels/{name:str}":
        names = ("events", "failures", "numbers", "nats.streams", "strip", "sources", "histogram")
        return [f"/panels/{it}" for it in names]
    if path == "/timeline":
        return [f"/timeline?correlation=corr-{THEIRS}", f"/timeline?correlation=corr-{OURS}"]
    if path in ("/events", "/api/events", "/api/events.ndjson", "/api/events.csv"):
        # Words of what is out of scope, written so that an echo of them is not taken for a find.
        return [path, f'{path}?text="of team b"', f"{path}?origin=nats/*_B", f"{path}?type=teamb.*"]
    # What a new route takes must be said here, or nobody asks it for what is out of scope.
    assert "{" not in path or path in WITHOUT_SCOPE, f"{path}: what is there to ask for?"
    return [re.sub(r"{\w+(:\w+)?}", "unknown", path)]


async def test_no_route_answers_nobody_and_each_role_what_it_may(watched: Watched) -> None:
    levels = {"viewer": 1, "operator": 2, "admin": 3, "scoped": 1, "scoped admin": 3}
    asked = 0
    for method, path, handler in ROUTES:
        for address in filled(path, watched):
            anonymous = watched.request(method, address)
            asked += 1
            if handler.opt[NEEDS] is not None:
                assert anonymous.status_code in (401, 303, 403), (method, address)
                assert OURS not in anonymous.text
                assert THEIRS not in anonymous.text
            for who, level in levels.items():
                if path == "/sign-out" or path.startswith("/sign-in"):
                    continue
                answer = watched.request(method, address, who)
                asked += 1
                closed = handler.opt[NEEDS] is not None and (
                    level < handler.opt[NEEDS]
                    or (handler.opt.get("unlimited") and who.startswith("scoped"))
                )
                assert (answer.status_code == 403) is bool(closed), (method, address, who)
                assert answer.status_code < 500, (method, address, who)
    print(f"{len(ROUTES)} routes, {asked} requests, 0 answered against a rule")


async def test_what_is_out_of_scope_is_in_no_answer(watched: Watched) -> None:
    seen = dict.fromkeys(("viewer", "scoped", "scoped admin"), 0)
    for method, path, _ in ROUTES:
        if method != "GET" or path.startswith(("/sign-in", "/static")):
            continue
        for address in filled(path, watched):
            for who in seen:
                text = watched.get(address, who).text
                # What was asked for may be in the page; what was not must be in none.
                shown = text.replace(f"corr-{THEIRS}", "")
                if THEIRS in shown:
                    seen[who] += 1
                    assert who == "viewer", (address, who)
                if who == "scoped":
                    assert "TEAM_B" not in text, address
    assert seen["viewer"] > 5
    assert watched.get("/api/health", "scoped").json()["events_stored"] == 5
    assert watched.get("/api/health", "viewer").json()["events_stored"] >= 10
    for sequence, marker in watched.sequences.items():
        expected = 404 if marker == THEIRS else 200
        for path in (f"/api/events/{sequence}", f"/events/{sequence}"):
            assert watched.get(path, "scoped").status_code == expected


async def frames(watched: Watched, token: str, panels: list[str], seconds: float) -> str:
    url = f"{watched.url.replace('http', 'ws')}/live?" + "&".join(f"panel={it}" for it in panels)
    text = ""
    headers = {"authorization": f"Bearer {token}"}
    async with connect(url, origin=watched.url, additional_headers=headers) as socket:  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(seconds):
                while True:
                    text += str(await socket.recv())
        except TimeoutError:
            return text


async def test_each_socket_shows_each_role_what_is_in_its_scope_and_nothing_else(
    watched: Watched,
) -> None:
    # At the same time, so that whoever shares a channel with others would get what is theirs.
    assert SOCKETS == ["/live"], "who may see what in a new socket must be tried here"
    panels = ["events", "failures", "nats.streams", "strip", "numbers", "sources", "histogram"]
    seen = dict(
        zip(
            watched.tokens,
            await asyncio.gather(
                *(frames(watched, it, panels, 3) for it in watched.tokens.values())
            ),
            strict=True,
        )
    )
    for who, text in seen.items():
        assert OURS in text, who
        assert (THEIRS in text) is ("scoped" not in who), who
        assert ("TEAM_B" in text) is ("scoped" not in who), who
    url = f"{watched.url.replace('http', 'ws')}/live?panel=events"
    for bad in ({}, {"authorization": "Bearer nothing"}, {"cookie": "almenara=planted"}):
        try:
            async with connect(url, origin=watched.url, additional_headers=bad) as socket:  # type: ignore[arg-type]
                with pytest.raises(ConnectionClosed) as closed:
                    raise AssertionError(f"{bad} got {await socket.recv()!r}")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
        except InvalidStatus as refused:
            assert refused.response.status_code == 401
    print(
        f"{len(seen) + 3} of {len(SOCKETS)} sockets and roles, {len(panels)} panels each, 0 leaks"
    )


async def closing(watched: Watched, cookie: httpx.Client) -> tuple[int, float]:
    """The code an open page is closed with, and when."""
    url = f"{watched.url.replace('http', 'ws')}/live?panel=events"
    told = "; ".join(f"{name}={value}" for name, value in cookie.cookies.items())
    async with connect(url, origin=watched.url, additional_headers={"cookie": told}) as socket:  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(20):
                while True:
                    await socket.recv()
        except ConnectionClosed as error:
            return (error.rcvd.code if error.rcvd else 0), time.monotonic()


async def test_a_revoked_session_closes_its_pages_with_4401_within_5_seconds(
    watched: Watched,
) -> None:
    taken = []
    for how in ("sign out", "revoked by an admin", "revoked by command"):
        client, csrf = await asyncio.to_thread(watched.signed_in)
        waiting = asyncio.create_task(closing(watched, client))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        ids = re.findall(r"/account/sessions/(\w+)/end", client.get("/account").text)
        began = time.monotonic()
        if how == "sign out":
            assert client.post("/sign-out", data={"csrf": csrf}).status_code == 303
        elif how == "revoked by an admin":
            done = client.post(f"/account/sessions/{ids[0]}/end", data={"csrf": csrf})
            assert done.status_code == 303
        else:
            for it in ids:
                await asyncio.to_thread(watched.command, "revoke", it)
            began = time.monotonic()
        code, ended = await waiting
        assert code == 4401, how
        taken.append(ended - began)
        assert client.get("/events").status_code == 303
    print(f"revoked -> closed with 4401: {max(taken):.2f} s at most")
    assert max(taken) < 5


async def test_a_session_that_nobody_has_is_told_so_in_the_socket_and_not_in_the_handshake(
    watched: Watched,
) -> None:
    url = f"{watched.url.replace('http', 'ws')}/live?panel=events"
    async with connect(url, origin=watched.url) as socket:  # type: ignore[arg-type]
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


async def test_a_form_that_is_not_ours_changes_nothing(watched: Watched) -> None:
    client, csrf = watched.signed_in()
    _, stale = watched.signed_in()
    refused = 0
    for method, path, handler in ROUTES:
        if method == "GET" or handler.opt.get("csrf") is False:
            continue
        address = filled(path, watched)[0]
        for data, headers in (
            ({}, {}),
            ({"csrf": "wrong"}, {}),
            ({"csrf": stale}, {}),
            ({"csrf": csrf}, {"sec-fetch-site": "cross-site"}),
            ({"csrf": csrf}, {"sec-fetch-site": "same-site"}),
            ({"csrf": csrf}, {"origin": "https://evil.example"}),
            ({"csrf": csrf}, {"origin": "null"}),
        ):
            answer = client.post(address, data=data, headers=headers)
            assert answer.status_code == 403, (path, data, headers)
            refused += 1
        without = httpx.post(
            watched.url + address, data={"csrf": csrf}, cookies=dict(client.cookies)
        )
        assert without.status_code == 403, "no origin at all"
        for odd in ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND"):
            assert client.request(odd, address).status_code in (400, 405), (odd, address)
    assert client.get("/account").status_code == 200
    print(f"{refused} forged forms refused")


async def test_signing_in_takes_a_new_session_whatever_the_browser_had(watched: Watched) -> None:
    planted = "planted-by-somebody-else"
    client = watched.browser()
    client.cookies.set("almenara", planted, domain="127.0.0.1")
    csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/sign-in").text)
    assert csrf is not None
    done = client.post("/sign-in", data={"csrf": csrf[1], "token": watched.access_token})
    assert done.status_code == 303
    cookie = done.headers["set-cookie"]
    assert planted not in cookie
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert httpx.get(watched.url + "/api/session", cookies={"almenara": planted}).status_code == 401
    secure = watched.browser()
    host = f"127.0.0.1:{watched.almenara.port}"
    page = secure.get("/sign-in", headers={"origin": f"https://{host}"})
    assert "__Host-almenara-form=" in page.headers["set-cookie"]
    assert "Secure" in page.headers["set-cookie"]
    assert "strict-transport-security" in page.headers


async def test_a_way_back_leads_to_pages_of_ours_alone(watched: Watched) -> None:
    for bad in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:x",
                "/\t/evil.example", "evil", "/%09/x\r\nset-cookie: a=b"):  # fmt: skip
        client = watched.browser()
        csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/sign-in").text)
        assert csrf is not None
        done = client.post(
            "/sign-in", data={"csrf": csrf[1], "token": watched.access_token, "next": bad}
        )
        assert done.status_code == 303
        assert done.headers["location"] == "/", bad


async def test_a_token_ends_when_it_is_revoked_and_its_sessions_with_it(watched: Watched) -> None:
    token = watched.command("create", "short", "--role", "viewer")
    wait_until(lambda: _status(watched, token) == 200, "the token")
    client, _ = watched.signed_in(token)
    waiting = asyncio.create_task(closing(watched, client))
    await asyncio.sleep(0.3)
    watched.command("revoke", token.split("_")[1])
    code, _ = await waiting
    assert code == 4401
    assert _status(watched, token) == 401
    for bad in ("alm_", "alm__", "alm_000000000000_x", token + "x", "nothing", "a" * 9000):
        assert _status(watched, bad) == 401, bad


async def test_an_admin_of_a_part_makes_no_token_for_the_rest(watched: Watched) -> None:
    client, csrf = watched.signed_in(watched.tokens["scoped admin"])

    def made(**more: str) -> str:
        """The token that the account page shows; empty where it made none."""
        form = {"csrf": csrf, "name": "it", "role": "admin", "days": "1", **more}
        found = re.search(r"\balm_[\w-]+", client.post("/account/tokens", data=form).text)
        return found[0] if found else ""

    for more in ({"types": "teamb.>"}, {"types": ">"}, {"types": "teama.> teamb.happened"}):
        assert made(**more) == "", more
    token = made()
    wait_until(lambda: _status(watched, token) == 200, "the token")
    watched.tokens["made"] = token
    told = watched.get("/api/session", "made").json()
    assert (told["role"], told["scope"][0]["types"]) == ("admin", ["teama.>"])
    for path in ("/api/events?limit=1000", "/api/events.ndjson", "/events", "/api/resources"):
        assert THEIRS not in watched.get(path, "made").text
    del watched.tokens["made"]
    watched.command("revoke", token.split("_")[1])


def _status(watched: Watched, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.get(watched.url + "/api/session", headers=headers).status_code


async def test_wrong_tokens_of_others_hold_up_nobody_who_was_let_in(tmp_path: Path) -> None:
    with Almenara(tmp_path / "a", "nats://127.0.0.1:1", AUTH__MODE="token",
                  PLUGINS__DISABLED="[nats]") as almenara:  # fmt: skip
        good = almenara.command("access", "rotate").stdout.strip()

        def status(token: str) -> int:
            headers = {"authorization": f"Bearer {token}"}
            return httpx.get(f"{almenara.url}/api/session", headers=headers).status_code

        assert status(good) == 200
        wait_until(lambda: status("a-token-that-is-wrong") == 429, "others being held up")
        assert status(good) == 200
        almenara.command("access", "rotate")
        wait_until(lambda: status(good) != 200, "the end of what was good")


async def test_the_head_of_an_answer_can_be_asked_for_alone(watched: Watched) -> None:
    async with httpx.AsyncClient(base_url=watched.url) as client:
        client.headers["authorization"] = f"Bearer {watched.access_token}"
        for path in ("/healthz", "/events", "/api/events", "/api/events.csv"):
            whole, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == whole.headers["content-type"]
        assert (await client.head("/sign-out")).status_code == 405


async def test_the_access_log_tells_operators_and_not_viewers(watched: Watched) -> None:
    watched.signed_in()
    _status(watched, "wrong-token")

    def types(who: str) -> set[str]:
        page = watched.get("/api/events?origin=almenara/access&limit=200", who).json()
        return {it["type"] for it in page["events"]}

    wanted = {"almenara.access.signed_in", "almenara.access.sign_in_refused"}
    wait_until(lambda: wanted <= types("operator"), "the access log")
    assert types("viewer") == set()
    assert types("scoped") == set()


async def test_no_secret_is_in_the_log_or_in_the_files(watched: Watched) -> None:
    client, csrf = watched.signed_in()
    secrets = [watched.access_token, *watched.tokens.values(), csrf, *client.cookies.values()]
    folder = watched.almenara.folder
    texts = [it.read_bytes() for it in folder.rglob("*") if it.is_file() and "nats" not in str(it)]
    for secret in secrets:
        if secret == csrf:
            continue  # of a session that is no longer anybody's once its cookie is gone
        assert not any(secret.encode() in text for text in texts)
        if secret.startswith("alm_"):
            # The secret part of an API token, which stands behind its id.
            assert not any(secret.split("_", 2)[-1].encode() in text for text in texts)
    mode = (folder / "var" / "access.db").stat().st_mode
    assert mode & 0o077 == 0


async def test_too_many_live_pages_of_one_user_are_refused(watched: Watched) -> None:
    url = f"{watched.url.replace('http', 'ws')}/live?panel=events"
    headers = {"authorization": f"Bearer {watched.tokens['operator']}"}
    sockets = [
        await connect(url, origin=watched.url, additional_headers=headers)  # type: ignore[arg-type]
        for _ in range(4)
    ]
    began = time.monotonic()
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, origin=watched.url, additional_headers=headers):  # type: ignore[arg-type]
            pass
    print(f"over the cap: 503 after {(time.monotonic() - began) * 1000:.0f} ms")
    assert refused.value.response.status_code == 503
    for it in sockets:
        await it.close()

    def none_left() -> bool:
        return bool(watched.get("/api/health", "viewer").json()["subscribers"] == 0)

    await asyncio.to_thread(wait_until, none_left, "the end of those that were closed")
    # All at once they are no more either: what is being opened counts.
    trying = [connect(url, origin=watched.url, additional_headers=headers) for _ in range(40)]  # type: ignore[arg-type]
    came = await asyncio.gather(*trying, return_exceptions=True)
    opened = [it for it in came if not isinstance(it, BaseException)]
    assert len(opened) == 4
    for it in opened:
        await it.close()


async def test_new_access_token_ends_what_the_old_one_began(watched: Watched) -> None:
    client, _ = watched.signed_in()
    old = watched.access_token
    watched.access_token = watched.command("rotate")
    assert _status(watched, watched.access_token) == 200, "it is good at once"
    assert _status(watched, watched.command("create", "at once")) == 200
    wait_until(lambda: client.get("/events").status_code == 303, "the old session's end")
    assert _status(watched, old) == 401
    client, _ = watched.signed_in()
    assert client.get("/events").status_code == 200


async def test_sessions_outlive_a_restart_and_end_at_their_time(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    almenara = Almenara(
        tmp_path / "a", nats_server.url, AUTH__MODE="token", AUTH__SESSION_ROTATION="1"
    )
    token = almenara.command("access", "rotate").stdout.strip()

    def signed_in() -> httpx.Client:
        browser = httpx.Client(base_url=almenara.url, headers={"origin": almenara.url}, timeout=20)
        csrf = re.search(r'name="csrf" value="([^"]+)"', browser.get("/sign-in").text)
        assert csrf is not None
        browser.post("/sign-in", data={"csrf": csrf[1], "token": token})
        return browser

    with almenara:
        browser = signed_in()
        first = browser.cookies["almenara"]
        time.sleep(1.2)
        browser.get("/", headers={"sec-fetch-dest": "document"})
        assert browser.cookies["almenara"] != first, "the cookie was exchanged"
        # Where the answer with the new one never came, the old one goes on and is exchanged again.
        held = browser.cookies["almenara"]
        browser.get("/")
        time.sleep(1.2)
        lost = httpx.get(
            almenara.url, cookies={"almenara": held}, headers={"sec-fetch-dest": "document"}
        ).cookies["almenara"]
        time.sleep(1.2)
        again = httpx.get(
            almenara.url, cookies={"almenara": held}, headers={"sec-fetch-dest": "document"}
        )
        assert again.status_code == 200
        got = again.cookies["almenara"]
        for cookie, status in ((got, 200), (held, 200), (lost, 303)):
            assert httpx.get(almenara.url, cookies={"almenara": cookie}).status_code == status
        # Tabs that are opened at once have one exchange between them.
        time.sleep(1.2)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: httpx.get(
                almenara.url, cookies={"almenara": got}, headers={"sec-fetch-dest": "document"}
            ), range(6)))  # fmt: skip
        assert [it.status_code for it in answers] == [200] * 6
        fresh = [it.cookies["almenara"] for it in answers if "almenara" in it.cookies]
        assert len(fresh) == 1
        browser.cookies.set("almenara", fresh[0], domain="127.0.0.1")
        almenara.stop()
        almenara.environment["ALMENARA_AUTH__SESSION_LIFETIME"] = "3"
        almenara.start()
        assert browser.get("/events").status_code == 200
        began = time.monotonic()
        short = signed_in()
        wait_until(lambda: short.get("/events").status_code == 303, "its end", 20)
        assert time.monotonic() - began > 2.9


async def test_it_does_not_start_where_everybody_could_look(tmp_path: Path) -> None:
    refusals: tuple[tuple[dict[str, str], str], ...] = (
        ({"AUTH__MODE": "none", "SERVER__HOST": "0.0.0.0"}, "insecure-none"),
        ({"AUTH__MODE": "none", "SERVER__ALLOWED_HOSTS": "[watch.example]"}, "insecure-none"),
        ({"AUTH__MODE": "proxy"}, "server.trusted_proxies"),
        ({"AUTH__MODE": "proxy", "SERVER__TRUSTED_PROXIES": "[10.0.0.0/8]"}, "auth.proxy.secret"),
        ({"AUTH__MODE": "oidc"}, "auth.oidc"),
        ({"AUTH__MODE": "kubernetes"}, "auth.roles"),
        ({"AUTH__MODE": "token", "AUTH__TOKEN": "short"}, "shorter"),
        ({"AUTH__AUTHORIZATION": "kubernetes"}, "auth.authorization"),
    )

    def refused(number: int) -> str:
        settings = refusals[number][0]
        almenara = Almenara(tmp_path / str(number), "nats://127.0.0.1:1", **settings)
        done = almenara.command("serve")
        assert done.returncode == 1, settings
        return " ".join(done.stderr.replace("│", " ").split())

    answers = await asyncio.gather(*(asyncio.to_thread(refused, it) for it in range(len(refusals))))
    for (settings, said), told in zip(refusals, answers, strict=True):
        assert said in told, (settings, told)


async def test_wrong_sign_ins_have_to_wait_longer_and_longer(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Almenara(tmp_path / "a", nats_server.url, AUTH__MODE="token") as almenara:
        statuses = [almenara.status("/api/session", Authorization="Bearer x") for _ in range(8)]
        assert statuses == [401] * 5 + [429] * 3
        assert almenara.status("/healthz") == 200
