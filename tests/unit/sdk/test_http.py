"""Clients for sources follow the environment's proxies."""

import pytest

from almenara.sdk.http import environment_proxy

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://api.example/", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://api.example/", "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128"}, "https://api.example/", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://api.example/", None),
        ({"ALL_PROXY": "http://proxy:1"}, "http://api.example/", "http://proxy:1"),
        ({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "example"}, "https://api.example/", None),
        (
            {"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "other.example,10.0.0.1"},
            "https://api.example/",
            "http://proxy:1",
        ),
        ({"HTTPS_PROXY": "http://proxy:1", "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3/", None),
        ({"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "*"}, "http://api.example/", None),
    ],
)
def test_environment_proxy_follows_the_variables(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxy: str | None
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy(url) == proxy
