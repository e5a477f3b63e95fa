"""Who is there: asked once for each request and each WebSocket, before anything is routed."""

from collections import defaultdict
from typing import Any, Final

import msgspec
import structlog
from litestar.datastructures import Cookie
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from almenara.security.auth_context import AuthContext
from almenara.security.authenticator import Access
from almenara.security.connections import SIGNED_OUT
from almenara.security.modes import NOBODY_SIGNS_IN, is_loopback
from almenara.security.rate_limit import Rates
from almenara.security.request import Refused, RequestInfo
from almenara.security.sessions import PLAIN_COOKIE, SECURE_COOKIE
from almenara.security.trusted_proxies import TrustedProxies, counted_as
from almenara.web.refusal import Refusal, refuse

log = structlog.get_logger(__name__)

FORWARDED_FOR: Final = "x-forwarded-for"
FORWARDED_PROTO: Final = "x-forwarded-proto"


class Admission:
    """An ASGI application around another, that says in the state who makes a request."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access
        server = access.server
        self._by_address = Rates(server.requests_per_second, server.request_burst)
        self._by_user = Rates(server.requests_per_second, server.request_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asking = asking_in(scope, self.access.proxies)
        state = scope.setdefault("state", {})
        state["asking"] = asking
        websocket = scope["type"] == ScopeType.WEBSOCKET
        counted = counted_as(asking.address)
        if not is_loopback(asking.address) and not self._by_address.allows(counted):
            await refuse(too_often(), websocket, receive, send)
            return
        try:
            ticket = await self.access.admit(asking)
        except Refused as refused:
            ticket = None
            state["refusal"] = refused
            if websocket or "authorization" in asking.headers:
                await refuse(
                    Refusal(refused.status, refused.title, refused.detail, refused.wait),
                    websocket, receive, send,
                )  # fmt: skip
                return
        # Where nobody signs in all are one user, and only their addresses tell them apart.
        user = ticket.user if ticket and self.access.mode not in NOBODY_SIGNS_IN else None
        if user is not None and not self._by_user.allows(_counted(user, asking)):
            await refuse(too_often(), websocket, receive, send)
            return
        state["ticket"] = ticket
        if not websocket:
            await self.app(scope, receive, await self._exchanging(scope, asking, ticket, send))
            return
        if ticket is None:
            # A refused handshake looks to a browser like a broken network, and it tries for ever.
            await _close(SIGNED_OUT, receive, send)
            return
        if (full := self.access.pages.room(ticket, asking.address)) is not None:
            await refuse(Refusal(503, "Too many connections", full), websocket, receive, send)
            return
        # A live page stays for hours, and nobody asks for its headers again.
        asking = state["asking"] = msgspec.structs.replace(asking, headers={})
        await self.app(scope, receive, send)

    async def _exchanging(
        self, scope: Scope, asking: RequestInfo, ticket: AuthContext | None, send: Send
    ) -> Send:
        """Where it is time for it, the cookie of a session is exchanged with a page."""
        session = ticket.session if ticket is not None else None
        page = scope.get("method") == "GET" and asking.header("sec-fetch-dest") == "document"
        if session is None or not page or not self.access.sessions.due(session):
            return send
        secret = await self.access.sessions.rotate(session)
        if secret is None:
            return send
        cookie = session_cookie(asking, secret)

        async def exchanging(message: Message) -> None:
            if message["type"] == "http.response.start":
                header = (b"set-cookie", cookie.to_header(header="").strip().encode())
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        return exchanging


def session_cookie(asking: RequestInfo, secret: str) -> Cookie:
    """The cookie that holds the secret of a session; an empty secret takes it away."""
    return cookie_of(SECURE_COOKIE if asking.secure else PLAIN_COOKIE, secret, asking)


def cookie_of(name: str, value: str, asking: RequestInfo, max_age: int | None = None) -> Cookie:
    """A cookie that no script sees, no other site sends along and, where it came over https, no
    other host has set."""
    return Cookie(
        key=name, value=value, path="/", httponly=True, secure=asking.secure, samesite="lax",
        max_age=0 if not value else max_age,
    )  # fmt: skip


def _counted(user: str, asking: RequestInfo) -> str:
    return f"{user} {asking.address}" if is_loopback(asking.address) else user


def too_often() -> Refusal:
    """What somebody is told who asks too often."""
    return Refusal(429, "Too many requests", "You ask too often; wait a moment.", 1.0)


def _text(value: bytes) -> str:
    # Proxies write the names of people as UTF-8; what is not is Latin-1, as HTTP once had it.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def asking_in(scope: Scope, proxies: TrustedProxies) -> RequestInfo:
    """What a request tells of who makes it; the state of its address and scheme is put right."""
    headers: dict[str, list[str]] = defaultdict(list)
    for key, value in scope["headers"]:
        headers[key.decode("latin-1").lower()].append(_text(value))
    client: Any = scope.get("client")
    peer = str(client[0]) if client else ""
    secure = scope["scheme"] in ("https", "wss")
    if peer in proxies:
        came_by = headers[FORWARDED_PROTO]
        secure = secure or (len(came_by) == 1 and came_by[0].strip().lower() in ("https", "wss"))
    origins = headers.get("origin", [])
    if len(origins) == 1 and origins[0].startswith("https://"):
        # A browser says so of its own page, and the guard has compared it with the host.
        secure = True
    host = headers.get("host", [""])[0]
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return RequestInfo(
        headers=dict(headers),
        address=proxies.client(peer, headers.get(FORWARDED_FOR, ())),
        peer=peer,
        secure=secure,
        local=is_loopback(name),
    )


async def _close(code: int, receive: Receive, send: Send) -> None:
    await receive()
    accept: Any = {"type": "websocket.accept"}
    await send(accept)
    close: Any = {"type": "websocket.close", "code": code, "reason": ""}
    await send(close)
