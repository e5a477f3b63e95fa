"""Where an API server is, and what authenticates a client there.

Loaded again and again: tokens in files are replaced, exec plugins and OIDC tokens expire.
"""

import asyncio
import base64
import contextlib
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit
from weakref import WeakKeyDictionary, WeakValueDictionary

import msgspec

from almenara.sdk import blocking, now
from almenara.sdk.proxies import find_proxy
from almenara.units import SECOND
from almenara_kube.errors import UnreachableError
from almenara_kube.exec_plugin import ExecStatus, run_plugin
from almenara_kube.kubeconfig import Entry, User, read_entry
from almenara_kube.oidc import EARLY, IdToken, read_id_token, refresh_id_token
from almenara_kube.settings import KubeContext
from almenara_kube.tls import TlsConfig

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes mounts the token of a pod's ServiceAccount and the authority to trust."""
REMOVED_PROVIDERS: Final[Mapping[str, str]] = {
    "gcp": "use the exec plugin gke-gcloud-auth-plugin",
    "azure": "use the exec plugin kubelogin",
}
RENEWED_BEFORE: Final = 60.0
"""Seconds before the end of credentials at which they are renewed."""
PROXY_SCHEMES: Final = ("http", "https", "socks5", "socks5h")
Headers = tuple[tuple[str, str], ...]


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Where an API server is, and what authenticates a client there. All of it is in memory."""

    server: str
    """Address without a slash at the end, with the path of a proxy where there is one."""
    authorization: str = ""
    """Value of the header; empty for a client certificate or no credentials at all."""
    headers: Headers = ()
    """Further headers: those of an impersonation."""
    tls: TlsConfig = TlsConfig()
    server_name: str = ""
    """The name to verify the server's certificate for, instead of that in the address."""
    proxy: str = ""
    namespace: str = ""
    """The namespace of the context or the pod; empty where it has none."""
    expires: float | None = None
    """Seconds since the epoch; None where nothing says when they end."""
    is_costly: bool = False
    """Whether loading them runs a program or sends a request to another server."""

    def expires_within(self, seconds: float) -> bool:
        """Whether they end within so many seconds."""
        return self.expires is not None and self.expires - now() / SECOND < seconds

    @property
    def address(self) -> str:
        """The server's address as it may be displayed, without a user and password in it."""
        scheme, _, rest = self.server.partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


class CredentialLoader:
    """Loads the credentials of a cluster for all its clients in an event loop.

    What a program or an issuer returned is shared between them until it expires or is refused, so
    that viewers who open logs do not each run the exec plugin.
    """

    def __init__(self, context: KubeContext) -> None:
        self.context = context
        self.users = 0
        """Clients that are open."""
        self._lock = asyncio.Lock()
        self._plugin: tuple[Entry, ExecStatus] | None = None
        self._id_token: IdToken | None = None

    def release(self) -> None:
        """Note that a client was closed; the last one leaves nothing behind."""
        self.users -= 1
        if self.users == 0:
            self._plugin = None

    async def load(self, refused: Credentials | None = None) -> Credentials:
        """Return the credentials that are valid now, and other ones than were refused, if there are
        any; may run an exec plugin.

        Raises `UnreachableError`, whose text never contains a value of a kubeconfig.
        """
        if self.context.is_in_cluster:
            return await blocking(read_configured)
        entry = await blocking(lambda: read_entry(self.context))
        credentials = await blocking(lambda: _from_entry(entry))
        if entry.user.exec is None and entry.user.auth_provider is None:
            return credentials
        # One plugin at a time: whoever waits here takes what the one before got.
        async with self._lock:
            if entry.user.exec is not None:
                return await self._load_by_plugin(entry, credentials, refused)
            token = await self._refresh(entry)
        return msgspec.structs.replace(
            credentials, authorization=f"Bearer {token.text}", expires=token.expires,
            is_costly=True,
        )  # fmt: skip

    async def _load_by_plugin(
        self, entry: Entry, credentials: Credentials, refused: Credentials | None
    ) -> Credentials:
        known = self._plugin
        if known is not None and known[0] == entry:
            loaded = _with_plugin(credentials, known[1])
            if loaded != refused and not loaded.expires_within(RENEWED_BEFORE):
                return loaded
        self._plugin = None
        status = await run_plugin(entry, credentials.tls.ca)
        self._plugin = entry, status
        return _with_plugin(credentials, status)

    async def _refresh(self, entry: Entry) -> IdToken:
        provider = entry.user.auth_provider
        if provider is None or provider.name != "oidc":
            name = provider.name if provider is not None else ""
            remedy = REMOVED_PROVIDERS.get(name, "use an exec plugin")
            raise UnreachableError(f"the auth-provider {name!r} is not supported; {remedy}")
        known = [token for token in (self._id_token, read_id_token(provider)) if token is not None]
        token = max(known, key=lambda candidate: candidate.expires, default=None)
        if token is None or token.expires - EARLY <= now() / SECOND:
            refresh_token = token.refresh_token if token is not None else ""
            token = await refresh_id_token(
                provider, entry.user_folder,
                refresh_token or provider.config.get("refresh-token", ""),
            )  # fmt: skip
        self._id_token = token
        return token


_loaders: MutableMapping[
    asyncio.AbstractEventLoop, MutableMapping[KubeContext, CredentialLoader]
] = WeakKeyDictionary()


def shared_loader(context: KubeContext) -> CredentialLoader:
    """The loader of a cluster in the running event loop, for a client that releases it when it is
    closed."""
    loaders = _loaders.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    loader = loaders.get(context)
    if loader is None:
        loader = loaders[context] = CredentialLoader(context)
    loader.users += 1
    return loader


