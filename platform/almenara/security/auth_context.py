"""The result of authentication, and the interfaces that keep a sign-in up to date."""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from almenara.security.identity import Identity, User
from almenara.security.request import RequestInfo
from almenara.security.sessions import Session
from almenara.security.store import SessionRecord


class UserRefresher(Protocol):
    """Fetches the current state of a signed-in user from the system that authenticated it."""

    interval: float
    """Seconds between two refreshes."""

    async def renew(self) -> bool:
        """Renew what the user is fetched with; return False where access was withdrawn.

        Afterwards `seal` returns what has to be stored before anything else can fail: a provider
        may accept a refresh token once only. Raises where the system cannot be reached.
        """

    async def fetch_user(self) -> User | None:
        """Return the user as it is now, after `renew`; None where access was withdrawn.

        Raises where the system cannot be reached.
        """

    async def seal(self) -> str:
        """Return what another replica can continue with, encrypted; empty where none can."""


class LoginStart(msgspec.Struct, frozen=True):
    """A login whose browser leaves for the provider."""

    url: str
    """Where to send the browser."""
    state: str
    """Identifies the login when the browser comes back."""
    cookie: str
    """The value of a cookie, with which only the same browser can complete the login."""


class IdentityProvider(Protocol):
    """An external system that users sign in with, such as an OpenID Connect provider."""

    name: str
    """The name that users know it by."""

    async def start_login(self, redirect_uri: str, next_page: str) -> LoginStart:
        """Start a login; `next_page` is the path to continue with."""

    async def next_page(self, state: str, cookie: str) -> str:
        """Return the page that a pending login continues with; `/` where it is unknown."""

    async def finish_login(
        self, request_info: RequestInfo, parameters: Mapping[str, str], cookie: str
    ) -> tuple[str, str]:
        """Return the secret of the new session and the page to continue with.

        Raises `AuthError`.
        """

    async def confirm(self, record: SessionRecord) -> tuple[Identity, UserRefresher] | None:
        """Return the identity of a stored session, and what refreshes it; None where this replica
        cannot confirm it."""

    async def handle_logout_token(self, token: str) -> bool:
        """End the sessions that a back-channel logout token names; return whether it is valid."""

    async def logout_url(self, session: Session) -> str:
        """Return where a browser continues after signing out; empty if the provider has no page."""

    async def close(self) -> None:
        """Close the connections."""


class AuthContext(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a request, and the credentials that proved it."""

    identity: Identity
    session: Session | None = None
    api_token_id: str = ""
    access_token_mark: str = ""
    """Identifies the access token, where the request carries it."""
    refresher: UserRefresher | None = None
    """Verifies another bearer token again, for connections that outlive the request."""
    from_header: bool = False
    """Whether the credentials came in a header that browsers never send on their own, so that no
    other site can have caused the request."""

    @property
    def user_key(self) -> str:
        """The key under which connections and requests of one user are counted.

        The access token is used by several people, so each of its sessions counts as a user. An API
        token counts as one, however many sessions it starts.
        """
        user = self.identity.user
        if user.is_shared and not user.token_id and self.session is not None:
            return self.session.id
        return user.subject
