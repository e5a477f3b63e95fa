"""Identity headers of a proxy in front, and who may send them.

What went wrong elsewhere: headers believed from anybody, names that an underscore smuggles past the
proxy, and headers that came twice.
"""

import hmac

from almenara.config import ProxySettings
from almenara.security.identity import Person
from almenara.security.request import Refused, RequestInfo


class Proxying:
    """Reads who it is from the headers of a proxy that proves itself."""

    def __init__(self, settings: ProxySettings, *, certified: bool) -> None:
        self.settings, self.certified = settings, certified
        self.user = settings.user_header.lower()
        self.groups = settings.groups_header.lower()
        self.secret = settings.secret_header.lower()

    def person(self, asking: RequestInfo, *, trusted: bool) -> Person | None:
        """Who the proxy says it is; None where it says nothing. Raises `Refused`."""
        ours = {_plain(name): name for name in (self.user, self.groups, self.secret)}
        for name, values in asking.headers.items():
            meant = ours.get(_plain(name))
            if meant is not None and (meant != name or len(values) > 1):
                raise Refused(400, "An identity header came twice, or under a name that differs.")
        name = asking.header(self.user).strip()
        if not name and not asking.headers.get(self.groups):
            return None
        if not trusted or not self._proven(asking):
            raise Refused(
                403,
                "The identity headers do not come from the proxy: its address must be in"
                " server.trusted_proxies, and it must send the secret of auth.proxy.secret.",
            )
        if not name or len(name) > 200 or not name.isprintable():
            raise Refused(400, "The proxy names nobody.")
        groups = tuple(sorted({it.strip() for it in asking.header(self.groups).split(",")} - {""}))
        return Person(name=name, subject=f"proxy:{name}", groups=groups)

    def _proven(self, asking: RequestInfo) -> bool:
        if self.settings.secret is None:
            return self.certified
        wanted, came = self.settings.secret.reveal(), asking.header(self.secret)
        return hmac.compare_digest(wanted.encode(), came.encode("utf-8", "replace"))


def _plain(name: str) -> str:
    """A name as whoever confuses `_` and `-` reads it."""
    return name.replace("_", "-").replace(" ", "").lower()
