"""HTTP clients for sources: the system's trust store, bounded name look-ups, and proxies.

Needs httpx, which is an optional dependency: import this module only where a request is made.
"""

import asyncio
import contextlib
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from socket import AF_UNSPEC, SOCK_STREAM, getaddrinfo
from typing import Any, Final, NamedTuple, TypeVar

import httpcore
import httpx

from almenara.config import Secret
from almenara.errors import Unavailable, describe_error
from almenara.sdk.proxies import find_proxy
from almenara.sdk.servers import find_cause

E = TypeVar("E", bound=BaseException)
LOOKUPS: Final = 64
"""Name look-ups at the same time; a hanging resolver holds each of them for minutes."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
REFUSALS: Final = (
    "unknown ca", "certificate expired", "certificate revoked", "certificate unknown",
    "bad certificate", "unsupported certificate", "access denied",
)  # fmt: skip
"""Alerts of TLS with which a server refuses a client certificate: RFC 8446, section 6.2."""


class ClientCertificate(NamedTuple):
    """The certificate that a client presents."""

    certificate: Path
    key: Path | None = None
    """None where the file of the certificate contains the key."""
    password: Secret | None = None
    """Of an encrypted key."""


Stamp = tuple[tuple[int, int], ...]
_contexts: dict[
    tuple[Path | None, bool, ClientCertificate | None, bool], tuple[Stamp, ssl.SSLContext]
] = {}


def trust_context(
    ca: Path | None = None,
    *,
    verify: bool = True,
    client: ClientCertificate | None = None,
    http2: bool = False,
) -> ssl.SSLContext:
    """A TLS context for clients: the authorities in the file `ca`, or those of the system.

    The system's are those of OpenSSL, so that `SSL_CERT_FILE` and `SSL_CERT_DIR` apply. Loading
    them takes some 30 ms of processor, so a context is shared until one of its files changes. One
    for HTTP/2 is separate, as httpcore sets the protocols to offer in the context. Raises `OSError`
    naming the file.
    """
    files = [(ca, "ca")] if ca is not None else []
    if client is not None:
        files += [(client.certificate, "certificate")]
        files += [(client.key, "key")] if client.key is not None else []
    stamp = tuple(_stamp(path, setting) for path, setting in files)
    cached = _contexts.get((ca, verify, client, http2))
    if cached is not None and cached[0] == stamp:
        return cached[1]
    context = _load_context(ca, verify)
    if client is not None:
        _load_client_certificate(context, client)
    _contexts[ca, verify, client, http2] = stamp, context
    return context


def _stamp(path: Path, setting: str) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise OSError(f"the file {path} ({setting}) cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_size


def _load_client_certificate(context: ssl.SSLContext, client: ClientCertificate) -> None:
    is_encrypted = False

    def read_password() -> str:
        nonlocal is_encrypted
        is_encrypted = True
        # Without this, OpenSSL would wait for a password on the terminal.
        if client.password is None:
            raise OSError(f"the key in {client.key or client.certificate} is encrypted, and has no"
                          " password (key_password)")  # fmt: skip
        return client.password.reveal()

    files = f"{client.certificate}{f' and {client.key}' if client.key else ''}"
    try:
        context.load_cert_chain(client.certificate, client.key, read_password)
    except ssl.SSLError as error:
        reason = describe_error(error)
        if error.reason == "KEY_VALUES_MISMATCH":
            reason = "the key is of another certificate"
        elif is_encrypted:
            reason = "the password of the key is wrong"
        elif "PEM lib" in reason:
            reason = "a certificate and a private key are expected, in PEM format"
    else:
        return
    # Outside of the handler: an error of TLS behind this one would be taken for its cause.
    raise OSError(f"the client certificate in {files} cannot be used: {reason}")


def _load_context(ca: Path | None, verify: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca is not None else None)
    except (OSError, ValueError) as error:
        raise OSError(f"the file {ca} (ca) cannot be read: {describe_error(error)}") from None
    places = ssl.get_default_verify_paths()
    if ca is None and not (places.cafile or places.capath):
        # A minimal image without ca-certificates; httpx brings a copy of Mozilla's authorities.
        import certifi

        context.load_verify_locations(certifi.where())
    if not verify:
        context.check_hostname = False  # nosemgrep: certificate-not-checked # set by name
        context.verify_mode = ssl.CERT_NONE  # nosemgrep: certificate-not-checked # set by name
    return context


class Resolver:
    """Resolves host names in threads of their own.

    The event loop's own resolver shares a handful of threads: a few names whose servers do not
    answer keep every other name from being resolved. Here a name that hangs holds one thread, which
    all requests for that name share, and the number of threads is bounded.
    """

    def __init__(self, limit: int = LOOKUPS) -> None:
        self.limit = limit
        self._running: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of a host. Raises `OSError`, and `Unavailable` at the limit."""
        if _is_address(host):
            return [host]
        future = self._running.get((host, port))
        if future is None:
            if len(self._running) >= self.limit:
                raise Unavailable(
                    f"{len(self._running)} names are being looked up and do not answer; check the"
                    " name servers of this machine"
                )
            future = self._start(host, port)
        return await asyncio.shield(future)

    def _start(self, host: str, port: int) -> "asyncio.Future[list[str]]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()
        # Every waiter may have timed out by then; the error is theirs, not an unhandled one.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._running[host, port] = future

        def finish(addresses: list[str], error: OSError | None) -> None:
            self._running.pop((host, port), None)
            if not future.done():
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(addresses)

        def look_up() -> None:
            addresses: list[str] = []
            failure: OSError | None = None
            try:
                entries = getaddrinfo(host, port, AF_UNSPEC, SOCK_STREAM)
                addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
            except OSError as error:
                failure = error
            except UnicodeError:
                failure = OSError(f"{host[:80]!r} is not a valid host name")
            # The loop may have been closed while the look-up was hanging.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, addresses, failure)

        threading.Thread(target=look_up, name=f"resolve {host[:40]}", daemon=True).start()
        return future


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class _Backend(httpcore.AsyncNetworkBackend):
    """Connects to resolved addresses, one after another."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the signature of httpcore
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        end = None if timeout is None else time.monotonic() + timeout
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolver.resolve(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"{host} could not be resolved in time") from None
        except (OSError, Unavailable) as error:
            reason = describe_error(error)
            raise httpcore.ConnectError(f"{host} cannot be resolved: {reason}") from error
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            left = None if end is None else max(end - time.monotonic(), 0.001)
            try:
                return await self._inner.connect_tcp(
                    address, port, left, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def environment_proxy(url: str) -> str | None:
    """The proxy for a URL by `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`; or None."""
    return find_proxy(url, use_all=True) or None


def is_same_server(own: httpx.URL, other: httpx.URL) -> bool:
    """Whether credentials for one URL may be sent to another: scheme, host and port are equal, or
    https of the same host takes the place of its http."""
    if own.host != other.host:
        return False
    one, two = ((url.scheme, url.port or DEFAULT_PORTS.get(url.scheme)) for url in (own, other))
    return one == two or (one, two) == (("http", 80), ("https", 443))


class _OwnServerTransport(httpx.AsyncBaseTransport):
    """Presents a client certificate to the server of one URL, and to no other."""

    def __init__(
        self, url: str, own: httpx.AsyncBaseTransport, other: httpx.AsyncBaseTransport
    ) -> None:
        self._url, self._own, self._other = httpx.URL(url), own, other

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        is_own = is_same_server(self._url, request.url)
        return await (self._own if is_own else self._other).handle_async_request(request)

    async def aclose(self) -> None:
        await self._own.aclose()
        await self._other.aclose()


def create_transport(
    context: ssl.SSLContext,
    *,
    proxy: str | httpx.Proxy | None = None,
    resolver: Resolver | None = None,
    limits: httpx.Limits | None = None,
    http2: bool = False,
) -> httpx.AsyncHTTPTransport:
    """A transport of httpx whose name look-ups are bounded; through a proxy where one is named."""
    transport = httpx.AsyncHTTPTransport(
        verify=context, trust_env=False, limits=limits or httpx.Limits(), proxy=proxy, http2=http2
    )
    # httpx offers no way to pass a network backend; a test holds that it is used.
    transport._pool._network_backend = _Backend(resolver or Resolver())
    return transport


def create_client(
    url: str,
    *,
    ca: Path | None = None,
    verify: bool = True,
    client: ClientCertificate | None = None,
    resolver: Resolver | None = None,
    proxy: str | httpx.Proxy | None = None,
    use_environment: bool = True,
    limits: httpx.Limits | None = None,
    http2: bool = False,
    **options: Any,
) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` for requests to `url`; `options` are those of httpx.

    A source with many clients passes one `resolver` to all of them, which bounds its look-ups.
    A `client` certificate is presented to the server of `url` only. `proxy` goes before that of the
    environment; with an empty one no proxy is used. HTTP/2 is offered with `http2` and needs the
    package h2.
    Raises `OSError` where the file `ca` or one of the client certificate cannot be read.
    """
    if proxy is None and use_environment:
        proxy = environment_proxy(url)
    resolver = resolver or Resolver()

    def connect(certificate: ClientCertificate | None) -> httpx.AsyncHTTPTransport:
        context = trust_context(ca, verify=verify, client=certificate, http2=http2)
        return create_transport(
            context, proxy=proxy or None, resolver=resolver, limits=limits, http2=http2
        )

    transport: httpx.AsyncBaseTransport = connect(client)
    if client is not None:
        transport = _OwnServerTransport(url, transport, connect(None))
    return httpx.AsyncClient(  # nosemgrep: client-without-limits # the defaults of httpx
        transport=transport, trust_env=False, **options
    )


