"""Authentication of requests: bearer tokens, session cookies and headers of a trusted proxy."""

from typing import Final

import structlog

from almenara.config import Settings
from almenara.security.access_token import HOLDER
from almenara.security.audit import Audit
from almenara.security.auth_context import AuthContext
from almenara.security.credentials import Credentials
from almenara.security.errors import (
    AccessDenied,
    AuthError,
    AuthUnavailable,
    TooManyAttempts,
    Unauthenticated,
)
from almenara.security.identity import Role, anonymous_identity
from almenara.security.modes import Mode
from almenara.security.proxy_headers import ProxyHeaders
from almenara.security.rate_limit import FailureLimiter, RefusedSecrets
from almenara.security.request import RequestInfo
from almenara.security.resolver import IdentityResolver, TokenRefresher
from almenara.security.secret_hash import digest
from almenara.security.sessions import Session
from almenara.security.tokens import identity_of, parse_token
from almenara.security.trusted_proxies import TrustedProxies, rate_key

log = structlog.get_logger(__name__)

LONGEST_TOKEN: Final = 8192
UNKNOWN_CREDENTIALS: Final = "The token is unknown, expired or revoked."
RETRY_AFTER: Final = 1.0
"""Seconds after which a replica that has just started has the tokens of the others."""
OUTAGE_RETRY_AFTER: Final = 5.0
"""Seconds within which servers usually have elected a leader."""
ARRIVAL: Final = 5.0
"""Seconds within which what a command has stored beside one replica is known to all."""


