"""Who is connected, where proxies stand between."""

import functools
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

from almenara.config import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORT: Final = re.compile(r"\[([^\]]+)\](?::\d+)?|([\d.]+):\d+")
LONGEST: Final = 64
"""Characters of an address, at most."""
SITE: Final = 64
"""Bits of an IPv6 address that whoever has one has been given; the others are theirs to choose."""


class TrustedProxies:
    """The proxies whose word is believed about who is behind them."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises `ConfigError` for what is no address and no network."""
        self._networks = [_network(it) for it in networks]

    def __contains__(self, address: str) -> bool:
        found = read_address(address)
        return found is not None and any(found in it for it in self._networks)

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """The address of a browser: of who is connected or, where that is one of these proxies,
        of whom it names, and so on.

        `forwarded` are the values of X-Forwarded-For. Each proxy adds on the right, so that all to
        the left of the first that is not ours is anybody's word.
        """
        address = peer
        for text in reversed([hop for value in forwarded for hop in value.split(",")]):
            if address not in self or (hop := read_address(text)) is None:
                break
            address = str(hop)
        return address


@functools.lru_cache(maxsize=4096)
def read_address(text: str) -> Address | None:
    """An address, of which some proxies tell the port too; None where it is none."""
    text = text.strip()
    if len(text) > LONGEST:
        return None
    if (with_port := PORT.fullmatch(text)) is not None:
        text = with_port[1] or with_port[2]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def counted_as(address: str) -> str:
    """Whose requests are counted together: of IPv6 all of a site, which is one customer's."""
    found = read_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, SITE), strict=False))
    return address


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(
            f"server.trusted_proxies: {text!r} is no address and no network; write 10.0.0.7 or"
            " 10.0.0.0/8"
        ) from None
