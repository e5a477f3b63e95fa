"""Whose address counts behind proxies, and what no forged header changes about it."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from almenara.config import ConfigError
from almenara.security.rate_limit import Attempts
from almenara.security.trusted_proxies import TrustedProxies, counted_as
from almenara.web.middleware.authentication import asking_in

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48"])
BROWSER = "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        (BROWSER, [], BROWSER),
        (BROWSER, ["198.51.100.1"], BROWSER),  # nobody's word but our proxies' counts
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [BROWSER], BROWSER),
        ("::ffff:10.0.0.1", [BROWSER], BROWSER),
        ("2001:db8:1::5", ["2001:db8:2::9"], "2001:db8:2::9"),
        ("10.0.0.1", [f"{BROWSER}, 10.0.0.2, 192.0.2.7"], BROWSER),
        ("10.0.0.1", [BROWSER, "10.0.0.2"], BROWSER),
        ("10.0.0.1", [f"6.6.6.6, {BROWSER}, 10.0.0.2"], BROWSER),
        ("10.0.0.1", [f"10.0.0.3, {BROWSER}"], BROWSER),
        ("10.0.0.1", ["6.6.6.6", BROWSER], BROWSER),
        ("10.0.0.1", [f"{BROWSER}:51123"], BROWSER),
        ("10.0.0.1", ["[2001:db8:2::9]:443"], "2001:db8:2::9"),
        ("10.0.0.1", ["10.9.9.9"], "10.9.9.9"),
        ("10.0.0.1", [f"{BROWSER}, unknown"], "10.0.0.1"),
        ("10.0.0.1", [f"{BROWSER}, 10.0.0.2, "], "10.0.0.1"),
        ("10.0.0.1", [f"{BROWSER}, <script>, 10.0.0.2"], "10.0.0.2"),
        ("", [BROWSER], ""),
    ],
)
def test_the_browser_is_the_last_that_no_proxy_of_ours_is(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert PROXIES.client(peer, forwarded) == client


@given(st.lists(st.text(alphabet="0123456789.:,[] abcdef%\x00", max_size=60), max_size=4))
def test_nothing_that_a_browser_writes_in_front_changes_its_address(forged: list[str]) -> None:
    # A proxy adds the address to the last value, or in a value of its own.
    added = [*forged[:-1], f"{forged[-1]}, {BROWSER}"] if forged else [BROWSER]
    assert PROXIES.client("10.0.0.1", added) == BROWSER
    assert PROXIES.client("10.0.0.1", [*forged, BROWSER]) == BROWSER
    assert PROXIES.client(BROWSER, forged) == BROWSER


@given(st.lists(st.text(max_size=40), max_size=5))
def test_what_comes_out_is_always_an_address(forwarded: list[str]) -> None:
    ipaddress.ip_address(PROXIES.client("10.0.0.1", forwarded))


@pytest.mark.parametrize("text", ["10.0.0.0/99", "proxy.example", "", "10.0.0.1-10.0.0.9"])
def test_what_is_no_network_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write 10\.0\.0\.7 or"):
        TrustedProxies([text])


def test_a_request_tells_address_and_scheme_by_the_proxy_and_by_nothing_else() -> None:
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
        ("10.0.0.1", [(b"x-forwarded-proto", b"https")] * 2, "6.6.6.6", False),
    ):
        scope = {"type": "http", "scheme": "http", "client": (peer, 1), "headers": [*forged, *more]}
        asking = asking_in(scope, PROXIES)  # type: ignore[arg-type]
        assert (asking.address, asking.secure, asking.peer) == (address, secure, peer)


def test_wrong_secrets_of_one_site_are_counted_together() -> None:
    attempts = Attempts(2)
    for number in range(3):
        attempts.failed(counted_as(f"2001:db8:2::{number:x}"))
    assert attempts.wait(counted_as("2001:db8:2::ffff:1")) > 0
    assert attempts.wait(counted_as("2001:db8:2:1::1")) == 0
    assert counted_as(BROWSER) == BROWSER
    assert counted_as("not an address") == "not an address"


@pytest.mark.parametrize("written", ["José".encode(), "José".encode("latin-1")])
def test_names_of_people_are_read_in_whatever_their_proxy_writes_them(written: bytes) -> None:
    scope = {
        "scheme": "http", "client": ("10.0.0.1", 1), "state": {},
        "headers": [(b"host", b"a"), (b"x-forwarded-user", written)],
    }  # fmt: skip
    asking = asking_in(scope, PROXIES)  # type: ignore[arg-type]
    assert asking.header("x-forwarded-user") == "José"
