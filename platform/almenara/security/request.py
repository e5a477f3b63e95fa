"""A request as far as authentication needs it."""

import base64
from collections.abc import Mapping, Sequence

import msgspec

from almenara.security.sessions import PLAIN_COOKIE, SECURE_COOKIE


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Headers and connection of a request, read once in `web.middleware.authentication`."""

    headers: Mapping[str, Sequence[str]]
    """Values by lower-case name, in the order in which they were sent."""
    address: str
    """The client's address, behind trusted proxies."""
    peer: str
    """The address of the TCP connection: a proxy's where there is one."""
    is_secure: bool
    """Whether the browser used https."""
    is_local: bool
    """Whether the Host is a loopback name or address, which no other machine can have."""
    origin: str = ""
    """The origin in the browser's address bar, or that of `server.url`."""
    port: int | None = None
    """The port there; None for the default port."""

    def header(self, name: str) -> str:
        """Return the value of a header that was sent exactly once; empty otherwise."""
        values = self.headers.get(name, ())
        return values[0] if len(values) == 1 else ""

    @property
    def bearer_token(self) -> str:
        """The token of the Authorization header; empty where there is no bearer token."""
        kind, _, token = self.header("authorization").partition(" ")
        return token.strip() if kind.lower() == "bearer" else ""

    @property
    def basic_password(self) -> str:
        """The password of an Authorization header of the kind Basic; empty without one."""
        kind, _, encoded = self.header("authorization").partition(" ")
        if kind.lower() != "basic":
            return ""
        try:
            decoded = base64.b64decode(encoded.strip(), validate=True).decode()
        except ValueError:
            return ""
        return decoded.partition(":")[2]

    def cookies(self) -> dict[str, str]:
        """Return all cookies by name; of one that was sent twice the first."""
        cookies: dict[str, str] = {}
        for header in self.headers.get("cookie", ()):
            for part in header.split(";"):
                name, equals, value = part.strip().partition("=")
                if equals and name not in cookies:
                    cookies[name] = value
        return cookies

    def cookie(self, *names: str) -> str:
        """Return the value of the first of these cookies that was sent; empty if none was."""
        cookies = self.cookies()
        return next((cookies[name] for name in names if cookies.get(name)), "")

    @property
    def cookie_suffix(self) -> str:
        """The end of cookie names: browsers share cookies among the ports of a host, so that two
        Almenaras on one host would overwrite each other's."""
        return "" if self.port is None else f"-{self.port}"

    def session_cookie(self, *, allow_plain: bool) -> str:
        """Return the secret of the session cookie.

        The plain name counts on this machine and where `allow_plain` is set: over http, another
        host could have set it. Names without a port are those of versions before 0.2.
        """
        names = [SECURE_COOKIE]
        if self.is_local or allow_plain:
            names.append(PLAIN_COOKIE)
        suffix = self.cookie_suffix
        return self.cookie(*(f"{name}{suffix}" for name in names), *names)
