"""The proxy of the environment, as Go's HTTP client finds it."""

from pathlib import Path

import pytest

from almenara_kube.credentials import CredentialLoader
from almenara_kube.proxy import find_proxy
from almenara_kube.settings import KubeContext

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


@pytest.mark.anyio
async def test_proxy_url_of_a_kubeconfig_takes_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    text = (
        "current-context: c\ncontexts: [{name: c, context: {cluster: c}}]\n"
        "clusters: [{name: c, cluster: {server: 'https://api.example.org'%s}}]\n"
    )
    monkeypatch.setenv("HTTPS_PROXY", PROXY)

    path.write_text(text % "")
    of_environment = await CredentialLoader(KubeContext(path)).load()
    path.write_text(text % ", proxy-url: 'https://own.example.org'")
    of_kubeconfig = await CredentialLoader(KubeContext(path)).load()

    assert (of_environment.proxy, of_kubeconfig.proxy) == (PROXY, "https://own.example.org")
