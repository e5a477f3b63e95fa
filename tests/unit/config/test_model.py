"""Defaults of the settings."""

import pytest

from almenara.config import ServerSettings


@pytest.mark.parametrize(
    ("proxy", "seconds"),
    [
        ("ingress-nginx, upstream-keepalive-timeout", 60),
        ("nginx, keepalive_timeout of an upstream", 60),
        ("AWS Application Load Balancer, idle timeout", 60),
        ("Traefik, idleConnTimeout", 90),
    ],
)
def test_keep_alive_is_longer_than_that_of_proxies(proxy: str, seconds: float) -> None:
    # A proxy that reuses a connection the server is closing responds with 502.
    assert ServerSettings().keep_alive > seconds, proxy
