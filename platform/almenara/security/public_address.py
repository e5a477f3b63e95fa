"""The address under which users open Almenara: `server.url`, or what a request reports."""

import functools
import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

from almenara.config import ConfigError, ServerSettings
from almenara.urls import redact_urls

HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::(0|[1-9][0-9]{0,4}))?")
LARGEST_PORT: Final = 65535
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class PublicAddress(msgspec.Struct, frozen=True):
    """Scheme, name and port of the address in the browser."""

    is_secure: bool
    name: str
    """In lower case; IPv6 addresses in brackets."""
    port: int | None
    """None for the default port of the scheme."""

    @property
    def origin(self) -> str:
        """The address as an origin, `https://name:port`."""
        scheme = "https" if self.is_secure else "http"
        port = "" if self.port is None else f":{self.port}"
        return f"{scheme}://{self.name}{port}"


def parse_host(text: str) -> tuple[str, int | None] | None:
    """Return the name in lower case and the port of a Host header; None where it is malformed."""
    match = HOST.fullmatch(text)
    if match is None:
        return None
    port = int(match[2]) if match[2] else None
    if port is not None and port > LARGEST_PORT:
        return None
    return match[1].lower().removesuffix("."), port


@functools.lru_cache(maxsize=16)
def parse_url(text: str) -> PublicAddress:
    """Return the address of `server.url`. Raises `ConfigError`."""
    try:
        parts = urlsplit(text)
        host = parse_host(parts.netloc)
    except ValueError:
        parts, host = urlsplit(""), None
    if host is None or parts.scheme not in DEFAULT_PORTS:
        raise ConfigError(
            f"server.url: {redact_urls(text)!r} is not a URL; write the address that users open,"
            " such as https://almenara.example.com"
        )
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(
            f"server.url: {redact_urls(text)!r} has a path; Almenara needs a host name or port of"
            f" its own, such as {parts.scheme}://{parts.netloc}"
        )
    name, port = host
    port = None if port == DEFAULT_PORTS[parts.scheme] else port
    return PublicAddress(is_secure=parts.scheme == "https", name=name, port=port)


def configured_address(settings: ServerSettings) -> PublicAddress | None:
    """Return the address of `server.url`; None where it is not set. Raises `ConfigError`."""
    return parse_url(settings.url) if settings.url else None
