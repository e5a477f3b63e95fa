"""The validity of certificates is read from their DER encoding."""

import ssl
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from almenara_http.certificates import Validity, parse_validity
from support.certificates import issue_self_signed


@pytest.mark.parametrize("days", [1, 400, 20_000])
def test_parse_validity_agrees_with_openssl(tmp_path: Path, days: int) -> None:
    issue_self_signed(tmp_path, days)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())
    validity = parse_validity(der)
    assert validity is not None
    assert abs(validity.issued - time.time()) < 60
    assert validity.expires - validity.issued == days * 86_400


@given(st.binary(max_size=400))
def test_parse_validity_survives_any_bytes(data: bytes) -> None:
    parse_validity(data)


def test_parse_validity_survives_truncation(tmp_path: Path) -> None:
    issue_self_signed(tmp_path, 10)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())
    assert all(parse_validity(der[:length]) is None for length in range(len(der)))


@pytest.mark.parametrize(
    ("lifetime", "days", "left"),
    [
        # In seconds: 24 hours, 6, 30 and 90 days.
        (86_400.0, 14.0, 21_600.0),
        (6 * 86_400.0, 14.0, 1.5 * 86_400),
        (30 * 86_400.0, 14.0, 7.5 * 86_400),
        (90 * 86_400.0, 14.0, 14 * 86_400.0),
        (90 * 86_400.0, 0.0, 0.0),
        (-1.0, 14.0, 0.0),
    ],
)
def test_certificate_expires_soon_by_its_lifetime(
    lifetime: float, days: float, left: float
) -> None:
    validity = Validity(issued=1_000_000.0, expires=1_000_000.0 + lifetime)
    assert validity.expires - validity.expires_soon_at(days) == left
