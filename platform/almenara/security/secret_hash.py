"""Secrets that we give out: made by the system's randomness, kept as argon2id hashes."""

import asyncio
import hashlib
import secrets
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

BYTES: Final = 32
# What OWASP asks of argon2id at least: little memory, because the whole process is small, and one
# lane. What is hashed has 256 bits of its own.
HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
AT_ONCE: Final = 2
WAITING: Final = 50


class TooManySecretsError(RuntimeError):
    """So many secrets wait to be checked that another would wait too long."""


def generated() -> str:
    """A new secret: 256 bits, as 43 characters that every address and header can hold."""
    return secrets.token_urlsafe(BYTES)


def hashed(secret: str) -> str:
    """What is kept of a secret."""
    return HASHER.hash(secret)


def digest(secret: str) -> str:
    """A name for a generated secret that cannot be turned back into it."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Verifying:
    """Checks secrets in threads, few at once, so that nobody can make us spend all on it."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def fits(self, secret: str, kept: str) -> bool:
        """Whether a secret is the one that a hash was made of. Raises `TooManySecretsError`."""
        if self._waiting >= WAITING:
            raise TooManySecretsError("too many secrets wait to be checked")
        self._waiting += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(_fits, secret, kept)
        finally:
            self._waiting -= 1


def _fits(secret: str, kept: str) -> bool:
    try:
        return HASHER.verify(kept, secret)
    except (VerificationError, InvalidHashError):
        return False
