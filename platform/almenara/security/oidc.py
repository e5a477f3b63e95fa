"""OpenID Connect: authorization code with PKCE, refresh tokens, and back-channel logout.

Authlib implements OAuth 2.0 and joserfc verifies signatures; this module keeps the state between
the requests. See https://openid.net/specs/openid-connect-core-1_0.html and
https://openid.net/specs/openid-connect-backchannel-1_0.html.
"""

import asyncio
import time
import warnings
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

import httpx
import joserfc.errors
import msgspec
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.deprecate import AuthlibDeprecationWarning
from joserfc import jwt
from joserfc.jwk import KeySet

from almenara.config import OidcSettings, Secret
from almenara.errors import describe_error
from almenara.sdk.http import Resolver
from almenara.security.auth_context import LoginStart, UserRefresher
from almenara.security.bounded_http import BoundedTransport
from almenara.security.config_check import provider_context
from almenara.security.errors import AccessDenied, AuthUnavailable, InvalidRequest
from almenara.security.identity import Identity, User
from almenara.security.logout_tokens import UsedLogoutTokens
from almenara.security.oidc_login import LOGIN_TIMEOUT, derive_secret, read_cookie, write_cookie
from almenara.security.oidc_session import OidcRefresher, unseal
from almenara.security.request import RequestInfo
from almenara.security.secret_hash import generate_secret
from almenara.security.sessions import Session, Sessions
from almenara.security.store import SessionRecord
from almenara.signals import now
from almenara.state_store import StateStore
from almenara.units import SECOND

with warnings.catch_warnings():
    # Authlib prefers httpx2 and warns on standard error at every start. It still supports httpx,
    # which the rest of Almenara uses.
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from authlib.integrations.httpx_client import AsyncOAuth2Client

log = structlog.get_logger(__name__)

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
                     "ES256", "ES384", "ES512", "EdDSA", "Ed25519")  # fmt: skip
