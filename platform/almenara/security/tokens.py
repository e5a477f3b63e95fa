"""API tokens for scripts: each has a role, a scope and an expiry."""

import secrets
from collections.abc import Iterator, Sequence
from typing import Final

from almenara.scope import EMPTY_SCOPE, Grant
from almenara.security.identity import Identity, Role, User, scope_for_role
from almenara.security.secret_hash import digest, generate_secret, hash_secret
from almenara.security.store import ApiToken
from almenara.signals import now
from almenara.units import SECOND

PREFIX: Final = "alm"
"""The prefix of every token, so that people and secret scanners recognise a leaked one."""
ID_BYTES: Final = 6


def create_token(
    name: str,
    role: Role,
    grants: Sequence[Grant],
    lifetime: float,
    *,
    created_by: str,
    intake: str = "",
) -> tuple[ApiToken, str]:
    """Return a new token to store and the text that its holder sends; `lifetime` is in seconds.

    With `intake`, the token may push to that intake, and nothing else.
    Takes some milliseconds of processor for the hash: call it in a thread.
    """
    token_id, secret, moment = secrets.token_hex(ID_BYTES), generate_secret(), now()
    token = ApiToken(
        id=token_id,
        name=name,
        hash=hash_secret(secret),
        role=int(Role.INTAKE if intake else role),
        grants=() if intake else tuple(grants) or (Grant(),),
        created=moment,
        expires=moment + int(lifetime * SECOND),
        created_by=created_by,
        intake=intake,
    )
    return token, f"{PREFIX}_{token_id}_{secret}"


def parse_token(text: str) -> tuple[str, str] | None:
    """Return the id and the secret of an API token; None where the text is not one."""
    prefix, _, rest = text.partition("_")
    token_id, _, secret = rest.partition("_")
    return (token_id, secret) if prefix == PREFIX and token_id and secret else None


def identity_of(token: ApiToken) -> Identity:
    """Return the identity that a token stands for."""
    role = Role(token.role)
    user = User(name=token.name, subject=f"api:{token.id}", token_id=token.id, is_shared=True)
    if token.intake:
        return Identity(user=user, role=Role.INTAKE, scope=EMPTY_SCOPE, intake=token.intake)
    return Identity(
        user=user,
        role=role,
        scope=scope_for_role(role, token.grants),
    )


def describe_role(token: ApiToken) -> str:
    """Return what a token may do, for lists of tokens: a role, or `intake:` and a name."""
    return f"intake:{token.intake}" if token.intake else Role(token.role).name.lower()


class TokenRegistry:
    """The API tokens of the file, and which of their secrets were verified before."""

    def __init__(self) -> None:
        self._tokens: dict[str, ApiToken] = {}
        self._verified: dict[str, str] = {}
        """The digest of the verified secret, by token id: it saves the slow hash per request."""

    def __iter__(self) -> Iterator[ApiToken]:
        return iter(sorted(self._tokens.values(), key=lambda token: token.created))

    def put(self, token: ApiToken) -> None:
        """Add or replace a token."""
        self._tokens[token.id] = token

    def drop(self, token_id: str) -> None:
        """Forget a token, which the file no longer has."""
        self._tokens.pop(token_id, None)
        self._verified.pop(token_id, None)

    def get(self, token_id: str) -> ApiToken | None:
        """Return a token that exists and has not expired."""
        token = self._tokens.get(token_id)
        return token if token is not None and now() < token.expires else None

    def is_known(self, token_id: str) -> bool:
        """Return whether a token exists, also one that has expired."""
        return token_id in self._tokens

    def is_verified(self, token_id: str, secret: str) -> bool:
        """Return whether this secret was verified before."""
        verified = self._verified.get(token_id)
        return verified is not None and secrets.compare_digest(verified, digest(secret))

    def mark_verified(self, token_id: str, secret: str) -> None:
        """Remember that this secret is the token's."""
        self._verified[token_id] = digest(secret)