def describe_http_error(error: Exception, timeout: float, *, has_certificate: bool = False) -> str:
    """Why a request failed, in one line for the person who configured it; `has_certificate` is
    whether a client certificate was presented."""
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return describe_error(error) if str(error) else f"no connection within {timeout:g} s"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout:g} s"
    if find_cause(error, ConnectionRefusedError) is not None:
        return "the connection is refused; nothing listens on this port"
    text = describe_error(find_cause(error, ssl.SSLError) or error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        _, _, reason = text.partition("certificate verify failed: ")
        return f"the certificate is not valid: {(reason or text).partition(' (_ssl')[0]}"
    if isinstance(error, httpx.ProxyError):
        return f"the proxy refuses to connect: {text}"
    if "CERTIFICATE_REQUIRED" in text or "certificate required" in text:
        return "the server requires a client certificate"
    if (alert := next((name for name in REFUSALS if f"alert {name}" in text), None)) is not None:
        return f"the server does not accept the client certificate: {alert}"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "the server does not speak TLS; use http://"
    if isinstance(error, httpx.ReadError | httpx.RemoteProtocolError) and not str(error):
        # A server that wants a client certificate may reset the connection before its alert is
        # read.
        hint = ""
        if error.request.url.scheme == "https":
            verb = "not accept the" if has_certificate else "require a"
            hint = f"; it may {verb} client certificate"
        return f"the server closed the connection without a response{hint}"
    return text
