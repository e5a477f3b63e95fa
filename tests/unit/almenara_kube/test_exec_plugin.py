"""Exec plugins of a kubeconfig: programs that print credentials."""

import asyncio
import base64
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from almenara_kube.errors import UnreachableError
from almenara_kube.exec_plugin import ExecStatus, run_plugin
from almenara_kube.kubeconfig import Cluster, Entry, ExecConfig, Extension, User

pytestmark = pytest.mark.anyio

VERSION = "client.authentication.k8s.io/v1"


def plugin(folder: Path, body: str, **more: Any) -> Entry:
    """The entry of a kubeconfig with a plugin that is this Python code."""
    script = folder / "plugin.py"
    script.write_text(textwrap.dedent(body))
    config = ExecConfig(command=sys.executable, api_version=VERSION, args=[str(script)])
    return Entry(
        cluster=more.pop("cluster", Cluster(server="https://api:6443")),
        user=User(exec=msgspec.structs.replace(config, **more)),
        cluster_folder=folder, user_folder=folder,
    )  # fmt: skip


def printing(status: dict[str, Any], **more: Any) -> str:
    output = {"apiVersion": VERSION, "kind": "ExecCredential", "status": status, **more}
    return f"print({json.dumps(json.dumps(output))})"


async def refusal(entry: Entry, timeout: float = 10) -> str:
    with pytest.raises(UnreachableError) as caught:
        await run_plugin(entry, None, timeout)
    return str(caught.value)


async def test_run_plugin_returns_a_token_without_an_end(tmp_path: Path) -> None:
    entry = plugin(tmp_path, printing({"token": "abc", "expirationTimestamp": None}))

    assert await run_plugin(entry, None) == ExecStatus(token="abc")


async def test_run_plugin_passes_the_cluster_where_that_is_configured(tmp_path: Path) -> None:
    body = """
        import json, os
        info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
        print(json.dumps({"apiVersion": info["apiVersion"], "kind": "ExecCredential",
                          "status": {"token": json.dumps(info["spec"])}}))
    """
    extension = Extension(name="client.authentication.k8s.io/exec", extension={"audience": "x"})
    cluster = Cluster(server="https://api:6443", extensions=[extension])

    with_info = await run_plugin(
        plugin(tmp_path, body, cluster=cluster, provide_cluster_info=True), b"PEM"
    )
    without = await run_plugin(plugin(tmp_path, body, cluster=cluster), b"PEM")

    assert json.loads(with_info.token or "") == {
        "interactive": False,
        "cluster": {
            "server": "https://api:6443",
            "certificate-authority-data": base64.b64encode(b"PEM").decode(),
            "config": {"audience": "x"},
        },
    }
    assert json.loads(without.token or "") == {"interactive": False}


async def test_run_plugin_finds_a_relative_command_beside_the_kubeconfig(tmp_path: Path) -> None:
    script = tmp_path / "bin" / "plugin"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\n{printing({'token': 'beside'})}\n")
    script.chmod(0o755)
    entry = plugin(tmp_path, "", command="./bin/plugin", args=[])

    assert (await run_plugin(entry, None)).token == "beside"


async def test_run_plugin_reports_what_a_failed_plugin_wrote_to_standard_error(
    tmp_path: Path,
) -> None:
    entry = plugin(tmp_path, "import sys; print('the-token'); sys.exit('no such profile')")

    reason = await refusal(entry)

    assert "exit code 1: no such profile" in reason
    assert "the-token" not in reason


async def test_run_plugin_gives_the_install_hint_of_a_missing_program(tmp_path: Path) -> None:
    entry = plugin(tmp_path, "", command="no-such-plugin-anywhere", install_hint="brew install it")

    assert "brew install it" in await refusal(entry)


@pytest.mark.parametrize(
    "body",
    [
        "print('the-token')",
        printing({}),
        printing({"token": ""}),
        printing({"token": "the-token"}, kind="Other"),
        printing({"token": "the-token"}, apiVersion="client.authentication.k8s.io/v1beta1"),
        printing({"clientCertificateData": "the-token"}),
    ],
)
async def test_run_plugin_refuses_other_output_and_does_not_quote_it(
    tmp_path: Path, body: str
) -> None:
    reason = await refusal(plugin(tmp_path, body))

    assert "printed" in reason
    assert "the-token" not in reason


async def test_run_plugin_refuses_a_plugin_that_needs_a_terminal(tmp_path: Path) -> None:
    entry = plugin(tmp_path, printing({"token": "x"}), interactive_mode="Always")

    assert "terminal" in await refusal(entry)


HANGING = """
    import os, pathlib, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    path = pathlib.Path(__file__).with_name("pids")
    path.with_suffix(".part").write_text(f"{os.getpid()} {child.pid}")
    path.with_suffix(".part").replace(path)
    time.sleep(600)
"""


def is_running(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def wait_until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("by", ["timeout", "cancellation"])
async def test_run_plugin_leaves_no_process_of_one_that_hangs(tmp_path: Path, by: str) -> None:
    entry = plugin(tmp_path, HANGING)
    running = asyncio.create_task(run_plugin(entry, None, 2.0 if by == "timeout" else 60.0))
    pids = tmp_path / "pids"
    await wait_until(lambda: pids.exists() or running.done())
    if by == "cancellation":
        running.cancel()

    (result,) = await asyncio.gather(running, return_exceptions=True)

    assert isinstance(result, UnreachableError | asyncio.CancelledError)
    for pid in map(int, pids.read_text().split()):
        assert pid != os.getpid()
        await wait_until(lambda pid=pid: not is_running(pid))
