"""The Origin check: no other site's page can open the WebSocket or send a form."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from almenara.config import ServerSettings
from almenara.security.public_address import DEFAULT_PORTS, configured_address, parse_host
from almenara.security.trusted_proxies import TrustedProxies, split_list
from almenara.web.middleware.refusal import Refusal, send_refusal
from almenara.web.public_address import FORWARDED_PROTO, SECURE_SCHEMES, read_public_address

log = structlog.get_logger(__name__)

LONGEST_ORIGIN: Final = 200


class OriginMiddleware:
    """Refuses requests from other origins than its own and `server.allowed_origins`."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := check_origin(scope, self.settings)) is not None:
            await send_refusal(refusal, scope, receive, send)
            return
        await self.app(scope, receive, send)


def check_origin(scope: Scope, settings: ServerSettings) -> Refusal | None:
    """Return why the Origin of a request is refused; None where it is not.

    A WebSocket needs one Origin; an HTTP request may have none, as from scripts and links.
    """
    headers = scope["headers"]
    origins = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    if not origins and scope["type"] == ScopeType.HTTP:
        return None
    origin = origins[0] if len(origins) == 1 else ""
    address = scope.get("state", {}).get("public_address") or read_public_address(
        scope, settings, TrustedProxies(settings.trusted_proxies)
    )
    host = (address.name, address.port) if address is not None else ("", None)
    # Accepted from anyone, since it can only make the check stricter.
    values = [value.decode("latin-1") for name, value in headers if name == FORWARDED_PROTO]
    is_secure = (address is not None and address.is_secure) or any(
        entry.strip().lower() in SECURE_SCHEMES for entry in split_list(values)
    )
    allowed = list(settings.allowed_origins)
    if (configured := configured_address(settings)) is not None:
        allowed.append(configured.origin)
    if is_origin_allowed(origin, host, is_secure, allowed):
        return None
    log.warning(
        "refused a request from another origin",
        origin=origin[:LONGEST_ORIGIN] if origins else None,
        expected=expected_origins(host, is_secure, allowed),
    )
    return Refusal(
        HTTPStatus.FORBIDDEN,
        "Wrong origin",
        f"The request comes from the origin {origin[:LONGEST_ORIGIN]!r} and was sent to"
        f" {host[0]!r}. If that origin may open live pages, add it to server.allowed_origins.",
    )


def is_origin_allowed(
    origin: str, host: tuple[str, int | None], is_secure: bool, allowed: Sequence[str]
) -> bool:
    """Return whether an origin is the server's own or allowed, by scheme, name and port.

    The own origin may be https where the request arrives over http, since a proxy may terminate
    TLS; the other way round it is another origin.
    """
    parsed = parse_origin(origin)
    if parsed is None:
        return False
    if parsed in [parse_origin(text) for text in allowed]:
        return True
    scheme, name, port = parsed
    if is_secure and scheme != "https":
        return False
    return (name, port) == (host[0], host[1] if host[1] is not None else DEFAULT_PORTS[scheme])


def expected_origins(
    host: tuple[str, int | None], is_secure: bool, allowed: Sequence[str]
) -> list[str]:
    """Return the origins that would have been accepted, for the log."""
    address = host[0] if host[1] is None else f"{host[0]}:{host[1]}"
    return [*([] if is_secure else [f"http://{address}"]), f"https://{address}", *allowed]


def parse_origin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, name and port of an origin; None for `null` and malformed text."""
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
