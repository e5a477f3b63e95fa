"""The expiry of the certificates that a server presents.

Python decodes a peer's certificate only if it has verified it, so the validity is read from the DER
encoding: Certificate and Validity in RFC 5280, section 4.1.
"""

import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

SEQUENCE: Final = 0x30
EXPLICIT_VERSION: Final = 0xA0
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18


def earliest_expiry(tls: ssl.SSLObject) -> float | None:
    """When the first certificate of the presented chain expires, in seconds since the epoch.

    None where no certificate can be read.
    """
    expiries = [parse_not_after(der) for der in _presented_chain(tls)]
    return min((expiry for expiry in expiries if expiry is not None), default=None)


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


def parse_not_after(der: bytes) -> float | None:
    """The `notAfter` of a certificate, in seconds since the epoch; None where it is malformed."""
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
        _, _, position = _read_element(validity, 0)
        tag, text, _ = _read_element(validity, position)
        return _parse_time(tag, text.decode("ascii"))
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
