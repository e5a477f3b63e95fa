"""The address under which a browser reached Almenara, possibly through proxies.

Proxies report it in X-Forwarded-Proto, -Host and -Port. Each is a list to which every proxy may
append, so the entry that counts is the one of the outermost trusted proxy; everything left of it
was sent by the client.
"""

from collections.abc import Sequence
from typing import Any, Final

from litestar.types import Scope

from almenara.config import ServerSettings
from almenara.security.public_address import (
    DEFAULT_PORTS,
    LARGEST_PORT,
    PublicAddress,
    configured_address,
    parse_host,
)
from almenara.security.trusted_proxies import TrustedProxies, split_list

SECURE_SCHEMES: Final = ("https", "wss")
FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED_PROTO: Final = b"x-forwarded-proto"
FORWARDED_HOST: Final = b"x-forwarded-host"
FORWARDED_PORT: Final = b"x-forwarded-port"


def read_host(scope: Scope) -> tuple[str, int | None] | None:
    """Return name and port of the Host header; None where it is missing, malformed or repeated."""
    hosts = _header_values(scope, b"host")
    return parse_host(hosts[0]) if len(hosts) == 1 else None


def read_public_address(
    scope: Scope, settings: ServerSettings, proxies: TrustedProxies
) -> PublicAddress | None:
    """Return the address that the browser used; None where Host or X-Forwarded-Host is malformed.

    Headers of the client count for nothing: only those of `server.trusted_proxies` are read.
    """
    host = read_host(scope)
    if host is None:
        return None
    name, port = host
    is_secure = scope["scheme"] in SECURE_SCHEMES
    client: Any = scope.get("client")
    peer = str(client[0]) if client else ""
    if peer in proxies:
        hops = proxies.count_hops(peer, _header_values(scope, FORWARDED_FOR))
        forwarded_host = _select(_header_values(scope, FORWARDED_HOST), hops)
        forwarded_port = _select(_header_values(scope, FORWARDED_PORT), hops)
        scheme = _select(_header_values(scope, FORWARDED_PROTO), hops).lower()
        configured = configured_address(settings)
        if scheme:
            is_secure = is_secure or scheme in SECURE_SCHEMES
        elif configured is not None:
            # A proxy that does not report the scheme.
            is_secure = is_secure or configured.is_secure
        if forwarded_host:
            parsed = parse_host(forwarded_host)
            if parsed is None:
                return None
            name, port = parsed
        if port is None and forwarded_port.isdigit() and int(forwarded_port) <= LARGEST_PORT:
            # Behind another proxy that terminates TLS, 80 is the port of a proxy and not of the
            # browser; both default ports need no mention.
            port = None if int(forwarded_port) in DEFAULT_PORTS.values() else int(forwarded_port)
    if port == DEFAULT_PORTS["https" if is_secure else "http"]:
        port = None
    return PublicAddress(is_secure=is_secure, name=name, port=port)


def _header_values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _select(values: Sequence[str], hops: int) -> str:
    """Return the entry that the outermost trusted proxy set.

    A list that is shorter than the chain of proxies was replaced on the way, by trusted ones.
    """
    entries = [entry.strip() for entry in split_list(values)]
    if not entries:
        return ""
    return entries[-hops] if len(entries) >= hops else entries[0]
