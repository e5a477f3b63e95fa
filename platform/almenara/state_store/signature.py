"""Signatures of what replicas share: other clients of the server may be able to write there."""

import hmac
from typing import Final

SIGNATURE_BYTES: Final = 32


def sign(secret: str, key: str, value: bytes) -> bytes:
    """Return a value as it is shared: behind its signature, which holds for this key alone."""
    return _make_signature(secret, key, value) + value


def verify(secret: str, key: str, signed: bytes) -> bytes | None:
    """Return the value that was signed for a key; None where the signature is wrong."""
    signature, value = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
    is_valid = hmac.compare_digest(signature, _make_signature(secret, key, value))
    return value if is_valid else None


def _make_signature(secret: str, key: str, value: bytes) -> bytes:
    return hmac.digest(secret.encode(), f"almenara\0{key}\0".encode() + value, "sha256")
