"""Kubeconfigs are read as kubectl reads them, and no error quotes what is in them."""

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from almenara_kube.credentials import CredentialLoader, Credentials
from almenara_kube.errors import UnreachableError
from almenara_kube.kubeconfig import read_entry
from almenara_kube.settings import KubeContext

SECRET = "s3cr3t-value"
EXEC_VERSION = "client.authentication.k8s.io/v1"


def kubeconfig(
    path: Path, name: str = "main", user: Any = None, current: str | None = None, **cluster: Any
) -> Path:
    """Write a kubeconfig with one cluster, user and context of this name."""
    tree = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name if current is None else current,
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443", **cluster}}],
        "users": [{"name": name, "user": user or {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree))
    return path


async def load(path: Path, context: str = "") -> Credentials:
    return await CredentialLoader(KubeContext(path, context)).load()


async def refusal(path: Path, context: str = "") -> str:
    with pytest.raises(UnreachableError) as caught:
        await load(path, context)
    return str(caught.value)


def test_read_entry_takes_the_current_context_of_the_first_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kubeconfig(tmp_path / "a", "first")
    second = kubeconfig(tmp_path / "b", "second")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'missing'}:{first}:{second}")

    assert read_entry(KubeContext()).cluster.server == "https://first:6443"
    assert read_entry(KubeContext(context="second")).cluster.server == "https://second:6443"


def test_read_entry_takes_a_name_whole_from_the_first_file_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = kubeconfig(tmp_path / "a", "same", {"token": "one"}, current="")
    second = kubeconfig(tmp_path / "b", "same", {"username": "two", "password": "three"})
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}")

    user = read_entry(KubeContext()).user

    assert (user.token, user.username, user.password) == ("one", "", "")


@pytest.mark.anyio
async def test_load_resolves_paths_against_the_folder_of_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kubeconfig(
        tmp_path / "deep" / "config", user={"tokenFile": "token"},
        **{"certificate-authority": "ca.crt"},
    )  # fmt: skip
    (tmp_path / "deep" / "token").write_text("abc\n")
    (tmp_path / "deep" / "ca.crt").write_bytes(b"PEM")
    monkeypatch.chdir(tmp_path)

    credentials = await load(path)

    assert (credentials.authorization, credentials.tls.ca) == ("Bearer abc", b"PEM")


@pytest.mark.anyio
async def test_load_prefers_the_token_file_and_the_inline_data(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file")
    data = base64.b64encode(b"inline").decode()
    path = kubeconfig(
        tmp_path / "config", user={"token": "inline", "tokenFile": "token"},
        **{"certificate-authority-data": data, "certificate-authority": "missing"},
    )  # fmt: skip

    credentials = await load(path)

    assert (credentials.authorization, credentials.tls.ca) == ("Bearer from-file", b"inline")


@pytest.mark.anyio
async def test_load_sends_the_headers_of_an_impersonation(tmp_path: Path) -> None:
    user = {
        "token": "x", "as": "jane", "as-uid": "7", "as-groups": ["dev", "ops"],
        "as-user-extra": {"example.org/scopes": ["view", "list"]},
    }  # fmt: skip

    credentials = await load(kubeconfig(tmp_path / "config", user=user))

    assert credentials.headers == (
        ("Impersonate-User", "jane"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "dev"),
        ("Impersonate-Group", "ops"),
        ("Impersonate-Extra-example.org%2Fscopes", "view"),
        ("Impersonate-Extra-example.org%2Fscopes", "list"),
    )
    text = await refusal(kubeconfig(tmp_path / "config", user={"as-groups": ["dev"]}))
    assert "as-groups" in text


@pytest.mark.anyio
@pytest.mark.parametrize(
    "user",
    [
        {"token": SECRET, "exec": {"command": None, "apiVersion": EXEC_VERSION,
                                   "env": [{"name": "PASSWORD", "value": SECRET}]}},
        {"token": SECRET, "exec": [SECRET]},
        {"token": [SECRET]},
        {"token": f"{SECRET}\nsecond line"},
        {"client-key-data": f"!{SECRET}!"},
        {"auth-provider": {"name": "oidc", "config": {"refresh-token": SECRET, "id-token": "x"}}},
        {"auth-provider": {"name": "gcp", "config": {"access-token": SECRET}}},
        {"exec": {"command": "/nowhere/plugin", "apiVersion": EXEC_VERSION, "args": [SECRET],
                  "env": [{"name": "PASSWORD", "value": SECRET}]}},
        {"as-groups": [SECRET]},
        {"password": {"a": SECRET}},
    ],
)  # fmt: skip
async def test_load_never_quotes_a_value_of_the_kubeconfig(
    tmp_path: Path, user: dict[str, Any]
) -> None:
    text = await refusal(kubeconfig(tmp_path / "config", user=user))

    assert text
    assert SECRET not in text


@pytest.mark.anyio
async def test_load_ignores_nulls_beside_what_is_used(tmp_path: Path) -> None:
    user = {"token": "abc", "exec": None, "auth-provider": None, "as-groups": None}

    assert (await load(kubeconfig(tmp_path / "config", user=user))).authorization == "Bearer abc"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"users: [{{name: {SECRET}", "is not valid YAML (line 1)"),
        (f"users: {SECRET}", "users"),
        ("", "has no current-context"),
        ("current-context: gone", "has no context 'gone'"),
        ("users: [{name: a}, {name: a}]", "has two of the user 'a'"),
        ("\x00", "is not valid YAML"),
    ],
)
async def test_load_names_the_file_and_what_is_wrong_with_it(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = tmp_path / "config"
    path.write_text(text)

    reason = await refusal(path)

    assert str(path) in reason
    assert expected in reason
    assert SECRET not in reason


@pytest.mark.anyio
async def test_load_refuses_a_proxy_that_is_not_supported(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", **{"proxy-url": f"socks4://u:{SECRET}@proxy:1080"})

    reason = await refusal(path)

    assert "proxy-url" in reason
    assert SECRET not in reason


def test_address_has_no_password() -> None:
    credentials = Credentials(server=f"https://user:{SECRET}@host:6443/prefix")

    assert credentials.address == "https://host:6443/prefix"
