"""The proxy of the environment, as Go's HTTP client finds it."""

import pytest

from almenara.sdk.proxies import find_proxy

PROXY = "http://proxy.example.org:3128"


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({"HTTPS_PROXY": PROXY}, "https://api.example.org:6443", PROXY),
        ({"https_proxy": PROXY}, "https://api.example.org", PROXY),
        ({"HTTPS_PROXY": "proxy.example.org:3128"}, "https://api.example.org", PROXY),
        ({"HTTP_PROXY": PROXY}, "https://api.example.org", ""),
        ({"HTTP_PROXY": PROXY}, "http://api.example.org", PROXY),
        ({"HTTPS_PROXY": PROXY}, "https://localhost:6443", ""),
        ({"HTTPS_PROXY": PROXY}, "https://127.0.0.5", ""),
        ({"HTTPS_PROXY": PROXY}, "https://[::1]:6443", ""),
        ({}, "https://api.example.org", ""),
        ({"HTTPS_PROXY": " "}, "https://api.example.org", ""),
    ],
)
def test_find_proxy_reads_the_variables(
    environment: dict[str, str], url: str, expected: str
) -> None:
    assert find_proxy(url, environment) == expected


@pytest.mark.parametrize(
    ("entries", "url", "is_direct"),
    [
        ("example.org", "https://example.org", True),
        ("example.org", "https://api.example.org", True),
        ("example.org", "https://notexample.org", False),
        (".example.org", "https://api.example.org", True),
        (".example.org", "https://example.org", False),
        ("*.example.org", "https://api.example.org", True),
        ("other, example.org", "https://EXAMPLE.org", True),
        ("*", "https://anything", True),
        ("10.96.0.0/12", "https://10.96.0.1", True),
        ("10.96.0.0/12", "https://10.200.0.1", False),
        ("10.96.0.0/12", "https://ten.example.org", False),
        ("10.96.0.1", "https://10.96.0.1:443", True),
        ("10.96.0.1:443", "https://10.96.0.1", True),
        ("10.96.0.1:8443", "https://10.96.0.1", False),
        ("api.example.org:6443", "https://api.example.org:6443", True),
        ("fd00::/8", "https://[fd00::1]", True),
        ("[fd00::1]:443", "https://[fd00::1]", True),
        ("not/a/network", "https://api.example.org", False),
        ("", "https://api.example.org", False),
        (",", "https://api.example.org", False),
    ],
)
def test_find_proxy_leaves_out_the_entries_of_no_proxy(
    entries: str, url: str, is_direct: bool
) -> None:
    proxy = find_proxy(url, {"HTTPS_PROXY": PROXY, "NO_PROXY": entries})

    assert proxy == ("" if is_direct else PROXY)


def test_find_proxy_follows_all_proxy_where_that_is_requested() -> None:
    environment = {"ALL_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}
    assert find_proxy("https://api.example.org", environment) == ""
    assert find_proxy("https://api.example.org", environment, use_all=True) == PROXY
    assert find_proxy("https://10.1.2.3", environment, use_all=True) == ""