class Authenticator:
    """Identifies the caller of every request and WebSocket, before anything is routed."""

    def __init__(
        self,
        settings: Settings,
        mode: Mode,
        credentials: Credentials,
        resolver: IdentityResolver,
        audit: Audit,
    ) -> None:
        self.settings, self.mode = settings.auth, mode
        self.credentials, self.resolver, self.audit = credentials, resolver, audit
        self.attempts = FailureLimiter(settings.auth.max_sign_in_attempts)
        self._refused = RefusedSecrets(ARRIVAL)
        self.proxies = TrustedProxies(settings.server.trusted_proxies)
        tls = settings.server.tls
        self._proxy_headers = ProxyHeaders(
            settings.auth.proxy, has_client_ca=tls is not None and tls.client_ca is not None
        )

    async def authenticate(self, request_info: RequestInfo) -> AuthContext | None:
        """Return the identity of a request; None where it carries no credentials.

        Raises `AuthError`.
        """
        if request_info.headers.get("authorization"):
            return await self._authenticate_header(request_info)
        match self.mode:
            case "none":
                return AuthContext(identity=anonymous_identity(Role.ADMIN))
            case "insecure-none":
                return AuthContext(identity=anonymous_identity(Role.VIEWER))
            case "proxy":
                return await self._authenticate_proxy(request_info)
        session = await self._find_session(request_info)
        if session is None or session.identity is None:
            return None
        return AuthContext(identity=session.identity, session=session)

    async def _find_session(self, request_info: RequestInfo) -> Session | None:
        """Return the session of a browser. Raises `AuthUnavailable`."""
        secret = request_info.session_cookie(allow_plain=self.settings.allow_plain_http)
        credentials, sessions = self.credentials, self.credentials.sessions
        if not secret:
            return None
        session = sessions.find(secret)
        if session is not None or credentials.catch_up is None:
            return session
        # Another replica may have started it a moment ago.
        is_current = await credentials.catch_up() and credentials.is_complete()
        session = sessions.find(secret)
        is_unknown = session is None and not sessions.is_known(secret)
        if is_unknown and not is_current and not self.resolver.depends_on_cluster:
            # A browser that is sent to the sign-in page stays there after the outage.
            raise AuthUnavailable(
                "This replica does not know your session, and cannot receive the sessions of the"
                " others at the moment. Retry in some seconds, or sign in again.",
                OUTAGE_RETRY_AFTER,
            )
        return session

    async def _authenticate_header(self, request_info: RequestInfo) -> AuthContext:
        token = request_info.bearer_token
        if not token and (password := request_info.basic_password):
            return await self._authenticate_sender(request_info, password)
        if not token or len(token) > LONGEST_TOKEN:
            raise Unauthenticated("The Authorization header must be `Bearer` and one token.")
        return await self._authenticate_token(request_info, token)

    async def _authenticate_sender(self, request_info: RequestInfo, password: str) -> AuthContext:
        """Authenticate a sender that can only be configured with an address: the token of an intake
        is the password in it. No other token is: browsers would send it along with requests that
        other pages cause."""
        if parse_token(password) is None or len(password) > LONGEST_TOKEN:
            raise Unauthenticated("The password must be the token of an intake.")
        context = await self._authenticate_token(request_info, password)
        if not context.identity.intake:
            raise Unauthenticated("The password must be the token of an intake.")
        return context

    async def _authenticate_token(self, request_info: RequestInfo, token: str) -> AuthContext:
        # A token that was valid before does not wait because of wrong ones from its address.
        if self.credentials.is_verified(token):
            context = await self._find_token(token)
            if context is not None:
                return context
        self.check_attempts(request_info)
        context = await self.verify_token(token)
        if context is None:
            self.record_failure(request_info, token, "a token was wrong")
            raise Unauthenticated(UNKNOWN_CREDENTIALS)
        return context

    async def verify_token(self, token: str) -> AuthContext | None:
        """Return the identity of a token of any kind; None where it is invalid.

        Raises `AuthUnavailable`.
        """
        credentials = self.credentials
        known = credentials.revision
        if (context := await self._find_token(token)) is not None:
            return context
        # A command, or another replica, may have created it a moment ago.
        is_current = await credentials.receive()
        may_have_arrived = is_current and credentials.catch_up is not None
        if may_have_arrived or credentials.revision != known:
            context = await self._find_token(token)
        if context is None and not credentials.is_comparable(token):
            # A sender would take a refusal for final, and drop what it sends. Nothing was compared,
            # so that nothing can be guessed with such requests, and they count as no failed
            # sign-in. An address that has to wait for others still waits, and everything that was
            # compared with a secret counts: an outage gives no further guesses.
            if not credentials.is_complete():
                raise AuthUnavailable(
                    "This replica has not received the tokens of the others yet. Retry in a"
                    " moment.",
                    RETRY_AFTER,
                )
            if not is_current:
                raise AuthUnavailable(
                    "This replica does not know the token, and cannot receive the tokens of the"
                    " others at the moment. Retry in some seconds.",
                    OUTAGE_RETRY_AFTER,
                )
        return context

    async def _find_token(self, token: str) -> AuthContext | None:
        credentials = self.credentials
        if parsed := parse_token(token):
            api_token = await credentials.verify_api_token(*parsed)
            if api_token is None:
                return None
            return AuthContext(
                identity=identity_of(api_token), api_token_id=api_token.id, from_header=True
            )
        if self.mode == "token" and await credentials.access_token.verify(token):
            return AuthContext(
                identity=HOLDER,
                access_token_mark=credentials.access_token.mark,
                from_header=True,
            )
        if self.mode == "kubernetes":
            identity = await self.resolver.resolve(await self.resolver.review_token(token))
            if identity is not None:
                refresher = TokenRefresher(self.resolver, token)
                return AuthContext(identity=identity, refresher=refresher, from_header=True)
        return None

    async def _authenticate_proxy(self, request_info: RequestInfo) -> AuthContext | None:
        try:
            user = self._proxy_headers.read_user(
                request_info, is_trusted=request_info.peer in self.proxies
            )
        except AuthError as error:
            self.audit.record_refusal(
                "identity_refused",
                user=request_info.header(self._proxy_headers.user_header),
                address=request_info.address,
                reason=error.detail,
            )
            raise
        if user is None:
            return None
        identity = await self.resolver.resolve(user)
        if identity is None:
            raise AccessDenied(f"{user.name} has no role: no entry of auth.roles matches.")
        return AuthContext(identity=identity)

    def check_attempts(self, request_info: RequestInfo) -> None:
        """Raise `TooManyAttempts` where the address has to wait after wrong secrets."""
        wait = self.attempts.remaining_wait(rate_key(request_info.address))
        if wait > 0:
            raise TooManyAttempts(f"Too many failed sign-ins. Retry in {wait:.0f} s.", wait)

    def record_failure(self, request_info: RequestInfo, secret: str, reason: str) -> None:
        """Count a wrong secret of the address, and record it in the access log.

        With several replicas, the same secret counts once within a few seconds: it may be a token
        that a command has just created beside another replica. Who guesses sends other secrets.
        """
        address = request_info.address
        key = rate_key(address)
        has_replicas = self.credentials.catch_up is not None
        if has_replicas and self._refused.is_repeat(digest(f"{key} {secret}")):
            return
        count = self.attempts.record_failure(key)
        self.audit.record_refusal("sign_in_refused", user="", address=address, reason=reason)
        if count == self.attempts.free:
            self._report_lockout(request_info)

    def _report_lockout(self, request_info: RequestInfo) -> None:
        """Report an address that has to wait from now on; behind a proxy that is not trusted, it is
        the address of all clients."""
        address = request_info.address
        reason = f"{self.attempts.free} wrong tokens; each further one makes the address wait"
        if request_info.peer == address and request_info.headers.get("x-forwarded-for"):
            reason += (
                ". The address is that of a proxy, so all of its clients have to wait: add it to"
                " server.trusted_proxies to count them separately"
            )
        log.warning("sign-in of an address is slowed down", address=address, reason=reason)
        self.audit.record_refusal("sign_in_locked", user="", address=address, reason=reason)