"""Public-key signatures only: neither `none` nor HMAC with the client secret."""
METADATA_LIFETIME: Final = 3600.0
MIN_KEY_REFRESH: Final = 10.0
"""Seconds between two downloads of the keys, whatever tokens are sent."""
LEEWAY: Final = 60
"""Seconds of clock difference that are tolerated."""
RESPONSE_TIMEOUT: Final = 10.0
"""Seconds from the request to the last byte of the response."""
TIMEOUT: Final = httpx.Timeout(RESPONSE_TIMEOUT, connect=5.0)
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
WITHDRAWN: Final = ("invalid_grant", "invalid_token", "access_denied")
"""OAuth errors with which a provider refuses a refresh token for good."""
PROVIDER_ERRORS: Final = (
    httpx.HTTPError, httpx.InvalidURL, AuthlibBaseError, joserfc.errors.JoseError,
    msgspec.MsgspecError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip
"""What an unreachable provider or a malformed response raises: the libraries assume valid
responses, such as that JSON is an object."""


class SessionIssuer(Protocol):
    """Starts and ends the sessions of users that the provider authenticated."""

    sessions: Sessions

    async def resolve(self, user: User | None) -> Identity | None: ...

    async def start_session(
        self,
        request_info: RequestInfo,
        identity: Identity,
        *,
        access_token_mark: str = "",
        refresher: UserRefresher | None = None,
    ) -> str: ...

    async def end_session(self, session: Session) -> None: ...

    async def receive_sessions(self) -> None:
        """Read the sessions that other replicas have just started."""


class ProviderMetadata(msgspec.Struct, kw_only=True):
    """The part of the discovery document that is used, see OpenID Connect Discovery 1.0."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""

    def check(self, issuer: str) -> None:
        """Raise `ValueError` for another issuer, and for endpoints that are not http(s) URLs."""
        if self.issuer.rstrip("/") != issuer:
            raise ValueError(f"the discovery document is of {self.issuer!r}, not of {issuer!r}")
        schemes = ("https",) if urlsplit(issuer).scheme == "https" else ("http", "https")
        for endpoint in (
            self.authorization_endpoint,
            self.token_endpoint,
            self.jwks_uri,
            self.userinfo_endpoint,
            self.end_session_endpoint,
        ):
            parts = urlsplit(endpoint)
            if endpoint and (parts.scheme not in schemes or not parts.hostname):
                raise ValueError(
                    f"the discovery document contains {endpoint[:200]!r}, which is not an"
                    f" {' or '.join(schemes)} URL"
                )


class OidcProvider:
    """The OpenID Connect provider that users sign in with. Close it with `close`.

    `secret` is what replicas share: each of them completes logins that another one has started,
    and with `shares_sessions` confirms the sessions of the others. `store` has used logout tokens.
    """

    def __init__(
        self,
        settings: OidcSettings,
        issuer: SessionIssuer,
        secret: Secret | None = None,
        *,
        shares_sessions: bool = False,
        store: StateStore | None = None,
    ) -> None:
        self.settings, self.session_issuer = settings, issuer
        self._secret, self._shares_sessions = secret, shares_sessions
        self._own_secret = generate_secret()
        self.name = urlsplit(settings.issuer).netloc
        self._tls_context = provider_context(settings)
        self._resolver = Resolver()
        self._http = httpx.AsyncClient(
            transport=BoundedTransport(self._tls_context, RESPONSE_TIMEOUT, self._resolver),
            timeout=TIMEOUT,
            trust_env=False,
        )
        self._metadata: ProviderMetadata | None = None
        self._metadata_time = 0.0
        self._keys: KeySet | None = None
        self._keys_time = 0.0
        self._lock = asyncio.Lock()
        self._used_logout_tokens = UsedLogoutTokens(store)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # -- metadata and keys

    async def _get_metadata(self) -> ProviderMetadata:
        async with self._lock:
            age = time.monotonic() - self._metadata_time
            if self._metadata is not None and age < METADATA_LIFETIME:
                return self._metadata
            issuer = self.settings.issuer.rstrip("/")
            response = await self._http.get(f"{issuer}/.well-known/openid-configuration")
            response.raise_for_status()
            metadata = msgspec.json.decode(response.content, type=ProviderMetadata)
            metadata.check(issuer)
            self._metadata, self._metadata_time = metadata, time.monotonic()
            return metadata

    async def _get_keys(self, *, refresh: bool = False) -> KeySet:
        metadata = await self._get_metadata()
        async with self._lock:
            is_stale = time.monotonic() - self._keys_time > MIN_KEY_REFRESH
            if self._keys is None or (refresh and is_stale):
                response = await self._http.get(metadata.jwks_uri)
                response.raise_for_status()
                self._keys = KeySet.import_key_set(response.json())
                self._keys_time = time.monotonic()
            return self._keys

    async def _decode_token(self, text: str, **required: Any) -> dict[str, Any]:
        """Return the claims of a token for this client. Raises one of `PROVIDER_ERRORS`."""
        algorithms = list(ALGORITHMS)
        try:
            token = jwt.decode(text, await self._get_keys(), algorithms=algorithms)
        except (joserfc.errors.JoseError, ValueError):
            # The provider may have rotated its keys since they were downloaded.
            token = jwt.decode(text, await self._get_keys(refresh=True), algorithms=algorithms)
        issuer = (await self._get_metadata()).issuer
        registry = jwt.JWTClaimsRegistry(
            leeway=LEEWAY,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": self.settings.client_id},
            iat={"essential": True},
            **required,
        )
        registry.validate(token.claims)
        return dict(token.claims)

    def _client(self, redirect_uri: str = "") -> AsyncOAuth2Client:
        secret = self.settings.client_secret
        return AsyncOAuth2Client(
            client_id=self.settings.client_id,
            client_secret=secret.reveal() if secret is not None else None,
            token_endpoint_auth_method="client_secret_basic" if secret is not None else "none",
            # A refresh without a scope requests the scope of the first token again.
            scope=" ".join(self.settings.scopes) if redirect_uri else None,
            redirect_uri=redirect_uri or None,
            code_challenge_method="S256",
            transport=BoundedTransport(self._tls_context, RESPONSE_TIMEOUT, self._resolver),
            timeout=TIMEOUT,
            trust_env=False,
        )

    # -- login

    async def start_login(self, redirect_uri: str, next_page: str) -> LoginStart:
        """Start a login. Raises `AuthUnavailable`."""
        state, secret = generate_secret(), await self._login_secret()
        try:
            metadata = await self._get_metadata()
            async with self._client(redirect_uri) as client:
                url, _ = client.create_authorization_url(
                    metadata.authorization_endpoint,
                    state=state,
                    nonce=derive_secret(secret, "nonce", state),
                    code_verifier=derive_secret(secret, "code verifier", state),
                )
        except PROVIDER_ERRORS as error:
            raise self._unavailable(error) from None
        return LoginStart(str(url), state, write_cookie(secret, state, redirect_uri, next_page))

    async def next_page(self, state: str, cookie: str) -> str:
        """Return the page that a pending login continues with; `/` where it is unknown."""
        login = read_cookie(await self._login_secret(), state, cookie)
        return "/" if login is None else login.next_page

    async def _login_secret(self) -> str:
        if self._secret is None:
            return self._own_secret
        return await asyncio.to_thread(self._secret.reveal)

    def _unavailable(self, error: BaseException) -> AuthUnavailable:
        log.warning("the identity provider failed", provider=self.name,
                    reason=describe_error(error, 300))  # fmt: skip
        return AuthUnavailable(
            f"{self.name} cannot sign you in at the moment. The reason is in the log of Almenara."
        )

    async def finish_login(
        self, request_info: RequestInfo, parameters: Mapping[str, str], cookie: str
    ) -> tuple[str, str]:
        """Return the secret of the new session and the page to continue with.

        Raises `AuthError`.
        """
        state, secret = parameters.get("state", ""), await self._login_secret()
        login = read_cookie(secret, state, cookie)
        if login is None:
            raise InvalidRequest(
                "This sign-in expired, or was started in another browser. Sign in again."
            )
        if "error" in parameters or not parameters.get("code"):
            log.info("the identity provider refused a login", provider=self.name,
                     error=parameters.get("error", "")[:100])  # fmt: skip
            raise AccessDenied(f"{self.name} refused the sign-in.")
        try:
            metadata = await self._get_metadata()
            if parameters.get("iss", metadata.issuer) != metadata.issuer:
                raise ValueError("the callback names another issuer")
            async with self._client(login.redirect_uri) as client:
                token = await client.fetch_token(
                    metadata.token_endpoint,
                    grant_type="authorization_code",
                    code=parameters["code"],
                    code_verifier=derive_secret(secret, "code verifier", state),
                )
            nonce = derive_secret(secret, "nonce", state)
            claims = await self.decode_id_token(token, nonce)
            user = await self.fetch_user(claims, token)
            refresher = OidcRefresher(self, claims, token)
        except PROVIDER_ERRORS as error:
            raise self._unavailable(error) from None
        identity = await self.session_issuer.resolve(user)
        if identity is None:
            raise AccessDenied(
                f"{user.name} has no role in Almenara. An administrator can add one to auth.roles."
            )
        secret = await self.session_issuer.start_session(
            request_info, identity, refresher=refresher
        )
        return secret, login.next_page

    async def decode_id_token(self, token: Mapping[str, Any], nonce: str | None) -> dict[str, Any]:
        """Return the claims of the ID token in a token response.

        Raises one of `PROVIDER_ERRORS`.
        """
        required: dict[str, Any] = {"exp": {"essential": True}, "sub": {"essential": True}}
        if nonce is not None:
            required["nonce"] = {"essential": True, "value": nonce}
        claims = await self._decode_token(str(token["id_token"]), **required)
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if claims.get("azp", self.settings.client_id) != self.settings.client_id or (
            len(audiences) > 1 and "azp" not in claims
        ):
            raise ValueError("the ID token was issued to another client")
        return claims

    async def fetch_user(self, claims: Mapping[str, Any], token: Mapping[str, Any]) -> User:
        """Return the user of an ID token, completed from the userinfo endpoint.

        Raises one of `PROVIDER_ERRORS`.
        """
        known = dict(claims)
        endpoint = (await self._get_metadata()).userinfo_endpoint
        if self.settings.groups_claim not in known and endpoint and token.get("access_token"):
            # Some providers keep ID tokens short and return groups only here.
            response = await self._http.get(
                endpoint, headers={"authorization": f"Bearer {token['access_token']}"}
            )
            response.raise_for_status()
            user_info = response.json()
            if user_info.get("sub") != claims["sub"]:
                raise ValueError("the userinfo response is of another user")
            known = {**user_info, **known}
        groups = known.get(self.settings.groups_claim) or ()
        groups = [groups] if isinstance(groups, str) else groups
        return User(
            name=self._display_name(known)[:200],
            subject=f"oidc:{claims['sub']}",
            groups=tuple(sorted(str(group) for group in groups)),
        )

    def _display_name(self, claims: Mapping[str, Any]) -> str:
        configured = self.settings.name_claim
        for claim in (configured, "email"):
            # Users can enter the e-mail address of others until the provider verifies it.
            is_verified = claims.get("email_verified", claim == configured) is True
            if claim == "email" and not is_verified:
                continue
            if claims.get(claim):
                return str(claims[claim])
        return str(claims["sub"])

    async def refresh(self, refresh_token: str) -> dict[str, Any] | None:
        """Return the token response for a refresh token; None where the provider withdrew it.

        Raises one of `PROVIDER_ERRORS`.
        """
        metadata = await self._get_metadata()
        async with self._client() as client:
            try:
                return dict(
                    await client.refresh_token(metadata.token_endpoint, refresh_token=refresh_token)
                )
            except AuthlibBaseError as error:
                if error.error in WITHDRAWN:
                    return None
                raise

    # -- sessions of other replicas

    async def shared_secret(self) -> str | None:
        """Return the secret that replicas share; None where they share no sessions."""
        return await self._login_secret() if self._shares_sessions else None

    async def confirm(self, record: SessionRecord) -> tuple[Identity, OidcRefresher] | None:
        """Return the identity of a stored session, and what refreshes it; None where this replica
        cannot confirm it."""
        secret = await self.shared_secret()
        if secret is None or not record.sealed:
            return None
        refresher = unseal(self, secret, record.sealed)
        identity = await self.session_issuer.resolve(record.user)
        return None if refresher is None or identity is None else (identity, refresher)

    # -- logout

    async def logout_url(self, session: Session) -> str:
        """Return the provider's logout page for a session; empty if it has none."""
        refresher = session.refresher
        if not isinstance(refresher, OidcRefresher):
            return ""
        try:
            endpoint = (await self._get_metadata()).end_session_endpoint
        except PROVIDER_ERRORS:
            endpoint = ""
        if not endpoint:
            return ""
        parameters = {"client_id": self.settings.client_id, "id_token_hint": refresher.id_token}
        return f"{endpoint}?{urlencode(parameters)}"

    async def handle_logout_token(self, token: str) -> bool:
        """End the sessions that a back-channel logout token names; return whether it is valid."""
        try:
            claims = await self._decode_token(token, jti={"essential": True})
            _check_logout_claims(claims)
        except PROVIDER_ERRORS as error:
            log.warning("a logout token was refused", provider=self.name,
                        reason=describe_error(error, 200))  # fmt: skip
            return False
        if not await self._used_logout_tokens.use(self.settings.issuer, str(claims["jti"])):
            log.warning(
                "a logout token was refused", provider=self.name, reason="it was used before"
            )
            return False
        await self.session_issuer.receive_sessions()
        for session in self.session_issuer.sessions:
            refresher = session.refresher
            if isinstance(refresher, OidcRefresher) and refresher.is_named_by(claims):
                await self.session_issuer.end_session(session)
        return True


def _check_logout_claims(claims: Mapping[str, Any]) -> None:
    """Raise `ValueError` for claims that OpenID Connect Back-Channel Logout 1.0, 2.6, refuses."""
    events = claims.get("events")
    if (
        "nonce" in claims
        or not isinstance(events, dict)
        or LOGOUT_EVENT not in events
        or not (claims.get("sid") or claims.get("sub"))
        or now() / SECOND - float(claims["iat"]) > LOGIN_TIMEOUT
    ):
        raise ValueError("it is not a valid logout token")
