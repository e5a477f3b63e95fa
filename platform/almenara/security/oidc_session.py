"""Sessions of an OpenID Connect provider: what refreshes them, and how replicas share that."""

import hmac
from collections.abc import Mapping
from typing import Any, Final, Protocol

import joserfc.errors
import msgspec
from joserfc import jwe
from joserfc.jwk import OctKey

from almenara.config import OidcSettings
from almenara.security.identity import User
from almenara.signals import now
from almenara.units import SECOND

ENCRYPTION: Final = {"alg": "dir", "enc": "A256GCM"}


class SealedSession(msgspec.Struct, frozen=True):
    """What another replica needs to refresh a session at the provider."""

    claims: dict[str, Any]
    id_token: str
    refresh_token: str | None


class Provider(Protocol):
    """What refreshes the users of sessions."""

    settings: OidcSettings

    async def shared_secret(self) -> str | None:
        """Return the secret that replicas share; None where they share no sessions."""

    async def fetch_user(self, claims: Mapping[str, Any], token: Mapping[str, Any]) -> User: ...

    async def refresh(self, refresh_token: str) -> dict[str, Any] | None: ...

    async def decode_id_token(
        self, token: Mapping[str, Any], nonce: str | None
    ) -> dict[str, Any]: ...


class OidcRefresher:
    """The `UserRefresher` of an OpenID Connect session."""

    def __init__(
        self, provider: Provider, claims: Mapping[str, Any], token: Mapping[str, Any]
    ) -> None:
        """Raises `LookupError` and `ValueError` for a response without what it needs."""
        self.provider = provider
        self.interval = provider.settings.refresh_interval
        self.sub, self.sid = str(claims["sub"]), claims.get("sid")
        self.id_token = str(token["id_token"])
        self._refresh_token = token.get("refresh_token")
        self._expires = float(claims["exp"])
        self._claims = claims
        self._response: Mapping[str, Any] = {}
        """The token response of the last renewal, until the user is fetched with it."""
        self._sealed: tuple[SealedSession | None, str] = None, ""

    def is_named_by(self, claims: Mapping[str, Any]) -> bool:
        """Return whether a logout token names this session, or all sessions of its user."""
        sid = claims.get("sid")
        if sid is None:
            return bool(claims.get("sub") == self.sub)
        return bool(sid == self.sid)

    async def renew(self) -> bool:
        """Refresh the tokens; return False where the provider ended the session.

        Raises one of `oidc.PROVIDER_ERRORS`.
        """
        if not self._refresh_token:
            return now() / SECOND <= self._expires
        response = await self.provider.refresh(str(self._refresh_token))
        if response is None:
            return False
        self._refresh_token = response.get("refresh_token", self._refresh_token)
        self._response = response
        return True

    async def fetch_user(self) -> User | None:
        """Return the user as it is now, after `renew`; None where it is another one.

        Raises one of `oidc.PROVIDER_ERRORS`.
        """
        token, self._response = self._response, {}
        if token.get("id_token"):
            claims = await self.provider.decode_id_token(token, None)
            if claims["sub"] != self.sub:
                return None
            self.id_token, self._claims = str(token["id_token"]), claims
        return await self.provider.fetch_user(self._claims, token)

    async def seal(self) -> str:
        """Return what another replica continues with; the same text until it changes."""
        secret = await self.provider.shared_secret()
        if secret is None:
            return ""
        session = SealedSession(dict(self._claims), self.id_token, self._refresh_token)
        if session != self._sealed[0]:
            content = msgspec.json.encode(session)
            self._sealed = session, jwe.encrypt_compact(ENCRYPTION, content, _make_key(secret))
        return self._sealed[1]


def unseal(provider: Provider, secret: str, sealed: str) -> OidcRefresher | None:
    """Return the refresher of a session that another replica has sealed; None where this is not
    possible."""
    try:
        content = jwe.decrypt_compact(sealed, _make_key(secret)).plaintext
        session = msgspec.json.decode(content or b"", type=SealedSession)
        token = {"id_token": session.id_token, "refresh_token": session.refresh_token}
        refresher = OidcRefresher(provider, session.claims, token)
    except (joserfc.errors.JoseError, LookupError, TypeError, ValueError):
        return None
    refresher._sealed = session, sealed
    return refresher


def _make_key(secret: str) -> OctKey:
    key = hmac.digest(secret.encode(), b"almenara\0sessions of a provider\0", "sha256")
    return OctKey.import_key(key)
