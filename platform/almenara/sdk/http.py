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
from typing import Any, Final, TypeVar

import httpcore
import httpx

from almenara.errors import Unavailable, describe_error
from almenara.sdk.proxies import find_proxy

E = TypeVar("E", bound=BaseException)
LOOKUPS: Final = 64
"""Name look-ups at the same time; a hanging resolver holds each of them for minutes."""

Stamp = tuple[int, int]
_contexts: dict[tuple[Path | None, bool], tuple[Stamp, ssl.SSLContext]] = {}


def trust_context(ca: Path | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """A TLS context for clients: the authorities in the file `ca`, or those of the system.

    The system's are those of OpenSSL, so that `SSL_CERT_FILE` and `SSL_CERT_DIR` apply. Loading
    them takes some 30 ms of processor, so a context is shared until its file changes. Raises
    `OSError` naming the file.
    """
    stamp = (0, 0)
    if ca is not None:
        try:
            status = ca.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError as error:
            raise OSError(f"the file {ca} (ca) cannot be read: {error.strerror}") from None
    cached = _contexts.get((ca, verify))
    if cached is not None and cached[0] == stamp:
        return cached[1]
    context = _load_context(ca, verify)
    _contexts[ca, verify] = stamp, context
    return context


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


def create_transport(
    context: ssl.SSLContext,
    *,
    proxy: str | None = None,
    resolver: Resolver | None = None,
    limits: httpx.Limits | None = None,
) -> httpx.AsyncHTTPTransport:
    """A transport of httpx whose name look-ups are bounded; through a proxy where one is named."""
    transport = httpx.AsyncHTTPTransport(
        verify=context, trust_env=False, limits=limits or httpx.Limits(), proxy=proxy
    )
    # httpx offers no way to pass a network backend; a test holds that it is used.
    transport._pool._network_backend = _Backend(resolver or Resolver())
    return transport


def create_client(
    url: str,
    *,
    ca: Path | None = None,
    verify: bool = True,
    resolver: Resolver | None = None,
    use_environment: bool = True,
    limits: httpx.Limits | None = None,
    **options: Any,
) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` for requests to `url`; `options` are those of httpx.

    A source with many clients passes one `resolver` to all of them, which bounds its look-ups.
    Raises `OSError` where the file `ca` cannot be read.
    """
    transport = create_transport(
        trust_context(ca, verify=verify),
        proxy=environment_proxy(url) if use_environment else None,
        resolver=resolver,
        limits=limits,
    )
    return httpx.AsyncClient(  # nosemgrep: client-without-limits # the defaults of httpx
        transport=transport, trust_env=False, **options
    )


def describe_http_error(error: Exception, timeout: float) -> str:
    """Why a request failed, in one line for the person who configured it."""
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return describe_error(error) if str(error) else f"no connection within {timeout:g} s"
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout:g} s"
    if _find_cause(error, ConnectionRefusedError) is not None:
        return "the connection is refused; nothing listens on this port"
    text = describe_error(_find_cause(error, ssl.SSLError) or error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        _, _, reason = text.partition("certificate verify failed: ")
        return f"the certificate is not valid: {(reason or text).partition(' (_ssl')[0]}"
    if "CERTIFICATE_REQUIRED" in text or "certificate required" in text:
        return "the server requires a client certificate"
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
        return "the server does not speak TLS; use http://"
    if isinstance(error, httpx.ReadError | httpx.RemoteProtocolError) and not str(error):
        # A server that wants a client certificate may reset the connection before its alert is
        # read.
        is_tls = error.request.url.scheme == "https"
        hint = "; it may require a client certificate" if is_tls else ""
        return f"the server closed the connection without a response{hint}"
    return text


def _find_cause(error: BaseException, kind: type[E]) -> E | None:
    """The first error of a kind among the causes of an error of httpx, which often has no text of
    its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, kind):
            return cause
        if isinstance(cause, BaseExceptionGroup):
            # One error for each address of a name.
            return next(filter(None, (_find_cause(each, kind) for each in cause.exceptions)), None)
        cause = cause.__cause__ or cause.__context__
    return None
