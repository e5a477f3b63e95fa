"""The proxy of the environment for an address, as Go's HTTP client finds it.

HTTPS_PROXY, HTTP_PROXY and NO_PROXY, and their names in lower case:
https://pkg.go.dev/golang.org/x/net/http/httpproxy. ALL_PROXY is one of curl.
"""

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}


def find_proxy(
    url: str, environment: Mapping[str, str] | None = None, *, use_all: bool = False
) -> str:
    """The proxy for a URL; empty where it is reached directly, as loopback addresses always are.

    With `use_all`, ALL_PROXY counts where the variable of the scheme is not set.
    """
    variables = os.environ if environment is None else environment

    def read(name: str) -> str:
        return (variables.get(name) or variables.get(name.lower()) or "").strip()

    parts = urlsplit(url)
    proxy = read("HTTPS_PROXY" if parts.scheme == "https" else "HTTP_PROXY")
    if use_all:
        proxy = proxy or read("ALL_PROXY")
    host = (parts.hostname or "").rstrip(".")
    if not proxy or not host or _is_loopback(host):
        return ""
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    if any(_matches(entry, host, port) for entry in read("NO_PROXY").lower().split(",")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    address = _parse_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means a host: `*`, a network, an address, a domain with the
    names below it, or with a dot in front only those; each with a port or without."""
    entry = entry.strip()
    if not entry:
        return False
    if entry == "*":
        return True
    address = _parse_address(host)
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, entry_port = _split_port(entry)
    if entry_port and entry_port != port:
        return False
    own = _parse_address(name)
    if own is not None or address is not None:
        return own is not None and own == address
    name = name.removeprefix("*")
    if name.startswith("."):
        return host.endswith(name)
    return host == name or host.endswith(f".{name}")


def _split_port(entry: str) -> tuple[str, int]:
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        port = rest.removeprefix(":")
    elif entry.count(":") == 1:
        name, _, port = entry.partition(":")
    else:
        name, port = entry, ""
    return name.rstrip("."), int(port) if port.isdecimal() else 0


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
