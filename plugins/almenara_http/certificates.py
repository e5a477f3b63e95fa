"""The validity of the certificates that a server presents.

Python decodes a peer's certificate only if it has verified it, so the validity is read from the DER
encoding: Certificate and Validity in RFC 5280, section 4.1.
"""

import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

SEQUENCE: Final = 0x30
EXPLICIT_VERSION: Final = 0xA0
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SECONDS_PER_DAY: Final = 86_400.0
LATE_SHARE: Final = 4


class Validity(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The validity of a certificate, in seconds since the epoch; sorts by its end."""

    expires: float
    issued: float

    def expires_soon_at(self, days: float) -> float:
        """When it counts as expiring soon: so many days before its end, at most in the last quarter
        of its lifetime, since it may live for a day. Renewals are due in the last third."""
        lifetime = max(self.expires - self.issued, 0.0)
        return self.expires - min(days * SECONDS_PER_DAY, lifetime / LATE_SHARE)


def first_to_expire(tls: ssl.SSLObject) -> Validity | None:
    """The validity of the certificate of the presented chain that expires first; None where no
    certificate can be read."""
    validities = [parse_validity(der) for der in _presented_chain(tls)]
    return min((each for each in validities if each is not None), default=None)


def _presented_chain(tls: Any) -> Iterable[bytes]:
    """The certificates as the server sent them, in DER; the leaf first."""
    if hasattr(tls, "get_unverified_chain"):  # Python 3.13
        return list(tls.get_unverified_chain())
    inner = getattr(tls, "_sslobj", None)
    if inner is not None and hasattr(inner, "get_unverified_chain"):
        return [
            ssl.PEM_cert_to_DER_cert(certificate.public_bytes())
            for certificate in inner.get_unverified_chain() or ()
        ]
    leaf = tls.getpeercert(binary_form=True)
    return [leaf] if leaf else []


def parse_validity(der: bytes) -> Validity | None:
    """The validity of a certificate; None where it is malformed."""
    try:
        _, certificate, _ = _read_element(der, 0)
        _, to_be_signed, _ = _read_element(certificate, 0)
        tag, _, position = _read_element(to_be_signed, 0)
        # version (optional), serialNumber, signature, issuer; then validity
        for _ in range(3 if tag == EXPLICIT_VERSION else 2):
            _, _, position = _read_element(to_be_signed, position)
        tag, validity, _ = _read_element(to_be_signed, position)
        if tag != SEQUENCE:
            return None
        tag, not_before, position = _read_element(validity, 0)
        issued = _parse_time(tag, not_before.decode("ascii"))
        tag, not_after, _ = _read_element(validity, position)
        return Validity(expires=_parse_time(tag, not_after.decode("ascii")), issued=issued)
    except (IndexError, ValueError):
        return None


def _read_element(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the DER element at a position. Raises `IndexError`, `ValueError`."""
    tag, length = data[position], data[position + 1]
    position += 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[position : position + size], "big")
        position += size
    end = position + length
    if end > len(data):
        raise ValueError("the element is truncated")
    return tag, data[position:end], end


def _parse_time(tag: int, text: str) -> float:
    if tag == UTC_TIME:
        # Two digits of the year: 50 to 99 are of the 20th century (RFC 5280, 4.1.2.5.1).
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != GENERALIZED_TIME:
        raise ValueError(f"tag {tag} is not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
