"""The Host check, which keeps DNS rebinding out."""

import ipaddress
import re
from http import HTTPStatus
from typing import Final

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from almenara.config import ServerSettings
from almenara.web.middleware.refusal import Refusal, send_refusal

log = structlog.get_logger(__name__)

HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::(0|[1-9][0-9]{0,4}))?")
LARGEST_PORT: Final = 65535


class HostMiddleware:
    """Refuses requests whose Host is neither an IP address nor in `server.allowed_hosts`."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = request_host(scope)
        if host is not None and is_host_allowed(host[0], self.settings):
            await self.app(scope, receive, send)
            return
        headers = [value for name, value in scope["headers"] if name == b"host"]
        shown = headers[0].decode("latin-1")[:100] if headers else ""
        log.warning("refused a request for another host", host=shown)
        refusal = Refusal(
            HTTPStatus.BAD_REQUEST,
            "Wrong host",
            f"This server does not answer for the host {shown!r}. If it should, add it to"
            " server.allowed_hosts.",
        )
        await send_refusal(refusal, scope, receive, send)


def request_host(scope: Scope) -> tuple[str, int | None] | None:
    """Return name and port of the Host header; None where it is missing, malformed or repeated."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return parse_host(hosts[0].decode("latin-1")) if len(hosts) == 1 else None


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Return the name in lower case and the port of a Host header; None where it is malformed."""
    match = HOST.fullmatch(text)
    if match is None:
        return None
    port = int(match[2]) if match[2] else None
    if port is not None and port > LARGEST_PORT:
        return None
    return match[1].lower().removesuffix("."), port


def is_host_allowed(name: str, settings: ServerSettings) -> bool:
    """Return whether this server answers for a name.

    Addresses are always allowed, since DNS rebinding needs a name.
    """
    if _is_address(name):
        return True
    allowed = settings.allowed_hosts or ["localhost", settings.host]
    return any(
        pattern == "*"
        or name == pattern.lower()
        or (pattern.startswith("*.") and name.endswith(pattern[1:].lower()))
        for pattern in allowed
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
