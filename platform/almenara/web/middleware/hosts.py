"""What every request passes first: Host, Origin, the cap on WebSockets, and security headers.

Pure ASGI in front of the framework, because a check that runs after routing misses what routing
refuses, and a check for HTTP alone misses the WebSocket.
"""

import asyncio
import ipaddress
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final, cast
from urllib.parse import urlsplit

import structlog
from litestar.enums import ScopeType
from litestar.exceptions import ClientException
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from almenara.config import ServerSettings
from almenara.web.refusal import HEADERS, Refusal, refuse

log = structlog.get_logger(__name__)

HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::(0|[1-9][0-9]{0,4}))?")
DEFAULT_PORTS: Final = {"http": 80, "https": 443}
FORWARDED_PROTO: Final = b"x-forwarded-proto"
SECURE: Final = ("https", "wss")

POLICY: Final = (
    "default-src 'none'; script-src 'nonce-{nonce}' 'strict-dynamic'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'; object-src 'none'; require-trusted-types-for 'script';"
    " trusted-types htmx"
)
METHODS: Final = frozenset(("GET", "HEAD", "POST"))
"""Everything else is refused: a list of what is dangerous has been too short elsewhere."""
TRANSPORT_SECURITY: Final = (b"strict-transport-security", b"max-age=31536000")


class Guard:
    """The outermost ASGI application."""

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, sockets_open: Callable[[], int]
    ) -> None:
        self.app, self.settings, self.sockets_open = app, settings, sockets_open
        self._joining = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if str(scope["type"]) == "lifespan":
            await self.app(scope, receive, send)
            return
        websocket = scope["type"] == ScopeType.WEBSOCKET
        refusal = refused(scope, self.settings)
        if refusal is None and websocket and self._sockets >= self.settings.max_websockets:
            refusal = Refusal(
                503,
                "Too many connections",
                f"{self.settings.max_websockets} live pages are open; close one, or raise"
                " server.max_websockets.",
            )
        if refusal is not None:
            await refuse(refusal, websocket, receive, send)
            return
        if websocket:
            await self._join(scope, receive, send)
            return
        nonce = secrets.token_urlsafe(16)
        scope.setdefault("state", {})["nonce"] = nonce
        if scope.get("method") == "HEAD":
            # It is what GET would be without its body, and that the server leaves out.
            scope = cast("Scope", {**scope, "method": "GET"})
        body = Body(receive, self.settings)
        await self.app(scope, body.receive, _with_headers(scope, send, nonce))

    @property
    def _sockets(self) -> int:
        return self.sockets_open() + self._joining

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Between this check and the channels' count lies an await, so handshakes count too.
        self._joining += 1
        joining = True

        async def counted(message: Message) -> None:
            nonlocal joining
            await send(message)
            if joining and message["type"] in ("websocket.accept", "websocket.close"):
                joining = False
                self._joining -= 1

        try:
            await self.app(scope, receive, counted)
        finally:
            if joining:
                self._joining -= 1


