"""Authentication of each request and WebSocket, before routing.

Sets `state["request_info"]`, and `state["auth_context"]` or `state["auth_error"]`, which
`web.authorization` compares with the rule of the route.
"""

from collections import defaultdict
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from almenara.config import ServerSettings
from almenara.security.access import AccessControl
from almenara.security.auth_context import AuthContext
from almenara.security.connections import SIGNED_OUT
from almenara.security.errors import AuthError
from almenara.security.modes import SIGN_IN_OFF, is_loopback
from almenara.security.public_address import PublicAddress, configured_address
from almenara.security.rate_limit import RequestLimiter
from almenara.security.request import RequestInfo
from almenara.security.trusted_proxies import TrustedProxies, rate_key
from almenara.web.cookies import session_cookie
from almenara.web.middleware.refusal import Refusal, refusal_of, send_refusal
from almenara.web.public_address import SECURE_SCHEMES, read_host, read_public_address

FORWARDED_FOR: Final = "x-forwarded-for"
RATE_EXCEEDED: Final = Refusal(
    HTTPStatus.TOO_MANY_REQUESTS, "Too many requests", "Too many requests. Retry in a moment.", 1.0
)


class AuthenticationMiddleware:
    """Identifies the caller, and applies the limits per address and per user."""

    def __init__(self, app: ASGIApp, access: AccessControl) -> None:
        self.app, self.access = app, access
        server = access.server
        self._by_address = RequestLimiter(server.requests_per_second, server.request_burst)
        self._by_user = RequestLimiter(server.requests_per_second, server.request_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        access, authenticator = self.access, self.access.authenticator
        request_info = read_request_info(scope, access.server, authenticator.proxies)
        state = scope.setdefault("state", {})
        state["request_info"] = request_info
        is_websocket = scope["type"] == ScopeType.WEBSOCKET
        if not self._is_within_address_rate(request_info):
            await send_refusal(RATE_EXCEEDED, scope, receive, send)
            return
        try:
            context = await authenticator.authenticate(request_info)
        except AuthError as error:
            if is_websocket or "authorization" in request_info.headers:
                await send_refusal(refusal_of(error), scope, receive, send)
                return
            # Public routes still answer; the others raise it.
            context, state["auth_error"] = None, error
        if context is not None and not self._is_within_user_rate(context, request_info):
            await send_refusal(RATE_EXCEEDED, scope, receive, send)
            return
        state["auth_context"] = context
        if not is_websocket:
            send = await self._rotate_cookie(scope, request_info, context, send)
            await self.app(scope, receive, send)
            return
        if context is None:
            # A refused handshake looks like a broken network to a browser, which would retry for
            # ever; so it is accepted and closed with a code that the page understands.
            await _accept_and_close(SIGNED_OUT, receive, send)
            return
        problem = self.access.connections.check_limits(context, request_info.address)
        if problem is not None:
            refusal = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections", problem)
            await send_refusal(refusal, scope, receive, send)
            return
        # A live page stays open for hours, and its headers are not needed again.
        state["request_info"] = msgspec.structs.replace(request_info, headers={})
        await self.app(scope, receive, send)

    def _is_within_address_rate(self, request_info: RequestInfo) -> bool:
        address = request_info.address
        return is_loopback(address) or self._by_address.try_acquire(rate_key(address))

    def _is_within_user_rate(self, context: AuthContext, request_info: RequestInfo) -> bool:
        if self.access.mode in SIGN_IN_OFF:
            # Everyone is the same user; only the address tells callers apart.
            return True
        if context.identity.intake:
            # An intake has a rate of its own, in signals.
            return True
        key, address = context.user_key, request_info.address
        return self._by_user.try_acquire(f"{key} {address}" if is_loopback(address) else key)

    async def _rotate_cookie(
        self, scope: Scope, request_info: RequestInfo, context: AuthContext | None, send: Send
    ) -> Send:
        """Return a `send` that sets a new session cookie, where rotation is due and a whole page is
        loaded: responses to scripts may arrive out of order."""
        session = context.session if context is not None else None
        destination = request_info.header("sec-fetch-dest")
        is_page = scope.get("method") == "GET" and destination == "document"
        if session is None or not is_page or not self.access.sessions.is_rotation_due(session):
            return send
        secret = await self.access.sessions.rotate(session)
        if secret is None:
            return send
        cookie = session_cookie(request_info, secret).to_header(header="").strip().encode()

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie)]
            await send(message)

        return send_with_cookie


def read_request_info(
    scope: Scope, settings: ServerSettings, proxies: TrustedProxies
) -> RequestInfo:
    """Return what authentication needs of a request, with the client's address and scheme."""
    headers: dict[str, list[str]] = defaultdict(list)
    for key, value in scope["headers"]:
        headers[key.decode("latin-1").lower()].append(_decode(value))
    client: Any = scope.get("client")
    peer = str(client[0]) if client else ""
    address = scope.get("state", {}).get("public_address") or read_public_address(
        scope, settings, proxies
    )
    if address is None:
        address = PublicAddress(is_secure=scope["scheme"] in SECURE_SCHEMES, name="", port=None)
    origins = headers.get("origin", [])
    if len(origins) == 1 and origins[0].startswith("https://") and not address.is_secure:
        # Sent by the browser of its own page: the Origin check compared it with the host.
        address = msgspec.structs.replace(address, is_secure=True)
    host = read_host(scope)
    is_local = host is not None and is_loopback(host[0]) and is_loopback(address.name)
    configured = configured_address(settings)
    public = configured if configured is not None and not is_local else address
    return RequestInfo(
        headers=dict(headers),
        address=proxies.client_address(peer, headers.get(FORWARDED_FOR, ())),
        peer=peer,
        is_secure=address.is_secure,
        is_local=is_local,
        origin=public.origin,
        port=public.port,
    )


def _decode(value: bytes) -> str:
    # Proxies send user names as UTF-8; what is not UTF-8 is Latin-1, as in HTTP/1.0.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def _accept_and_close(code: int, receive: Receive, send: Send) -> None:
    await receive()
    accept: Any = {"type": "websocket.accept"}
    await send(accept)
    close: Any = {"type": "websocket.close", "code": code, "reason": ""}
    await send(close)
