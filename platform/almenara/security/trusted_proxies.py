"""The client's address behind proxies."""

import functools
import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final

from almenara.config import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
WITH_PORT: Final = re.compile(r"\[([^\]]+)\](?::\d+)?|([\d.]+):\d+")
LONGEST_ADDRESS: Final = 64
"""Characters."""
SITE_PREFIX: Final = 64
"""Bits of an IPv6 prefix that is assigned to one site; its clients choose the other bits freely."""


class TrustedProxies:
    """The networks of `server.trusted_proxies`, whose X-Forwarded-* headers are accepted."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises `ConfigError` for text that is neither an address nor a network."""
        self._networks = [_parse_network(text) for text in networks]

    def __contains__(self, address: str) -> bool:
        parsed = parse_address(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def client_address(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """Return the address of the client: `peer`, or what trusted proxies report.

        `forwarded_for` are the values of X-Forwarded-For. Each proxy appends on the right, so
        everything left of the first untrusted address may be forged by the client.
        """
        address = peer
        for text in reversed(split_list(forwarded_for)):
            if address not in self or (hop := parse_address(text)) is None:
                break
            address = str(hop)
        return address

    def count_hops(self, peer: str, forwarded_for: Sequence[str]) -> int:
        """Return how many trusted proxies a request passed, the peer included."""
        hops, address = 0, peer
        remaining = split_list(forwarded_for)
        while address in self:
            hops += 1
            hop = parse_address(remaining.pop()) if remaining else None
            if hop is None:
                break
            address = str(hop)
        return hops


def split_list(values: Sequence[str]) -> list[str]:
    """Return the items of a header that is a comma-separated list, sent in one or more parts."""
    return [item for value in values for item in value.split(",")]


@functools.lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """Return an IP address, to which some proxies append the port; None where it is malformed."""
    text = text.strip()
    if len(text) > LONGEST_ADDRESS:
        return None
    if (with_port := WITH_PORT.fullmatch(text)) is not None:
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


def rate_key(address: str) -> str:
    """Return the key under which an address is limited: an IPv6 site (/64) counts as one."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, SITE_PREFIX), strict=False))
    return address


def _parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(
            f"server.trusted_proxies: {text!r} is not an address or a network; write 10.0.0.7 or"
            " 10.0.0.0/8"
        ) from None
