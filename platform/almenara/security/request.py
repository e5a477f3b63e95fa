"""What of a request tells who makes it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec

from almenara.security.sessions import PLAIN_COOKIE, SECURE_COOKIE


class Refused(Exception):  # noqa: N818
    """A request that goes no further; the text is for the person who reads it."""

    def __init__(self, status: int, detail: str, wait: float = 0.0) -> None:
        super().__init__(detail)
        self.status, self.detail, self.wait = status, detail, wait

    @property
    def title(self) -> str:
        return HTTPStatus(self.status).phrase


class ClusterError(RuntimeError):
    """The Kubernetes API server did not say; the text gives the reason."""


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A request, as far as it matters who makes it."""

    headers: Mapping[str, Sequence[str]]
    """By name in lower case, each as often as it came."""
    address: str
    """Of the browser, behind proxies that may be believed."""
    peer: str
    """Of whoever is connected."""
    secure: bool
    """Whether the browser came over https."""
    local: bool
    """Whether it asks for this machine by a name or address that no other can have."""

    def header(self, name: str) -> str:
        """The value of a header that came once; empty otherwise."""
        found = self.headers.get(name, ())
        return found[0] if len(found) == 1 else ""

    @property
    def bearer(self) -> str:
        """The token in the Authorization header; empty where there is none."""
        kind, _, token = self.header("authorization").partition(" ")
        return token.strip() if kind.lower() == "bearer" else ""

    def cookie(self, *names: str) -> str:
        """The value of the first of these cookies that came; empty where none did."""
        found: dict[str, str] = {}
        for text in self.headers.get("cookie", ()):
            for part in text.split(";"):
                name, equals, value = part.strip().partition("=")
                if equals and name not in found:
                    found[name] = value
        return next((found[name] for name in names if found.get(name)), "")

    def session_cookie(self, plain: bool) -> str:
        """The secret of the session: by its secure name or, on this machine and where that was
        asked for, by the plain one, which another host could have set."""
        if self.local or plain:
            return self.cookie(SECURE_COOKIE, PLAIN_COOKIE)
        return self.cookie(SECURE_COOKIE)
