"""What somebody is let in with, and who can tell whether they still may be here."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from almenara.security.identity import Identity, Person
from almenara.security.request import RequestInfo
from almenara.security.sessions import Session


class Renewal(Protocol):
    """What it takes to ask whether somebody who signed in may still be here."""

    every: float
    """Seconds between two times of asking."""

    async def person(self) -> Person | None:
        """Who they are now; None where they may not be here. Raises where nobody can say."""


class Provider(Protocol):
    """Who signs people in elsewhere, as OpenID Connect providers do."""

    name: str
    """What people know it by."""

    async def begin(self, address: str, callback: str, back: str) -> tuple[str, str]:
        """Where to send a browser at an address, and the secret that ties its coming back to it."""

    async def finish(
        self, asking: RequestInfo, came: Mapping[str, str], tie: str
    ) -> tuple[str, str]:
        """The secret of the new session, and the page to go on with. Raises `Refused`."""

    async def signed_out_elsewhere(self, token: str) -> bool:
        """End the sessions that a logout token names; whether it was a good one."""

    def leaving(self, session: Session) -> str:
        """Where to send a browser that signs out; empty where nowhere."""

    async def close(self) -> None:
        """Give up the connections."""


class AuthContext(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who was let in with one request."""

    identity: Identity
    session: Session | None = None
    api_token: str = ""
    """The id of the API token they came with."""
    bearer: str = ""
    """The digest of the other token they came with, where there is no session."""
    by_header: bool = False
    """Whether they sent a token that no browser sends by itself."""

    @property
    def user(self) -> str:
        """Whose connections are counted together."""
        person = self.identity.person
        if person.shared and self.session is not None:
            return self.session.id
        return person.subject
