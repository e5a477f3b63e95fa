"""The address of a client behind proxies, with forged headers."""

import ipaddress

import pytest
from hypothesis import given, strategies as st

from almenara.config import ConfigError
from almenara.security.trusted_proxies import TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48"])
BROWSER = "203.0.113.9"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        (BROWSER, [], BROWSER),
        (BROWSER, ["198.51.100.1"], BROWSER),  # only trusted proxies count
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
def test_client_address_is_the_last_untrusted_hop(
    peer: str, forwarded: list[str], client: str
) -> None:
    assert PROXIES.client_address(peer, forwarded) == client


@given(st.lists(st.text(alphabet="0123456789.:,[] abcdef%\x00", max_size=60), max_size=4))
def test_client_address_ignores_forged_hops(forged: list[str]) -> None:
    # A proxy adds the address to the last value, or in a value of its own.
    added = [*forged[:-1], f"{forged[-1]}, {BROWSER}"] if forged else [BROWSER]
    assert PROXIES.client_address("10.0.0.1", added) == BROWSER
    assert PROXIES.client_address("10.0.0.1", [*forged, BROWSER]) == BROWSER
    assert PROXIES.client_address(BROWSER, forged) == BROWSER


@given(st.lists(st.text(max_size=40), max_size=5))
def test_client_address_is_always_an_address(forwarded: list[str]) -> None:
    ipaddress.ip_address(PROXIES.client_address("10.0.0.1", forwarded))


@pytest.mark.parametrize("text", ["10.0.0.0/99", "proxy.example", "", "10.0.0.1-10.0.0.9"])
def test_networks_that_are_malformed_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write 10\.0\.0\.7 or"):
        TrustedProxies([text])
