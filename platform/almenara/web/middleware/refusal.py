"""Responses to requests that middleware refuses."""

import math
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from almenara.security.errors import AuthError

POLICY: Final = b"default-src 'none'; frame-ancestors 'none'"


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is refused."""

    status: int
    title: str
    detail: str
    retry_after: float = 0.0
    """Seconds; 0 where a retry does not help."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Further headers of the response, such as `Allow`."""


def refusal_of(error: AuthError) -> Refusal:
    """Return the refusal that an error of authentication stands for."""
    return Refusal(error.status, error.title, error.detail, error.retry_after)


async def send_refusal(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with problem details (RFC 9457), to a WebSocket handshake as well."""
    is_websocket = scope["type"] == ScopeType.WEBSOCKET
    kind = "websocket.http.response" if is_websocket else "http.response"
    problem = {"status": refusal.status, "title": refusal.title, "detail": refusal.detail}
    body = msgspec.json.encode(problem)
    if is_websocket:
        await receive()
    headers: dict[bytes, bytes] = {
        b"content-type": b"application/problem+json",
        b"content-length": str(len(body)).encode(),
        b"content-security-policy": POLICY,
        b"cache-control": b"no-store",
        b"connection": b"close",
    }
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        headers[b"www-authenticate"] = b"Bearer"
    if refusal.retry_after:
        headers[b"retry-after"] = str(math.ceil(refusal.retry_after)).encode()
    start: Any = {
        "type": f"{kind}.start",
        "status": refusal.status,
        "headers": [*headers.items(), *refusal.headers],
    }
    await send(start)
    content: Any = {"type": f"{kind}.body", "body": body}
    await send(content)
