"""Responses to requests that middleware refuses."""

import html
import math
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from almenara.security.errors import AuthError

POLICY: Final = b"default-src 'none'; frame-ancestors 'none'"


PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light">
<title>{title} · Almenara</title>
</head>
<body>
<main>
<p>{status}</p>
<h1>{title}</h1>
<p>{detail}</p>
<p>Go back to keep the input of the page, or open the <a href="/">overview</a>.</p>
</main>
</body>
</html>
"""


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


def expects_page(scope: Scope) -> bool:
    """Return whether the client is a browser that opens a page or sends a form."""
    if scope["path"].startswith(("/api/", "/intake/")):
        return False
    accepted = [value for name, value in scope["headers"] if name == b"accept"]
    return any(value.startswith(b"text/html") for value in accepted)


def render_refusal(refusal: Refusal) -> bytes:
    """Return a page without styles or scripts: nothing of the application is available here."""
    title, detail = html.escape(refusal.title), html.escape(refusal.detail)
    return PAGE.format(status=refusal.status, title=title, detail=detail).encode()


async def send_refusal(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with problem details (RFC 9457), or with a page to a browser that asks for one."""
    is_websocket = scope["type"] == ScopeType.WEBSOCKET
    kind = "websocket.http.response" if is_websocket else "http.response"
    if not is_websocket and expects_page(scope):
        content_type, body = b"text/html; charset=utf-8", render_refusal(refusal)
    else:
        problem = {"status": refusal.status, "title": refusal.title, "detail": refusal.detail}
        content_type, body = b"application/problem+json", msgspec.json.encode(problem)
    if is_websocket:
        await receive()
    headers: dict[bytes, bytes] = {
        b"content-type": content_type,
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
