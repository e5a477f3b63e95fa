"""The address in the browser, from what a request and trusted proxies report."""

from typing import Any

import pytest

from almenara.config import ConfigError, ServerSettings
from almenara.security.public_address import parse_url
from almenara.security.trusted_proxies import TrustedProxies
from almenara.web.public_address import read_public_address

PROXIES = TrustedProxies(["10.0.0.0/8"])
PROXY, CLIENT = "10.0.0.1", "203.0.113.9"


def origin(peer: str, requested: str, url: str = "", **forwarded: str) -> str | None:
    headers = [(b"host", requested.encode())]
    headers += [
        (f"x-forwarded-{name}".encode(), value.encode()) for name, value in forwarded.items()
    ]
    scope: Any = {"type": "http", "scheme": "http", "client": (peer, 1), "headers": headers}
    settings = ServerSettings(url=url)
    address = read_public_address(scope, settings, PROXIES)
    return None if address is None else address.origin


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ({}, "http://a.example:8080"),
        ({"proto": "https"}, "https://a.example:8080"),
        ({"proto": "https", "host": "watch.example"}, "https://watch.example"),
        ({"proto": "https", "host": "WATCH.example:443"}, "https://watch.example"),
        ({"proto": "https", "host": "watch.example:8443"}, "https://watch.example:8443"),
        ({"proto": "https", "host": "watch.example", "port": "8443"}, "https://watch.example:8443"),
        ({"proto": "https", "host": "watch.example", "port": "443"}, "https://watch.example"),
        ({"proto": "https", "host": "watch.example", "port": "80"}, "https://watch.example"),
        ({"proto": "https", "host": "watch.example", "port": "x"}, "https://watch.example"),
        # Two trusted proxies: the outer one terminates TLS.
        ({"for": f"{CLIENT}, 10.0.0.2", "proto": "https,http", "host": "watch.example"},
         "https://watch.example"),
        ({"for": f"{CLIENT}, 10.0.0.2", "proto": "https, http", "host": "watch.example, inner",
          "port": "8443, 80"}, "https://watch.example:8443"),
        # What the client sent itself is left of the entries of the proxies.
        ({"for": CLIENT, "proto": "https, http", "host": "evil.example, watch.example"},
         "http://watch.example"),
        ({"for": f"6.6.6.6, {CLIENT}, 10.0.0.2", "proto": "https, http, http",
          "host": "evil.example, watch.example, inner"}, "http://watch.example"),
        ({"host": "<script>"}, None),
        ({"host": "a b"}, None),
    ],
)  # fmt: skip
def test_public_address_follows_the_outermost_trusted_proxy(
    forwarded: dict[str, str], expected: str | None
) -> None:
    assert origin(PROXY, "a.example:8080", **forwarded) == expected


def test_public_address_ignores_headers_of_clients() -> None:
    forged = {"proto": "https", "host": "evil.example", "port": "1", "for": PROXY}
    assert origin(CLIENT, "a.example:8080", **forged) == "http://a.example:8080"


def test_public_address_uses_the_configured_scheme_behind_silent_proxies() -> None:
    assert origin(PROXY, "watch.example", url="https://watch.example") == "https://watch.example"
    assert origin(CLIENT, "watch.example", url="https://watch.example") == "http://watch.example"


@pytest.mark.parametrize(
    "url", ["watch.example", "ftp://watch.example", "https://", "https://a b", "https://a@b",
            "https://watch.example/almenara", "https://watch.example?x", "https://a:99999"],
)  # fmt: skip
def test_server_url_must_be_an_origin(url: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.url: "):
        parse_url(url)
    assert parse_url("https://Watch.example:443/").origin == "https://watch.example"
