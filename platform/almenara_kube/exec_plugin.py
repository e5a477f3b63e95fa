"""Exec plugins: programs named by a kubeconfig that print credentials.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

import asyncio
import base64
import contextlib
import os
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara_kube.errors import UnreachableError
from almenara_kube.kubeconfig import Cluster, Entry, ExecConfig
from almenara_kube.objects import DECODE_ERRORS

TIMEOUT: Final = 60.0
"""Seconds that a plugin may run: signing in to a cloud takes longer than a request."""
LONGEST_OUTPUT: Final = 1024**2
LONGEST_MESSAGE: Final = 300
CLUSTER_EXTENSION: Final = "client.authentication.k8s.io/exec"
API_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class ExecStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The credentials that a plugin printed."""

    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: str | None = None

    @property
    def expires(self) -> float | None:
        """Seconds since the epoch; None where the plugin set no end."""
        if not self.expiration_timestamp:
            return None
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(self.expiration_timestamp)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return None


class _Output(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: ExecStatus | None = None


async def run_plugin(entry: Entry, ca: bytes | None, timeout: float = TIMEOUT) -> ExecStatus:  # noqa: ASYNC109 # the process is killed at its end
    """Run the exec plugin of a kubeconfig entry and return what it printed.

    The process is killed, with its children, after `timeout` seconds and on cancellation. Raises
    `UnreachableError` with the end of what it wrote to standard error.
    """
    config = entry.user.exec
    if config is None:
        raise UnreachableError("the kubeconfig has no exec plugin for this user")
    name = Path(config.command).name
    if config.interactive_mode == "Always":
        raise UnreachableError(
            f"the exec plugin {name} needs a terminal (interactiveMode: Always), which a server"
            " does not have"
        )
    if config.api_version not in API_VERSIONS:
        raise UnreachableError(
            f"the exec plugin {name} has apiVersion {config.api_version!r}; supported:"
            f" {', '.join(API_VERSIONS)}"
        )
    stdout = await _run(name, entry, config, _environment(config, entry.cluster, ca), timeout)
    try:
        output = msgspec.json.decode(stdout, type=_Output)
    except DECODE_ERRORS:
        # What it printed may hold a token, so it is not quoted.
        raise UnreachableError(f"the exec plugin {name} printed no ExecCredential") from None
    if output.kind != "ExecCredential" or output.status is None:
        raise UnreachableError(f"the exec plugin {name} printed no ExecCredential with a status")
    if output.api_version != config.api_version:
        raise UnreachableError(
            f"the exec plugin {name} printed apiVersion {output.api_version[:80]!r}; the"
            f" kubeconfig has {config.api_version!r}"
        )
    status = output.status
    if not status.token and not (status.client_certificate_data and status.client_key_data):
        raise UnreachableError(
            f"the exec plugin {name} printed neither a token nor a certificate with its key"
        )
    return status


async def _run(
    name: str,
    entry: Entry,
    config: ExecConfig,
    environment: Mapping[str, str],
    timeout: float,  # noqa: ASYNC109 # the process is killed at its end
) -> bytes:
    command = config.command
    if os.sep in command:
        # Relative to the folder of the kubeconfig, as in client-go.
        command = str(entry.user_folder / command)
    try:
        process = await asyncio.create_subprocess_exec(
            command, *config.args, env=environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        hint = f"; {' '.join(config.install_hint.split())}" if config.install_hint else ""
        reason = error.strerror or type(error).__name__
        raise UnreachableError(
            f"the exec plugin {config.command} cannot be started: {reason}{hint}"
        ) from None
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        await _kill(process)
        raise UnreachableError(
            f"the exec plugin {name} did not finish within {timeout:g} s and was killed"
        ) from None
    except BaseException:
        await _kill(process)
        raise
    if process.returncode != 0:
        wrote = " ".join(stderr[-LONGEST_OUTPUT:].decode("utf-8", "replace").split())
        raise UnreachableError(
            f"the exec plugin {name} failed with exit code {process.returncode}:"
            f" {wrote[-LONGEST_MESSAGE:] or 'it wrote nothing to standard error'}"
        )
    return stdout[:LONGEST_OUTPUT]


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process and its children, which may run on after it."""
    # It started a session, so its group has its own id.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        await asyncio.shield(process.wait())


def _environment(config: ExecConfig, cluster: Cluster, ca: bytes | None) -> dict[str, str]:
    spec: dict[str, Any] = {"interactive": False}
    if config.provide_cluster_info:
        info: dict[str, Any] = {
            "server": cluster.server,
            "tls-server-name": cluster.tls_server_name,
            "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
            "certificate-authority-data": base64.b64encode(ca).decode() if ca else "",
            "proxy-url": cluster.proxy_url,
            "config": next(
                (
                    extension.extension
                    for extension in cluster.extensions
                    if extension.name == CLUSTER_EXTENSION
                ),
                None,
            ),
        }
        spec["cluster"] = {key: value for key, value in info.items() if value}
    exec_info = {"apiVersion": config.api_version, "kind": "ExecCredential", "spec": spec}
    return {
        **os.environ,
        **{variable.name: variable.value for variable in config.env},
        "KUBERNETES_EXEC_INFO": msgspec.json.encode(exec_info).decode(),
    }