def read_configured(
    server: str = "",
    *,
    token: str = "",
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> Credentials:
    """Credentials for an address and files; blocks.

    Without a server they are those of the pod that Almenara runs in, except for what is passed.
    Raises `UnreachableError`.
    """
    bearer = _bearer(token.encode(), "the configured token") if token else ""
    namespace = ""
    if not server:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            namespace = (SERVICE_ACCOUNT / "namespace").read_text("utf-8").strip()
        server = _pod_server()
        ca = ca or SERVICE_ACCOUNT / "ca.crt"
        if not bearer and certificate is None:
            what = "the token of the ServiceAccount of this pod"
            bearer = _bearer(_read_file(SERVICE_ACCOUNT / "token", what), what)
    return Credentials(
        server=server.rstrip("/"),
        proxy=_proxy(server, ""),
        namespace=namespace,
        authorization=bearer,
        tls=TlsConfig(
            ca=_read_optional(ca, "the certificate authority"),
            certificate=_read_optional(certificate, "the client certificate"),
            key=_read_optional(key, "the client key"),
        ),
    )


def _pod_server() -> str:
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "") or "443"
    return f"https://{f'[{host}]' if ':' in host else host}:{port}"


def _read_optional(path: Path | None, what: str) -> bytes | None:
    return None if path is None else _read_file(path, what)


def _from_entry(entry: Entry) -> Credentials:
    """The credentials of a kubeconfig, without those that a program or an issuer adds."""
    cluster, user = entry.cluster, entry.user
    server = cluster.server if "://" in cluster.server else f"https://{cluster.server}"
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UnreachableError("the server of the kubeconfig's cluster is not an https:// address")
    return Credentials(
        server=server.rstrip("/"),
        authorization=_authorization(user, entry.user_folder),
        headers=_impersonation(user),
        tls=TlsConfig(
            ca=_content(
                cluster.certificate_authority_data, cluster.certificate_authority,
                entry.cluster_folder, "certificate-authority",
            ),
            certificate=_content(
                user.client_certificate_data, user.client_certificate,
                entry.user_folder, "client-certificate",
            ),
            key=_content(
                user.client_key_data, user.client_key, entry.user_folder, "client-key"
            ),
            verify=not cluster.insecure_skip_tls_verify,
        ),
        server_name=cluster.tls_server_name,
        proxy=_proxy(server, cluster.proxy_url),
        namespace=entry.namespace,
    )  # fmt: skip


def _proxy(server: str, configured: str) -> str:
    """The proxy to the server: that of the kubeconfig, or that of the environment."""
    proxy = configured or find_proxy(server)
    if proxy and urlsplit(proxy).scheme not in PROXY_SCHEMES:
        # The address may hold a password.
        name = "proxy-url of the kubeconfig" if configured else "proxy of the environment"
        raise UnreachableError(
            f"the {name} must begin with {', '.join(f'{scheme}://' for scheme in PROXY_SCHEMES)}"
        )
    return proxy


def _authorization(user: User, folder: Path) -> str:
    if user.token_file:
        token = _read_file(folder / Path(user.token_file).expanduser(), "the tokenFile")
        return _bearer(token, "the tokenFile")
    if user.token:
        return _bearer(user.token.encode(), "the token of the kubeconfig")
    if user.username or user.password:
        pair = f"{user.username}:{user.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"
    return ""


def _bearer(token: bytes, what: str) -> str:
    try:
        text = token.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    # A header cannot hold line breaks, and an error of the HTTP library would quote them.
    if not text or not text.isprintable():
        raise UnreachableError(f"{what} is empty or not a token")
    return f"Bearer {text}"


def _impersonation(user: User) -> Headers:
    """The headers of the user that requests are made as.

    https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation
    """
    if not user.as_:
        return ()
    headers: list[tuple[str, str]] = [("Impersonate-User", user.as_)]
    if user.as_uid:
        headers.append(("Impersonate-Uid", user.as_uid))
    headers += [("Impersonate-Group", group) for group in user.as_groups]
    headers += [
        (f"Impersonate-Extra-{quote(key, safe='')}", value)
        for key, values in user.as_user_extra.items()
        for value in values
    ]
    for _, value in headers:
        if not value.isprintable():
            raise UnreachableError("the user that the kubeconfig impersonates has line breaks")
    return tuple(headers)


def _with_plugin(credentials: Credentials, status: ExecStatus) -> Credentials:
    tls = credentials.tls
    if status.client_certificate_data and status.client_key_data:
        tls = msgspec.structs.replace(
            tls,
            certificate=status.client_certificate_data.encode(),
            key=status.client_key_data.encode(),
        )
    authorization = credentials.authorization
    if status.token:
        authorization = _bearer(status.token.encode(), "the token of the exec plugin")
    return msgspec.structs.replace(
        credentials, tls=tls, authorization=authorization, expires=status.expires, is_costly=True
    )


def _content(data: str, path: str, folder: Path, key: str) -> bytes | None:
    """What a key of the kubeconfig holds in itself (`<key>-data`) or in a file."""
    if data:
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except ValueError:
            raise UnreachableError(f"{key}-data of the kubeconfig is not base64") from None
    if path:
        return _read_file(folder / Path(path).expanduser(), f"the {key} of the kubeconfig")
    return None


def _read_file(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreachableError(f"{what} cannot be read from {path}: {reason}") from None


def describe_source(context: KubeContext) -> str:
    """What the credentials come from, for the person who reads a report."""
    return "the ServiceAccount of this pod" if context.is_in_cluster else "a kubeconfig"
