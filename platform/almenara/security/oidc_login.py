"""Logins whose browsers are at the provider: what is known of one when its browser comes back.

It is in a signed cookie of that browser, so that any replica with the same secret can complete a
login, and a login that is never completed uses no memory.
"""

import base64
from typing import Final

import msgspec

from almenara.signals import now
from almenara.state_store.signature import SIGNATURE_BYTES, sign, verify
from almenara.units import SECOND

LOGIN_TIMEOUT: Final = 600.0
"""Seconds between leaving for the provider and coming back."""
LONGEST_PAGE: Final = 1_000
"""Characters; browsers store cookies of 4,096 bytes. A login continues with `/` beyond that."""


class PendingLogin(msgspec.Struct, frozen=True, array_like=True):
    """A login whose browser is at the provider."""

    started: int
    """In microseconds."""
    redirect_uri: str
    next_page: str


_decode = msgspec.json.Decoder(PendingLogin).decode


def derive_secret(secret: str, purpose: str, state: str) -> str:
    """Return a secret of one login, as 43 characters that are valid in URLs: each replica with the
    same secret derives the same."""
    return _to_text(sign(secret, f"{purpose}/{state}", b"")[:SIGNATURE_BYTES])


def write_cookie(secret: str, state: str, redirect_uri: str, next_page: str) -> str:
    """Return the cookie of a login that starts now. It is valid for this `state` alone."""
    page = next_page if len(next_page) <= LONGEST_PAGE else "/"
    value = msgspec.json.encode(PendingLogin(now(), redirect_uri, page))
    return _to_text(sign(secret, f"login/{state}", value))


def read_cookie(secret: str, state: str, cookie: str) -> PendingLogin | None:
    """Return the login of a cookie; None for one of another login or secret, and after
    `LOGIN_TIMEOUT`."""
    try:
        signed = base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4))
        value = verify(secret, f"login/{state}", signed)
        login = None if value is None else _decode(value)
    except (ValueError, msgspec.MsgspecError):
        return None
    if login is None or now() - login.started > LOGIN_TIMEOUT * SECOND:
        return None
    return login


def _to_text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
