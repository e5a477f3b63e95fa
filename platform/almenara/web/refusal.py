"""Answers to requests that go no further."""

import math
from typing import Any, Final

import msgspec
from litestar.types import Receive, Send

HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


class Refusal(msgspec.Struct, frozen=True):
    """Why a request goes no further."""

    status: int
    title: str
    detail: str
    wait: float = 0.0
    """Seconds after which it may be tried again."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """What the answer says besides, as `Allow` does of methods."""


async def refuse(refusal: Refusal, websocket: bool, receive: Receive, send: Send) -> None:
    """Answer a request that goes no further, before the framework sees it."""
    kind = "websocket.http.response" if websocket else "http.response"
    body = msgspec.json.encode(
        {"status": refusal.status, "title": refusal.title, "detail": refusal.detail}
    )
    if websocket:
        await receive()
    headers: dict[bytes, bytes] = {
        b"content-type": b"application/problem+json",
        b"content-length": str(len(body)).encode(),
        b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
        b"cache-control": b"no-store",
        b"connection": b"close",
    }
    if refusal.status == 401:
        headers[b"www-authenticate"] = b"Bearer"
    if refusal.wait:
        headers[b"retry-after"] = str(math.ceil(refusal.wait)).encode()
    start: Any = {
        "type": f"{kind}.start",
        "status": refusal.status,
        "headers": [*headers.items(), *HEADERS, *refusal.headers],
    }
    await send(start)
    content: Any = {"type": f"{kind}.body", "body": body}
    await send(content)
