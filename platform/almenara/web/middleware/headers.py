"""Security headers of every response, and the nonce of its scripts."""

import secrets
from typing import Final, cast

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
POLICY: Final = (
    "default-src 'none'; script-src 'nonce-{nonce}' 'strict-dynamic'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'; object-src 'none'; require-trusted-types-for 'script';"
    " trusted-types htmx"
)
TRANSPORT_SECURITY: Final = (b"strict-transport-security", b"max-age=31536000")
RESPONSE_STARTS: Final = ("http.response.start", "websocket.http.response.start")
NONCE_BYTES: Final = 16


class SecurityHeadersMiddleware:
    """Adds the headers that a response does not have yet, and `state["nonce"]` for templates."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        nonce = ""
        if scope["type"] == ScopeType.HTTP:
            nonce = scope.setdefault("state", {})["nonce"] = secrets.token_urlsafe(NONCE_BYTES)
            if scope.get("method") == "HEAD":
                # The response to GET without its body, which the server leaves out.
                scope = cast("Scope", {**scope, "method": "GET"})

        async def send_with_headers(message: Message) -> None:
            if message["type"] in RESPONSE_STARTS:
                headers = list(message.get("headers", ()))
                present = {name for name, _ in headers}
                request_info = scope.get("state", {}).get("request_info")
                encrypted = request_info is not None and request_info.is_secure
                policy = (b"content-security-policy", POLICY.format(nonce=nonce).encode())
                added = (*HEADERS, policy, *([TRANSPORT_SECURITY] if encrypted else []))
                headers += [header for header in added if header[0] not in present]
                message["headers"] = headers
            await send(message)

        await self.app(scope, receive, send_with_headers)
