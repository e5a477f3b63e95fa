"""The proxy of a kubeconfig and that of the environment."""

from pathlib import Path

import pytest

from almenara_kube.credentials import CredentialLoader
from almenara_kube.settings import KubeContext

PROXY = "http://proxy.example.org:3128"


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
