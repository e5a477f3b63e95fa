"""OpenID Connect: authorisation code with PKCE, refresh, and back-channel logout.

Authlib speaks the protocol and joserfc checks the signatures; here is what happens in between. See
https://openid.net/specs/openid-connect-core-1_0.html and
https://openid.net/specs/openid-connect-backchannel-1_0.html.
"""

import asyncio
import hmac
import time
import warnings
from collections import OrderedDict
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

from almenara.config import OidcSettings
from almenara.security.bounded_http import BoundedTransport
from almenara.security.config_check import provider_context
from almenara.security.identity import Identity, Person
from almenara.security.request import Refused, RequestInfo
from almenara.security.secret_hash import digest, generated
from almenara.security.sessions import Session, Sessions
from almenara.security.trusted_proxies import counted_as
from almenara.signals import now

with warnings.catch_warnings():
    # It would rather have httpx2, and says so on standard error at every start. Everything else
    # here asks with httpx, which it still takes.
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from authlib.integrations.httpx_client import AsyncOAuth2Client

log = structlog.get_logger(__name__)

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
                     "ES256", "ES384", "ES512", "EdDSA", "Ed25519")  # fmt: skip
"""Signatures with a public key; `none`, and those of a shared secret, are not among them."""
PENDING: Final = 2_000
PENDING_OF_ADDRESS: Final = 100
"""Sign-ins that one address may have begun, so that nobody pushes out those of others."""
PATIENCE: Final = 600.0
"""Seconds somebody may take to sign in with the provider."""
DISCOVERED_FOR: Final = 3600.0
KEYS_AT_MOST_EVERY: Final = 10.0
LEEWAY: Final = 60
WHOLE_ANSWER: Final = 10.0
"""Seconds that an answer of the provider may take, from the question to its last byte."""
TIMEOUT: Final = httpx.Timeout(WHOLE_ANSWER, connect=5.0)
LOGOUT_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
SECOND: Final = 1_000_000
TROUBLE: Final = (
    httpx.HTTPError, httpx.InvalidURL, AuthlibBaseError, joserfc.errors.JoseError,
    msgspec.MsgspecError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip
"""What comes of a provider that is away or answers nonsense: the libraries that read its answers
take much on trust, such as that JSON is an object."""


class SessionIssuer(Protocol):
    """Who makes sessions of those that the provider knows."""

    sessions: Sessions

    async def identity(self, person: Person | None) -> Identity | None: ...

    async def begin(
        self, asking: RequestInfo, identity: Identity, *, access: str = "", renewal: Any = None
    ) -> str: ...

    async def end(self, session: Session) -> None: ...


class Metadata(msgspec.Struct, kw_only=True):
    """What a provider says of itself, as far as it matters here."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""

    def check(self, issuer: str) -> None:
        """Raise `ValueError` where it is of another issuer, or names what is no address."""
        if self.issuer.rstrip("/") != issuer:
            raise ValueError(f"it calls itself {self.issuer!r} and not {issuer!r}")
        wanted = ("https",) if urlsplit(issuer).scheme == "https" else ("http", "https")
        for it in (self.authorization_endpoint, self.token_endpoint, self.jwks_uri,
                   self.userinfo_endpoint, self.end_session_endpoint):  # fmt: skip
            if it and (urlsplit(it).scheme not in wanted or not urlsplit(it).hostname):
                raise ValueError(
                    f"it names {it[:200]!r}, which is no {' or '.join(wanted)} address"
                )


class PendingLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in whose browser is at the provider."""

    since: float
    address: str
    nonce: str
    verifier: str
    tie: str
    """The digest of what the browser has to bring back in a cookie."""
    callback: str
    back: str


class Provider:
    """The provider that people sign in with. Close it with `close`."""

    def __init__(self, settings: OidcSettings, access: SessionIssuer) -> None:
        self.settings, self.access = settings, access
        self.name = urlsplit(settings.issuer).netloc
        self._context = provider_context(settings)
        self._http = httpx.AsyncClient(
            transport=BoundedTransport(self._context, WHOLE_ANSWER), timeout=TIMEOUT,
            trust_env=False,
        )  # fmt: skip
        self._found: Metadata | None = None
        self._found_at = 0.0
        self._keys: KeySet | None = None
        self._keys_at = 0.0
        self._turn = asyncio.Lock()
        self._pending: OrderedDict[str, PendingLogin] = OrderedDict()
        self._used: OrderedDict[str, None] = OrderedDict()

    async def close(self) -> None:
        """Give up the connections."""
        await self._http.aclose()

    # -- what the provider says of itself

    async def _metadata(self) -> Metadata:
        async with self._turn:
            if self._found is not None and time.monotonic() - self._found_at < DISCOVERED_FOR:
                return self._found
            issuer = self.settings.issuer.rstrip("/")
            response = await self._http.get(f"{issuer}/.well-known/openid-configuration")
            response.raise_for_status()
            found = msgspec.json.decode(response.content, type=Metadata)
            found.check(issuer)
            self._found, self._found_at = found, time.monotonic()
            return self._found

    async def _key_set(self, *, anew: bool = False) -> KeySet:
        metadata = await self._metadata()
        async with self._turn:
            stale = time.monotonic() - self._keys_at > KEYS_AT_MOST_EVERY
            if self._keys is None or (anew and stale):
                response = await self._http.get(metadata.jwks_uri)
                response.raise_for_status()
                self._keys = KeySet.import_key_set(response.json())
                self._keys_at = time.monotonic()
            return self._keys

    async def _claims(self, token: str, **wanted: Any) -> dict[str, Any]:
        """The claims of a token of the provider's for us. Raises one of `TROUBLE`."""
        try:
            read = jwt.decode(token, await self._key_set(), algorithms=list(ALGORITHMS))
        except (joserfc.errors.JoseError, ValueError):
            # The provider may have changed its keys since we read them.
            read = jwt.decode(token, await self._key_set(anew=True), algorithms=list(ALGORITHMS))
        issuer = (await self._metadata()).issuer
        registry = jwt.JWTClaimsRegistry(
            leeway=LEEWAY,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": self.settings.client_id},
            iat={"essential": True},
            **wanted,
        )
        registry.validate(read.claims)
        return dict(read.claims)

    def _client(self, callback: str = "") -> AsyncOAuth2Client:
        secret = self.settings.client_secret
        return AsyncOAuth2Client(
            client_id=self.settings.client_id,
            client_secret=secret.reveal() if secret is not None else None,
            token_endpoint_auth_method="client_secret_basic" if secret is not None else "none",
            # With a refresh token, asking for nothing asks for what was given before.
            scope=" ".join(self.settings.scopes) if callback else None,
            redirect_uri=callback or None,
            code_challenge_method="S256",
            transport=BoundedTransport(self._context, WHOLE_ANSWER),
            timeout=TIMEOUT,
            trust_env=False,
        )

    # -- there and back

    async def begin(self, address: str, callback: str, back: str) -> tuple[str, str]:
        """Where to send a browser at an address, and the secret that ties its coming back to it.

        Raises `Refused`.
        """
        state, nonce, verifier, tie = (generated() for _ in range(4))
        try:
            metadata = await self._metadata()
            async with self._client(callback) as client:
                away, _ = client.create_authorization_url(
                    metadata.authorization_endpoint,
                    state=state,
                    nonce=nonce,
                    code_verifier=verifier,
                )
        except TROUBLE as error:
            raise self._away(error) from None
        self._pending[state] = PendingLogin(
            since=time.monotonic(), address=counted_as(address), nonce=nonce, verifier=verifier,
            tie=digest(tie), callback=callback, back=back,
        )  # fmt: skip
        self._forget_some(counted_as(address))
        return str(away), tie

    def _forget_some(self, address: str) -> None:
        of_address = [state for state, it in self._pending.items() if it.address == address]
        for state in of_address[:-PENDING_OF_ADDRESS]:
            del self._pending[state]
        while len(self._pending) > PENDING:
            self._pending.popitem(last=False)

    def _away(self, error: BaseException) -> Refused:
        log.warning("the provider does not work", provider=self.name, reason=str(error)[:300])
        return Refused(503, f"{self.name} cannot sign anybody in at the moment; the log says why.")

    async def finish(
        self, asking: RequestInfo, came: Mapping[str, str], tie: str
    ) -> tuple[str, str]:
        """The secret of the new session, and the page to go on with. Raises `Refused`."""
        pending = self._pending.pop(came.get("state", ""), None)
        if pending is None or time.monotonic() - pending.since > PATIENCE:
            raise Refused(400, "That took too long, or began in another way. Sign in again.")
        if not tie or not hmac.compare_digest(digest(tie), pending.tie):
            raise Refused(400, "Signing in began in another browser. Sign in again.")
        if "error" in came or not came.get("code"):
            log.info("the provider refused", provider=self.name, error=came.get("error", "")[:100])
            raise Refused(403, f"{self.name} did not let you in.")
        try:
            issuer = (await self._metadata()).issuer
            if came.get("iss", issuer) != issuer:
                raise ValueError("the answer comes from another issuer")
            async with self._client(pending.callback) as client:
                token = await client.fetch_token(
                    (await self._metadata()).token_endpoint,
                    grant_type="authorization_code",
                    code=came["code"],
                    code_verifier=pending.verifier,
                )
            claims = await self._id_token(token, pending.nonce)
            person = await self._person(claims, token)
            renewal = Refreshing(self, claims, token)
        except TROUBLE as error:
            raise self._away(error) from None
        identity = await self.access.identity(person)
        if identity is None:
            raise Refused(403, f"{person.name} has no role here; an admin can give one.")
        return await self.access.begin(asking, identity, renewal=renewal), pending.back

    async def _id_token(self, token: Mapping[str, Any], nonce: str | None) -> dict[str, Any]:
        wanted: dict[str, Any] = {"exp": {"essential": True}, "sub": {"essential": True}}
        if nonce is not None:
            wanted["nonce"] = {"essential": True, "value": nonce}
        claims = await self._claims(str(token["id_token"]), **wanted)
        audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if claims.get("azp", self.settings.client_id) != self.settings.client_id or (
            len(audiences) > 1 and "azp" not in claims
        ):
            raise ValueError("the id token is for another client")
        return claims

    async def _person(self, claims: Mapping[str, Any], token: Mapping[str, Any]) -> Person:
        known = dict(claims)
        endpoint = (await self._metadata()).userinfo_endpoint
        if self.settings.groups_claim not in known and endpoint and token.get("access_token"):
            # Some providers keep the id token short and tell the rest here.
            response = await self._http.get(
                endpoint, headers={"authorization": f"Bearer {token['access_token']}"}
            )
            response.raise_for_status()
            told = response.json()
            if told.get("sub") != claims["sub"]:
                raise ValueError("the provider tells of somebody else")
            known = {**told, **known}
        groups = known.get(self.settings.groups_claim) or ()
        groups = [groups] if isinstance(groups, str) else groups
        return Person(
            name=self._named(known)[:200],
            subject=f"oidc:{claims['sub']}",
            groups=tuple(sorted(str(it) for it in groups)),
        )

    def _named(self, claims: Mapping[str, Any]) -> str:
        wanted = self.settings.name_claim
        for claim in (wanted, "email"):
            # Anybody can give the address of somebody else as theirs until it is verified.
            if claim == "email" and claims.get("email_verified", claim == wanted) is not True:
                continue
            if claims.get(claim):
                return str(claims[claim])
        return str(claims["sub"])

    async def refreshed(self, refresh_token: str) -> dict[str, Any] | None:
        """What the provider gives for a refresh token; None where it gives nothing any more."""
        metadata = await self._metadata()
        async with self._client() as client:
            try:
                return dict(
                    await client.refresh_token(metadata.token_endpoint, refresh_token=refresh_token)
                )
            except AuthlibBaseError as error:
                if error.error in ("invalid_grant", "invalid_token", "access_denied"):
                    return None
                raise

    # -- away

    def leaving(self, session: Session) -> str:
        """Where the provider signs people out; empty where it does not."""
        endpoint = self._found.end_session_endpoint if self._found is not None else ""
        renewal = session.renewal
        if not endpoint or not isinstance(renewal, Refreshing):
            return ""
        told = {"client_id": self.settings.client_id, "id_token_hint": renewal.id_token}
        return f"{endpoint}?{urlencode(told)}"

    async def signed_out_elsewhere(self, token: str) -> bool:
        """End the sessions that a logout token names; whether it was a good one."""
        try:
            claims = await self._claims(token, jti={"essential": True})
            events = claims.get("events")
            named = claims.get("sid") or claims.get("sub")
            wrong = (
                "nonce" in claims
                or not isinstance(events, dict)
                or LOGOUT_EVENT not in events
                or not named
                or now() / SECOND - float(claims["iat"]) > PATIENCE
            )
            if wrong:
                raise ValueError("it is no logout token")
        except TROUBLE as error:
            log.warning("a logout token was refused", provider=self.name, reason=str(error)[:200])
            return False
        if (told := str(claims["jti"])) in self._used:
            return False
        self._used[told] = None
        while len(self._used) > PENDING:
            self._used.popitem(last=False)
        for session in self.access.sessions:
            renewal = session.renewal
            if not isinstance(renewal, Refreshing):
                continue
            of_session = claims.get("sid") is not None and claims["sid"] == renewal.sid
            of_person = claims.get("sid") is None and claims.get("sub") == renewal.sub
            if of_session or of_person:
                await self.access.end(session)
        return True


class Refreshing:
    """Asks the provider again who somebody is, with the refresh token, which is only in memory."""

    def __init__(
        self, provider: Provider, claims: Mapping[str, Any], token: Mapping[str, Any]
    ) -> None:
        self.provider = provider
        self.every = provider.settings.refresh_interval
        self.sub, self.sid = str(claims["sub"]), claims.get("sid")
        self.id_token = str(token["id_token"])
        self._refresh_token = token.get("refresh_token")
        self._until = float(claims["exp"])
        self._last = claims
        self._token = token

    async def person(self) -> Person | None:
        """Who it is now; None where the provider says that it is over."""
        if not self._refresh_token:
            if now() / SECOND > self._until:
                return None
            return await self.provider._person(self._last, {})
        token = await self.provider.refreshed(str(self._refresh_token))
        if token is None:
            return None
        self._refresh_token = token.get("refresh_token", self._refresh_token)
        if token.get("id_token"):
            claims = await self.provider._id_token(token, None)
            if claims["sub"] != self.sub:
                return None
            self.id_token, self._last = str(token["id_token"]), claims
        return await self.provider._person(self._last, token)
