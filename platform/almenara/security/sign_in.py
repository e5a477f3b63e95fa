"""Signing in and out: tokens are exchanged for sessions, and sessions are ended."""

from almenara.security.auth_context import UserRefresher
from almenara.security.authenticator import LONGEST_TOKEN, UNKNOWN_CREDENTIALS, Authenticator
from almenara.security.errors import AccessDenied, Unauthenticated
from almenara.security.identity import Identity, Role, User
from almenara.security.request import RequestInfo
from almenara.security.reviewer import Reviewer
from almenara.security.sessions import Session
from almenara.security.trusted_proxies import rate_key


class SignIn:
    """Starts and ends sessions, for the sign-in page and for identity providers."""

    def __init__(self, authenticator: Authenticator, reviewer: Reviewer) -> None:
        self.authenticator, self.reviewer = authenticator, reviewer
        self.sessions = authenticator.credentials.sessions

    def check_encrypted(self, request_info: RequestInfo) -> None:
        """Raise `AccessDenied` where the network could read the credentials."""
        plain_http = self.authenticator.settings.allow_plain_http
        if not (request_info.is_secure or request_info.is_local or plain_http):
            raise AccessDenied(
                "This page was loaded over http, so the network can read your token and your"
                " session. Use https: a proxy in front, or server.tls. To allow sign-in over http,"
                " set auth.allow_plain_http."
            )

    async def exchange_token(self, request_info: RequestInfo, token: str) -> str:
        """Start a session for a typed token; return the secret of its cookie.

        Raises `AuthError`.
        """
        authenticator, token = self.authenticator, token.strip()[:LONGEST_TOKEN]
        self.check_encrypted(request_info)
        authenticator.check_attempts(request_info)
        context = await authenticator.verify_token(token) if token else None
        if context is None:
            authenticator.record_failure(request_info, token, "the token was wrong")
            raise Unauthenticated(UNKNOWN_CREDENTIALS)
        if context.identity.role < Role.VIEWER:
            raise AccessDenied("This token can only push signals. Sign in with another one.")
        return await self.start_session(
            request_info,
            context.identity,
            access_token_mark=context.access_token_mark,
            refresher=context.refresher,
        )

    async def resolve(self, user: User | None) -> Identity | None:
        """Return the identity of a user that a provider authenticated; None without a role."""
        return await self.authenticator.resolver.resolve(user)

    async def start_session(
        self,
        request_info: RequestInfo,
        identity: Identity,
        *,
        access_token_mark: str = "",
        refresher: UserRefresher | None = None,
    ) -> str:
        """Start a session for an authenticated user; return the secret of its cookie.

        The session that the browser had before ends, so that no attacker can plant one (session
        fixation).
        """
        authenticator = self.authenticator
        authenticator.attempts.reset(rate_key(request_info.address))
        secret = request_info.session_cookie(allow_plain=authenticator.settings.allow_plain_http)
        if (previous := self.sessions.find(secret)) is not None:
            await self.sessions.end(previous)
        session, secret = await self.sessions.create(
            identity,
            address=request_info.address,
            agent=request_info.header("user-agent"),
            access_token_mark=access_token_mark,
            refresher=refresher,
        )
        authenticator.audit.record(
            "signed_in",
            user=identity.name,
            address=request_info.address,
            role=identity.role.name.lower(),
            how=authenticator.mode,
            session=session.id,
        )
        return secret

    async def sign_out(self, session: Session, address: str) -> None:
        """End the session of a browser, and close its live pages."""
        name = session.record.user.name
        await self.end_session(session)
        self.authenticator.audit.record(
            "signed_out", user=name, address=address, session=session.id
        )

    async def end_session(self, session: Session) -> None:
        """End a session, and close its live pages at once."""
        await self.sessions.end(session)
        self.reviewer.check_connections()

    async def receive_sessions(self) -> None:
        """Read the sessions that other replicas have just started."""
        await self.authenticator.credentials.receive()

    async def revoke_token(self, token_id: str) -> bool:
        """Revoke an API token with the sessions that it started; return whether it existed."""
        existed = await self.authenticator.credentials.remove_token(token_id)
        await self.reviewer.review()
        return existed
