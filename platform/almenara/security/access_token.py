"""The access token: one secret for admins, from `auth.token` or `almenara access rotate`."""

import asyncio
import hmac
from typing import Final

from almenara.config import Secret
from almenara.scope import FULL_SCOPE
from almenara.security.identity import Identity, Role, User
from almenara.security.secret_hash import SecretVerifier, digest

HOLDER: Final = Identity(
    user=User(name="access token", subject="token", is_shared=True),
    role=Role.ADMIN,
    scope=FULL_SCOPE,
)
"""The identity of whoever has the access token."""


class AccessToken:
    """Verifies the access token, and tells sessions of an earlier one apart by `mark`."""

    def __init__(self, configured: Secret | None, verifier: SecretVerifier) -> None:
        self._configured = configured
        """From `auth.token`; where it is None, the hash of the file counts."""
        self._verifier = verifier
        self._hash = ""
        self._verified = ""
        """The digest of the token that was verified last; it saves the slow hash per request."""
        self.mark = ""
        """A digest that changes whenever the access token does."""

    @property
    def exists(self) -> bool:
        """Whether there is an access token to sign in with."""
        return bool(self._configured is not None or self._hash)

    def set_hash(self, access_hash: str) -> None:
        """Replace the hash by that of the file."""
        if access_hash != self._hash:
            self._hash, self._verified = access_hash, ""
            if self._configured is None:
                self.mark = digest(access_hash)

    async def refresh_mark(self) -> None:
        """Read `auth.token` again, which may be a file that was replaced."""
        self.mark = await asyncio.to_thread(self._read_mark)

    def _read_mark(self) -> str:
        return digest(self._hash if self._configured is None else self._configured.reveal())

    def is_verified(self, token: str) -> bool:
        """Return whether this token was the last to be verified."""
        return bool(self._verified) and hmac.compare_digest(self._verified, digest(token))

    async def verify(self, token: str) -> bool:
        """Return whether it is the access token. Raises `AuthUnavailable`."""
        if self._configured is not None:
            expected = await asyncio.to_thread(self._configured.reveal)
            is_valid = hmac.compare_digest(expected.encode(), token.encode("utf-8", "replace"))
        elif self._hash:
            is_valid = self.is_verified(token) or await self._verifier.verify(token, self._hash)
        else:
            is_valid = False
        if is_valid:
            self._verified = digest(token)
        return is_valid
