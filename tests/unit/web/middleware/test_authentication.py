"""What the authentication middleware reads of a request."""

import pytest

from almenara.config import ServerSettings
from almenara.security.trusted_proxies import TrustedProxies
from almenara.web.middleware.authentication import read_request_info

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48"])
BROWSER = "203.0.113.9"
PROTO_HTTPS = (b"x-forwarded-proto", b"https")


def test_request_info_trusts_proxies_only() -> None:
    forged = [
        (b"x-forwarded-for", b"6.6.6.6"), (b"forwarded", b"for=6.6.6.6;proto=https"),
        (b"x-real-ip", b"6.6.6.6"), (b"x_forwarded_for", b"6.6.6.6"), (b"host", b"a.example"),
    ]  # fmt: skip
    for peer, more, address, secure in (
        (BROWSER, [], BROWSER, False),
        (BROWSER, [(b"x-forwarded-proto", b"https")], BROWSER, False),
        ("10.0.0.1", [(b"x-forwarded-for", BROWSER.encode())], BROWSER, False),
        ("10.0.0.1", [(b"x-forwarded-proto", b"https")], "6.6.6.6", True),
        ("10.0.0.1", [(b"x-forwarded-proto", b"https, http")], "6.6.6.6", False),
        ("10.0.0.1", [PROTO_HTTPS] * 2, "6.6.6.6", True),
        (
            "10.0.0.1",
            [(b"x-forwarded-proto", b"https"), (b"x-forwarded-proto", b"http")],
            "6.6.6.6",
            False,
        ),
    ):
        scope = {"type": "http", "scheme": "http", "client": (peer, 1), "headers": [*forged, *more]}
        request_info = read_request_info(scope, ServerSettings(), PROXIES)  # type: ignore[arg-type]
        assert (request_info.address, request_info.is_secure, request_info.peer) == (
            address,
            secure,
            peer,
        )


@pytest.mark.parametrize("written", ["José".encode(), "José".encode("latin-1")])
def test_request_info_decodes_utf8_and_latin1(written: bytes) -> None:
    scope = {
        "scheme": "http", "client": ("10.0.0.1", 1), "state": {},
        "headers": [(b"host", b"a"), (b"x-forwarded-user", written)],
    }  # fmt: skip
    request_info = read_request_info(scope, ServerSettings(), PROXIES)  # type: ignore[arg-type]
    assert request_info.header("x-forwarded-user") == "José"
