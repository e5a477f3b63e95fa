"""Where a cluster's API server is and who we are there, as a kubeconfig or a pod has it."""

import asyncio
import contextlib
import logging
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara_kubernetes.settings import ClusterSettings

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts the token of a pod's ServiceAccount and the authority to trust."""


class UnreachableError(ConnectionError):
    """The API server could not be asked; the text says why and what to do."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Where an API server is and who we are there, as a kubeconfig or a pod has it."""

    host: str
    authorization: str
    ca: str | None
    certificate: str | None
    key: str | None
    verify: bool
    server_name: str | None
    proxy: str | None
    expires: float | None
    """Seconds since the epoch, where whoever made them said so."""
    costly: bool
    """Whether reading them runs a program."""

    def tls(self) -> tuple[object, ...]:
        """What a connection depends on, the contents of files included."""
        files = tuple(
            Path(path).read_bytes() if path else None
            for path in (self.ca, self.certificate, self.key)
        )
        return (*files, self.verify, self.proxy)


class _Listener(logging.Handler):
    """Hears what the official client says of a failed plugin: it logs that and goes on."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.heard.append(record.getMessage())


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    listener, source = _Listener(), logging.getLogger("kubernetes.aio.config.kube_config")
    propagates, source.propagate = source.propagate, False
    source.addHandler(listener)
    try:
        yield listener.heard
    finally:
        source.removeHandler(listener)
        source.propagate = propagates


def in_cluster(cluster: ClusterSettings) -> bool:
    """Whether we connect as the pod that we run in."""
    return (
        cluster.kubeconfig is None
        and not cluster.context
        and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
    )


def read_credentials(cluster: ClusterSettings) -> Credentials:
    """The credentials as they are now; blocks, and runs the exec plugin of a kubeconfig.

    Raises `UnreachableError`.
    """
    from kubernetes.aio.client import Configuration

    found: Any = Configuration()
    path = str(cluster.kubeconfig or "") or _default_kubeconfig()
    where = "the ServiceAccount of this pod" if in_cluster(cluster) else f"the kubeconfig {path}"
    heard, loader = list[str](), None
    try:
        if in_cluster(cluster):
            _read_account(found)
        else:
            loader, heard = _read_kubeconfig(found, path, cluster.context)
    except Exception as error:
        # What the client raises of a wrong file is of many kinds.
        raise UnreachableError(f"{where} cannot be used: {sentence(error)}") from None
    if heard:
        raise UnreachableError(f"{where} gives no credentials: {heard[-1]}")
    expiry = getattr(loader, "exec_plugin_expiry", None)
    user = getattr(loader, "_user", None)
    return Credentials(
        host=str(found.host).rstrip("/"),
        authorization=str(found.api_key.get("BearerToken", "")).strip(),
        ca=found.ssl_ca_cert,
        certificate=found.cert_file,
        key=found.key_file,
        verify=bool(found.verify_ssl),
        server_name=found.tls_server_name,
        proxy=found.proxy,
        expires=expiry.timestamp() if expiry is not None else None,
        costly=user is not None and "exec" in user,
    )


def _read_account(into: Any) -> None:
    from kubernetes.aio.config.incluster_config import InClusterConfigLoader

    loader: Any = InClusterConfigLoader
    loader(
        token_filename=str(ACCOUNT / "token"),
        cert_filename=str(ACCOUNT / "ca.crt"),
        try_refresh_token=False,
    ).load_and_set(into)


def _read_kubeconfig(into: Any, path: str, context: str) -> tuple[Any, list[str]]:
    """The loader, and what it complained of."""
    from kubernetes.aio import config

    if not any(Path(it).expanduser().is_file() for it in path.split(os.pathsep)):
        raise FileNotFoundError("there is no such file; set kubeconfig, or put it there")
    load: Any = config.load_kube_config
    with _listening() as heard:
        loader = asyncio.run(load(path, context or None, into, persist_config=False))
    return loader, heard


def _default_kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """The TLS context of credentials. Raises `OSError` and `ssl.SSLError`."""
    context = ssl.create_default_context(cafile=credentials.ca)
    if credentials.certificate:
        context.load_cert_chain(credentials.certificate, credentials.key)
    if not credentials.verify:
        # The kubeconfig says insecure-skip-tls-verify.
        context.check_hostname = False  # nosemgrep: certificate-not-checked
        context.verify_mode = ssl.CERT_NONE  # nosemgrep: certificate-not-checked
    return context


def sentence(error: BaseException) -> str:
    """An error in one line, with words where it has none."""
    text = " ".join(str(error).split())
    if isinstance(error, TimeoutError) and not text:
        return "no answer in time"
    return text or type(error).__name__
