"""Which role may use which route and WebSocket, and what a scope hides, on a running server."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from litestar import Litestar, WebSocket, get, websocket
from litestar.params import FromPath
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from almenara.security.auth_context import AuthContext
from almenara.security.errors import AccessDenied
from almenara.security.identity import Role, anonymous_identity
from almenara.web.authorization import REQUIRED_ROLE, authorize
from support.routes import ROUTES, SOCKETS, filled, handlers_of, router
from support.secured_server import OURS, THEIRS, SecuredServer
from support.servers import wait_until

pytestmark = pytest.mark.anyio

PUBLIC = {
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/static/{name:path}"),
    ("GET", "/sign-in"), ("POST", "/sign-in"), ("GET", "/sign-in/start"),
    ("GET", "/sign-in/callback"), ("POST", "/sign-in/back-channel-logout"),
    # Each request is signed by the receiver.
    ("POST", "/alerts/callbacks/{name:str}"),
}  # fmt: skip


def unruled(app: Litestar) -> list[str]:
    """The paths of the handlers that do not say who may use them."""
    return [
        path
        for route in app.routes
        for handler in handlers_of(route)
        for path in sorted(handler.paths)
        if REQUIRED_ROLE not in handler.opt
    ]


def test_routes_all_have_a_rule_and_only_these_are_public() -> None:
    assert unruled(router()) == []
    assert {
        (method, path) for method, path, each in ROUTES if each.opt[REQUIRED_ROLE] is None
    } == PUBLIC


async def test_routes_without_a_rule_are_refused() -> None:
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
        scope={"state": {"auth_context": AuthContext(identity=anonymous_identity(Role.ADMIN))}},
        app=SimpleNamespace(state=SimpleNamespace(services=None)),
    )
    closed = [
        each for route in app.routes for each in handlers_of(route) if REQUIRED_ROLE not in each.opt
    ]
    assert len(closed) == 2
    for handler in closed:
        assert authorize in handler.resolve_guards()
        with pytest.raises(AccessDenied):
            await authorize(everything, handler)


async def test_routes_require_their_role(secured: SecuredServer) -> None:
    levels = {"viewer": 1, "operator": 2, "admin": 3, "scoped": 1, "scoped admin": 3}
    requests = 0
    for method, path, handler in ROUTES:
        for address in filled(path, secured):
            anonymous = secured.request(method, address)
            requests += 1
            if handler.opt[REQUIRED_ROLE] is not None:
                assert anonymous.status_code in (401, 303, 403), (method, address)
                assert OURS not in anonymous.text
                assert THEIRS not in anonymous.text
            for caller, level in levels.items():
                if path == "/sign-out" or path.startswith("/sign-in"):
                    continue
                answer = secured.request(method, address, caller)
                requests += 1
                closed = handler.opt[REQUIRED_ROLE] is not None and (
                    level < handler.opt[REQUIRED_ROLE]
                    or (handler.opt.get("all_sources") and caller.startswith("scoped"))
                )
                assert (answer.status_code == 403) is bool(closed), (method, address, caller)
                assert answer.status_code < 500, (method, address, caller)
    print(f"{len(ROUTES)} routes, {requests} requests, 0 against a rule")


async def test_responses_contain_nothing_out_of_scope(secured: SecuredServer) -> None:
    seen = dict.fromkeys(("viewer", "scoped", "scoped admin"), 0)
    for method, path, _ in ROUTES:
        if method != "GET" or path.startswith(("/sign-in", "/static")):
            continue
        for address in filled(path, secured):
            for caller in seen:
                text = secured.get(address, caller).text
                # A filter may be repeated on the page; anything else out of scope must not appear.
                shown = text.replace(f"corr-{THEIRS}", "")
                if THEIRS in shown:
                    seen[caller] += 1
                    assert caller == "viewer", (address, caller)
                if caller == "scoped":
                    assert "TEAM_B" not in text, address
    assert seen["viewer"] > 5
    assert secured.get("/api/health", "scoped").json()["events_stored"] == 5
    assert secured.get("/api/health", "viewer").json()["events_stored"] >= 10
    for sequence, marker in secured.sequences.items():
        expected = 404 if marker == THEIRS else 200
        for path in (f"/api/events/{sequence}", f"/events/{sequence}"):
            assert secured.get(path, "scoped").status_code == expected


async def frames(secured: SecuredServer, token: str, panels: list[str], seconds: float) -> str:
    url = f"{secured.url.replace('http', 'ws')}/live?" + "&".join(
        f"panel={each}" for each in panels
    )
    text = ""
    headers = {"authorization": f"Bearer {token}"}
    async with connect(url, origin=secured.url, additional_headers=headers) as socket:  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(seconds):
                while True:
                    text += str(await socket.recv())
        except TimeoutError:
            return text


async def test_websocket_frames_contain_nothing_out_of_scope(
    secured: SecuredServer,
) -> None:
    # At the same time, so that whoever shares a channel with others would get what is theirs.
    assert SOCKETS == ["/live"], "who may see what in a new socket must be tried here"
    panels = ["events", "failures", "nats.streams", "strip", "numbers", "sources", "histogram"]
    seen = dict(
        zip(
            secured.tokens,
            await asyncio.gather(
                *(frames(secured, each, panels, 3) for each in secured.tokens.values())
            ),
            strict=True,
        )
    )
    for caller, text in seen.items():
        assert OURS in text, caller
        assert (THEIRS in text) is ("scoped" not in caller), caller
        assert ("TEAM_B" in text) is ("scoped" not in caller), caller
    url = f"{secured.url.replace('http', 'ws')}/live?panel=events"
    for bad in ({}, {"authorization": "Bearer nothing"}, {"cookie": "almenara=planted"}):
        try:
            async with connect(url, origin=secured.url, additional_headers=bad) as socket:  # type: ignore[arg-type]
                with pytest.raises(ConnectionClosed) as closed:
                    raise AssertionError(f"{bad} got {await socket.recv()!r}")
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4401
        except InvalidStatus as refused:
            assert refused.response.status_code == 401
    print(
        f"{len(seen) + 3} of {len(SOCKETS)} sockets and roles, {len(panels)} panels each, 0 leaks"
    )


async def test_head_returns_the_headers_of_get(secured: SecuredServer) -> None:
    async with httpx.AsyncClient(base_url=secured.url) as client:
        client.headers["authorization"] = f"Bearer {secured.access_token}"
        for path in ("/healthz", "/events", "/api/events", "/api/events.csv"):
            whole, head = await client.get(path), await client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == whole.headers["content-type"]
        assert (await client.head("/sign-out")).status_code == 405


async def test_access_log_is_visible_to_operators_only(secured: SecuredServer) -> None:
    secured.sign_in()
    secured.token_status("wrong-token")

    def types(caller: str) -> set[str]:
        page = secured.get("/api/events?origin=almenara/access&limit=200", caller).json()
        return {each["type"] for each in page["events"]}

    expected = {"almenara.access.signed_in", "almenara.access.sign_in_refused"}
    wait_until(lambda: expected <= types("operator"), "the access log")
    assert types("viewer") == set()
    assert types("scoped") == set()
