"""The validity of certificates is read from their DER encoding."""

import ssl
import time
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from almenara_http.certificates import parse_not_after
from support.certificates import issue_self_signed


@pytest.mark.parametrize("days", [1, 400, 20_000])
def test_parse_not_after_agrees_with_openssl(tmp_path: Path, days: int) -> None:
    issue_self_signed(tmp_path, days)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())
    expires = parse_not_after(der)
    assert expires is not None
    assert abs(expires - time.time() - days * 86_400) < 60


@given(st.binary(max_size=400))
def test_parse_not_after_survives_any_bytes(data: bytes) -> None:
    parse_not_after(data)


def test_parse_not_after_survives_truncation(tmp_path: Path) -> None:
    issue_self_signed(tmp_path, 10)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "cert.pem").read_text())
    assert all(parse_not_after(der[:length]) is None for length in range(len(der)))
