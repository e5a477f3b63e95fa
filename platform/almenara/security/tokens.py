"""API tokens, for scripts: each with a role, a scope and an end."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from almenara.scope import Grant
from almenara.security.identity import Identity, Person, Role, in_role
from almenara.security.secret_hash import digest, generated, hashed
from almenara.security.store import ApiToken
from almenara.signals import now

PREFIX: Final = "alm"
"""What tokens begin with, so that people and scanners recognise one where it should not be."""
SECOND: Final = 1_000_000


def made(
    name: str, role: Role, grants: Sequence[Grant], lifetime: float, *, by: str
) -> tuple[ApiToken, str]:
    """A new token and what its holder sends; only a hash of that is kept."""
    token_id, secret, moment = secrets.token_hex(6), generated(), now()
    token = ApiToken(
        id=token_id,
        name=name,
        hash=hashed(secret),
        role=int(role),
        grants=tuple(grants) or (Grant(),),
        created=moment,
        expires=moment + int(lifetime * SECOND),
        by=by,
    )
    return token, f"{PREFIX}_{token_id}_{secret}"


def parts(text: str) -> tuple[str, str] | None:
    """The id and the secret of what somebody sent as an API token; None where it is none."""
    prefix, _, rest = text.partition("_")
    token_id, _, secret = rest.partition("_")
    return (token_id, secret) if prefix == PREFIX and token_id and secret else None


def identity_of(token: ApiToken) -> Identity:
    """Who comes with a token."""
    role = Role(token.role)
    return Identity(
        person=Person(name=token.name, subject=f"api:{token.id}", token=token.id, shared=True),
        role=role,
        scope=in_role(role, token.grants),
    )


class Tokens:
    """The API tokens there are."""

    def __init__(self) -> None:
        self._tokens: dict[str, ApiToken] = {}
        self._verified: dict[str, str] = {}
        """The digest of a secret that was checked, by the id of its token."""

    def __iter__(self) -> Iterator[ApiToken]:
        return iter(sorted(self._tokens.values(), key=lambda it: it.created))

    def replace(self, tokens: Iterable[ApiToken]) -> None:
        """Take what the file says now."""
        self._tokens = {it.id: it for it in tokens}
        self._verified = {it: seen for it, seen in self._verified.items() if it in self._tokens}

    def get(self, token_id: str) -> ApiToken | None:
        """A token that is there and has not expired."""
        token = self._tokens.get(token_id)
        return token if token is not None and now() < token.expires else None

    def was_verified(self, token_id: str, secret: str) -> bool:
        """Whether this secret was checked before, which spares the slow hash."""
        seen = self._verified.get(token_id)
        return seen is not None and secrets.compare_digest(seen, digest(secret))

    def note_verified(self, token_id: str, secret: str) -> None:
        """Remember that this secret is right."""
        self._verified[token_id] = digest(secret)
