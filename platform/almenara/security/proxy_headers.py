"""Identity headers of an authenticating proxy.

Known attacks on such headers: clients that send them directly, names that differ only by an
underscore and pass the proxy's filter, and headers that are sent twice.
"""

import hmac

from almenara.config import ProxySettings
from almenara.security.errors import AccessDenied, InvalidRequest
from almenara.security.identity import User
from almenara.security.request import RequestInfo

LONGEST_NAME = 200


class ProxyHeaders:
    """Reads the user from the headers of a proxy that proves its own identity."""

    def __init__(self, settings: ProxySettings, *, has_client_ca: bool) -> None:
        """`has_client_ca`: TLS accepts only clients with a certificate, which is proof enough."""
        self.settings, self.has_client_ca = settings, has_client_ca
        self.user_header = settings.user_header.lower()
        self.groups_header = settings.groups_header.lower()
        self.secret_header = settings.secret_header.lower()

    def read_user(self, request_info: RequestInfo, *, is_trusted: bool) -> User | None:
        """Return the user of the headers; None where the request has none of them.

        `is_trusted`: the connection comes from an address in `server.trusted_proxies`. Raises
        `AuthError`.
        """
        self._check_names(request_info)
        name = request_info.header(self.user_header).strip()
        if not name and not request_info.headers.get(self.groups_header):
            return None
        if not is_trusted or not self._is_proven(request_info):
            raise AccessDenied(
                "The identity headers do not come from a trusted proxy: its address must be in"
                " server.trusted_proxies, and it must send the secret of auth.proxy.secret."
            )
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise InvalidRequest("The proxy sent no valid user name.")
        values = request_info.header(self.groups_header).split(self.settings.groups_separator)
        groups = tuple(sorted({group.strip() for group in values} - {""}))
        return User(name=name, subject=f"proxy:{name}", groups=groups)

    def _check_names(self, request_info: RequestInfo) -> None:
        own_headers = {
            _normalize(name): name
            for name in (self.user_header, self.groups_header, self.secret_header)
        }
        for name, values in request_info.headers.items():
            own = own_headers.get(_normalize(name))
            if own is not None and (own != name or len(values) > 1):
                raise InvalidRequest(
                    f"The identity header {own} was sent more than once, or spelled differently."
                )

    def _is_proven(self, request_info: RequestInfo) -> bool:
        if self.settings.secret is None:
            return self.has_client_ca
        expected, sent = self.settings.secret.reveal(), request_info.header(self.secret_header)
        return hmac.compare_digest(expected.encode(), sent.encode("utf-8", "replace"))


def _normalize(name: str) -> str:
    """Return a header name as servers that confuse `_` and `-` read it."""
    return name.replace("_", "-").replace(" ", "").lower()
