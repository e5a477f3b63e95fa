"""Addresses of servers, how connections to them are secured, and why they fail."""

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from almenara.errors import describe_error
from almenara.hookspecs import Finding
from almenara.signals import Resource

E = TypeVar("E", bound=BaseException)
MAX_TEXT: Final = 200


class Address(msgspec.Struct, frozen=True, order=True):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TlsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How connections are secured."""

    ca: Path | None = None
    """File with the certificates of the authorities to trust, instead of the system's."""
    certificate: Path | None = None
    """File with the client certificate."""
    key: Path | None = None
    """File with the key of the client certificate."""
    verify: bool = True
    """Whether the certificate of a server must be valid and for its host. Without that, any server
    can respond in its place."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("tls: set certificate and key together")


class UrlForm(msgspec.Struct, frozen=True, kw_only=True):
    """How the URLs of one protocol look."""

    plain: Sequence[str]
    """Schemes without TLS; the first one is that of examples."""
    secured: Sequence[str]
    """Schemes with TLS; the first one is that of examples."""
    port: int
    """The default port."""
    host: str = "server"
    """The host of examples."""

    def parse(self, url: str) -> Address:
        """The address of a URL. Raises `ValueError`."""
        example = f"{self.plain[0]}://{self.host}:{self.port}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # What is wrong with it may be a password in place of the port.
            raise ValueError(f"a URL must be like {example}; the one given is no URL") from None
        if parts.scheme not in (*self.plain, *self.secured) or not parts.hostname:
            has_scheme = parts.scheme in (*self.plain, *self.secured)
            raise ValueError(
                f"a URL must be like {example} or {self.secured[0]}://{self.host}:{self.port};"
                f" the one given {'has no host' if has_scheme else 'has another scheme'}"
            )
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL must not have a user or password; use user and password")
        if parts.path.strip("/") or parts.query:
            raise ValueError(
                "a URL must not have a path, database or options; servers are observed whole"
            )
        return Address(parts.hostname, self.port if port is None else port)

    def is_secured(self, url: str) -> bool:
        """Whether connections to a URL use TLS."""
        return urlsplit(url).scheme in self.secured

    def check(self, name: str, urls: Sequence[str], tls: TlsSettings | None) -> None:
        """Check the URLs of the deployment `name`. Raises `ValueError`."""
        for url in urls:
            self.parse(url)
        if len({self.is_secured(url) for url in urls}) > 1:
            raise ValueError(f"urls of deployment {name}: use TLS for all of them or for none")
        if tls is not None and not self.is_secured(urls[0]):
            raise ValueError(
                f"deployment {name} has the section tls; use {self.secured[0]}:// in urls"
            )


def check_unique(kind: str, names: Sequence[str]) -> None:
    """Check that names are unique; `kind` is what they name. Raises `ValueError`."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {kind}s are named {name!r}; names must be unique")


def find_cause(error: BaseException | None, kind: type[E]) -> E | None:
    """The first error of a kind among an error and its causes: errors of libraries often have no
    text of their own."""
    while error is not None:
        if isinstance(error, kind):
            return error
        if isinstance(error, BaseExceptionGroup):
            # One error for each address of a name.
            return next(filter(None, (find_cause(each, kind) for each in error.exceptions)), None)
        error = error.__cause__ or error.__context__
    return None


def describe_connection_error(error: BaseException, limit: int = MAX_TEXT) -> str:
    """Why a connection failed, in words of operators: TLS, a refused connection or a name that
    cannot be resolved; empty for another reason. `limit` is the length of the text of a library."""
    if (cause := find_cause(error, ssl.SSLError)) is not None:
        return f"TLS fails: {describe_error(cause, limit)}; check urls and tls"
    if find_cause(error, ConnectionRefusedError) is not None:
        return "the connection is refused; nothing listens on this port"
    if (failure := find_cause(error, socket.gaierror)) is not None:
        return f"the name cannot be resolved: {describe_error(failure, limit)}"
    return ""


def report_silent(
    check: str, silent: Sequence[Resource], servers: int, remedy: str
) -> Finding | None:
    """What a diagnosis reports about servers that do not answer, of so many; None without any.
    The state of each has its `reason`."""
    if not silent:
        return None
    message = f"{silent[0].name}: {silent[0].state.get('reason', '')}"
    if len(silent) > 1:
        message += f"; and {len(silent) - 1} more servers"
    verdict: Literal["failed", "warning"] = "failed" if len(silent) == servers else "warning"
    return Finding(check=check, verdict=verdict, message=message, remedy=remedy)
