"""The transport of requests to an API server: sockets, answers and what goes wrong with them."""

import asyncio
import contextlib
import functools
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp.client_proto import ResponseHandler

from almenara.sdk import describe_error, monotonic
from almenara_kube.errors import ApiError, SilentError, UnreachableError
from almenara_kube.objects import DECODE_ERRORS
from almenara_kube.socks import SocksConnector, is_socks

LONGEST_ERROR: Final = 65_536
LONGEST_HEAD: Final = 1024**2
"""Bytes of a status line and headers."""
LONGEST_ANSWER: Final = 64 * 1024**2
"""Bytes of a decompressed answer that is not a watch; a page of a list is a tenth of it."""
REFUSAL_TIMEOUT: Final = 5.0
KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
)


class _Status(msgspec.Struct):
    """https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/"""

    kind: str
    message: str = ""
    reason: str = ""
    code: int = 0


class AnswerTooLongError(UnreachableError):
    """An answer has more bytes than are read; a smaller page may fit."""


class ResponseStream:
    """The answer of a watch or a log, as it arrives."""

    def __init__(self, response: aiohttp.ClientResponse, silence: float | None) -> None:
        self.response, self.last_data = response, monotonic()
        self.silence = silence
        """Seconds without data after which the connection counts as dead; None for no limit."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they arrive. Raises `UnreachableError` where the connection breaks or
        nothing arrives for too long."""
        content = self.response.content
        try:
            while True:
                async with asyncio.timeout(self.silence):
                    chunk = await content.readany()
                if not chunk:
                    return
                self.last_data = monotonic()
                yield chunk
        except TimeoutError:
            raise SilentError(f"nothing arrived for {self.silence:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(
                f"the connection broke: {describe_transport_error(error)}"
            ) from None


class _BoundedHandler(ResponseHandler):
    """Closes a connection whose response has more than `LONGEST_HEAD` bytes of headers.

    The parser bounds each header, except for the white space in front of its value.
    """

    _head: int | None = None
    """Bytes since the request, while the headers are incomplete."""

    def set_response_params(self, **parameters: Any) -> None:
        self._head = 0
        super().set_response_params(**parameters)

    def feed_data(self, data: Any, size: int = 0) -> None:
        self._head = None
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is None:
            return
        self._head += len(data)
        if self._head > LONGEST_HEAD and self.transport is not None:
            self.set_exception(
                aiohttp.ClientPayloadError(f"the headers are longer than {LONGEST_HEAD:,} bytes")
            )
            self.transport.abort()


def make_session(context: ssl.SSLContext, proxy: str) -> aiohttp.ClientSession:
    """A pool of connections; a request never waits for one of them. A proxy over HTTP is that of
    each request instead."""
    options: dict[str, Any] = {"limit": 0, "ssl": context, "keepalive_timeout": 30}
    connector = (
        SocksConnector(proxy, **options)
        if is_socks(proxy)
        else aiohttp.TCPConnector(socket_factory=_make_socket, **options)
    )
    # aiohttp has no public way to choose the protocol of its connections.
    factory: functools.partial[Any] = functools.partial(
        _BoundedHandler, loop=asyncio.get_running_loop()
    )
    connector._factory = factory
    return aiohttp.ClientSession(
        connector=connector, trust_env=False, headers={"user-agent": "almenara-kubernetes"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )  # fmt: skip


def _make_socket(address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    for level, option, value in KEEPALIVE:
        made.setsockopt(level, option, value)
    return made


async def read_whole(response: aiohttp.ClientResponse, longest: int | None = None) -> bytes:
    """The whole body, of at most `longest` bytes, or `LONGEST_ANSWER`.

    Raises `AnswerTooLongError`, and what the HTTP library raises.
    """
    parts: list[bytes] = []
    size, longest = 0, longest or LONGEST_ANSWER
    async for part in response.content.iter_any():
        size += len(part)
        if size > longest:
            response.close()
            raise AnswerTooLongError(f"an answer is longer than {longest:,} bytes")
        parts.append(part)
    return b"".join(parts)


async def read_refusal(response: aiohttp.ClientResponse) -> ApiError:
    """The error that an answer is. Its reason is empty where it is not a Kubernetes `Status`."""
    body = b""
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(REFUSAL_TIMEOUT):
            body = await response.content.read(LONGEST_ERROR)
    response.release()
    try:
        status = msgspec.json.decode(body, type=_Status)
    except DECODE_ERRORS:
        # A page of a proxy says nothing in its first characters; a plain line does.
        text = f"it answers {response.status}"
        if response.content_type == "text/plain" and body:
            text += f": {' '.join(body[:200].decode('utf-8', 'replace').split())}"
        elif response.status < 400:
            text += ", a redirect"
        elif body:
            text += f" with {response.content_type[:40]}"
        return ApiError(response.status, "", text)
    text = status.message or f"it answers {response.status}"
    return ApiError(response.status, status.reason or "Unknown", text[:500])


def describe_transport_error(error: BaseException) -> str:
    """A failure on the way to the server in one line, without a proxy's password."""
    match error:
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answers {error.status}"
        case aiohttp.ClientProxyConnectionError():
            return f"the proxy cannot be reached: {describe_os_error(error.os_error)}"
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not trusted: {describe_tls_error(error.certificate_error)}"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {error.host} cannot be resolved"
        case aiohttp.ClientConnectorError():
            return describe_os_error(error.os_error)
        case aiohttp.InvalidURL() | ValueError():
            # The text quotes the address, and a proxy's address may hold a password.
            return "its address or that of its proxy is not a URL"
        case OSError():
            return describe_os_error(error)
    return describe_error(error)


def describe_os_error(error: OSError) -> str:
    """The message of the operating system, or of TLS, without numbers."""
    if isinstance(error, ssl.SSLError):
        return describe_tls_error(error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if error.errno is not None and error.errno > 0:
        # asyncio puts the address there, which is in the message already.
        return os.strerror(error.errno)
    return error.strerror or describe_error(error)


def describe_tls_error(error: BaseException) -> str:
    """What is wrong with TLS, without the source line of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return describe_error(error)