def refused(scope: Scope, settings: ServerSettings) -> Refusal | None:
    """Why the Host or the Origin of a request is not acceptable; None where they are."""
    if (refusal := _malformed(scope, settings)) is not None:
        return refusal
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    origins = [value for name, value in scope["headers"] if name == b"origin"]
    host = parse_host(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    if host is None or not host_allowed(host[0], settings):
        shown = hosts[0].decode("latin-1")[:100] if hosts else ""
        log.warning("a request for another host was refused", host=shown)
        return Refusal(
            400,
            "Wrong host",
            f"The request asks for the host {shown!r}, which this server does not answer for."
            " If it should, name it in server.allowed_hosts.",
        )
    if not origins and scope["type"] == ScopeType.HTTP:
        return None
    origin = origins[0].decode("latin-1") if len(origins) == 1 else ""
    # A proxy's word, whoever says it: it can only make this stricter.
    came_by = [value.strip().lower() for name, value in scope["headers"] if name == FORWARDED_PROTO]
    secure = scope["scheme"] in SECURE or any(it.decode("latin-1") in SECURE for it in came_by)
    if origin_allowed(origin, host, secure, settings.allowed_origins):
        return None
    log.warning(
        "a request from another origin was refused",
        origin=origin[:200] if origins else None,
        expected=expected_origins(host, secure, settings.allowed_origins),
    )
    return Refusal(
        403,
        "Wrong origin",
        f"The request comes from the origin {origin[:200]!r} and was made to"
        f" {hosts[0].decode('latin-1')!r}. If that origin may open live pages, name it in"
        " server.allowed_origins.",
    )


def _malformed(scope: Scope, settings: ServerSettings) -> Refusal | None:
    path: Any = scope.get("raw_path") or b""
    query: Any = scope.get("query_string") or b""
    if len(path) + len(query) > settings.max_url_bytes:
        return Refusal(414, "Address too long", "The address of the request is too long.")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > settings.max_header_bytes:
        return Refusal(431, "Headers too large", "The headers of the request are too large.")
    method: Any = scope.get("method", "GET")
    if method not in METHODS:
        return Refusal(
            405,
            "Method not allowed",
            f"{str(method)[:20]} is not answered here.",
            headers=((b"allow", ", ".join(sorted(METHODS)).encode()),),
        )
    if scope["type"] == ScopeType.HTTP:
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(not it.isdigit() or len(it) > 18 for it in lengths) or len(lengths) > 1:
            return Refusal(400, "Bad request", "The length of the body cannot be read.")
        if lengths and int(lengths[0]) > settings.max_body_bytes:
            return _too_large(settings)
    return None


def _too_large(settings: ServerSettings) -> Refusal:
    return Refusal(
        413,
        "Body too large",
        f"The body of a request is at most {settings.max_body_bytes} bytes"
        " (server.max_body_bytes).",
    )


class Body:
    """What a request brings: in time, and not too much of it."""

    def __init__(self, receive: Receive, settings: ServerSettings) -> None:
        self._receive, self._settings = receive, settings
        self._left = settings.max_body_bytes
        self._until = asyncio.get_running_loop().time() + settings.body_timeout
        self._whole = False

    async def receive(self) -> Any:
        """The next part. One that comes too late, or is too much, ends the request."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message: Any = await self._receive()
        except TimeoutError:
            raise ClientException(
                "The body of the request took too long.", status_code=408
            ) from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._left < 0:
                raise ClientException(_too_large(self._settings).detail, status_code=413)
        return message


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Name in lower case and port of a Host header; None where it is malformed."""
    found = HOST.fullmatch(text)
    if found is None:
        return None
    port = int(found[2]) if found[2] else None
    if port is not None and port > 65535:
        return None
    return found[1].lower().removesuffix("."), port


def host_allowed(name: str, settings: ServerSettings) -> bool:
    """Whether this server answers for a name.

    An address is always fine: what DNS rebinding needs is a name.
    """
    if _is_address(name):
        return True
    allowed = settings.allowed_hosts or ["localhost", settings.host]
    return any(
        it == "*" or name == it.lower() or (it.startswith("*.") and name.endswith(it[1:].lower()))
        for it in allowed
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def origin_allowed(
    origin: str, host: tuple[str, int | None], secure: bool, allowed: Sequence[str]
) -> bool:
    """Whether an origin is our own or one of those allowed, compared by scheme, name and port.

    Our own may be https where we are reached over http: that is a proxy that ends TLS. The other
    way round it is not ours.
    """
    parsed = parse_origin(origin)
    if parsed is None:
        return False
    if parsed in {it for text in allowed if (it := parse_origin(text)) is not None}:
        return True
    scheme, name, port = parsed
    if secure and scheme != "https":
        return False
    return (name, port) == (host[0], host[1] if host[1] is not None else DEFAULT_PORTS[scheme])


def expected_origins(
    host: tuple[str, int | None], secure: bool, allowed: Sequence[str]
) -> list[str]:
    """The origins that would have been fine, for whoever reads why another was not."""
    at = host[0] if host[1] is None else f"{host[0]}:{host[1]}"
    return [*([] if secure else [f"http://{at}"]), f"https://{at}", *allowed]


def parse_origin(text: str) -> tuple[str, str, int] | None:
    """Scheme, name and port of an origin; None for `null` and anything malformed."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or text != f"{parts.scheme}://{parts.netloc}":
        return None
    host = parse_host(parts.netloc)
    if host is None:
        return None
    return parts.scheme, host[0], port if port is not None else DEFAULT_PORTS[parts.scheme]


def _with_headers(scope: Scope, send: Send, nonce: str) -> Send:
    policy = POLICY.format(nonce=nonce).encode()

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            asking = scope["state"].get("asking")
            encrypted = [TRANSPORT_SECURITY] if asking is not None and asking.secure else []
            message["headers"] = [
                *message.get("headers", ()), *HEADERS, *encrypted,
                (b"content-security-policy", policy),
            ]  # fmt: skip
        await send(message)

    return guarded
