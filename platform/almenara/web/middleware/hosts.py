"""The Host check, which keeps DNS rebinding out."""

import ipaddress
from http import HTTPStatus

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from almenara.config import ServerSettings
from almenara.security.public_address import configured_address
from almenara.security.trusted_proxies import TrustedProxies
from almenara.web.middleware.refusal import Refusal, send_refusal
from almenara.web.public_address import read_host, read_public_address

log = structlog.get_logger(__name__)

LONGEST_HOST = 100


class HostMiddleware:
    """Refuses requests whose Host is neither an IP address nor in `server.allowed_hosts`.

    Sets `state["public_address"]`. A host that a trusted proxy reports is checked besides the Host
    header and not instead of it: some proxies pass X-Forwarded-Host of the client on, where a page
    of a rebound name could set it.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app, self.settings = app, settings
        self.proxies = TrustedProxies(settings.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = read_host(scope)
        address = read_public_address(scope, self.settings, self.proxies)
        if host is not None and address is not None:
            names = {host[0], address.name}
            if all(is_host_allowed(name, self.settings) for name in names):
                scope.setdefault("state", {})["public_address"] = address
                await self.app(scope, receive, send)
                return
        headers = [value for name, value in scope["headers"] if name == b"host"]
        shown = headers[0].decode("latin-1")[:LONGEST_HOST] if headers else ""
        if address is not None and host is not None and is_host_allowed(host[0], self.settings):
            shown = address.name[:LONGEST_HOST]
        log.warning("refused a request for another host", host=shown)
        refusal = Refusal(
            HTTPStatus.BAD_REQUEST,
            "Wrong host",
            f"This server does not answer for the host {shown!r}. If it should, add it to"
            " server.allowed_hosts.",
        )
        await send_refusal(refusal, scope, receive, send)


def is_host_allowed(name: str, settings: ServerSettings) -> bool:
    """Return whether this server answers for a name.

    Addresses are always allowed, since DNS rebinding needs a name.
    """
    if _is_address(name):
        return True
    allowed = settings.allowed_hosts or ["localhost", settings.host]
    configured = configured_address(settings)
    if configured is not None:
        allowed = [*allowed, configured.name]
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
