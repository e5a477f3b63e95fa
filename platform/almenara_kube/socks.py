"""Connections through a SOCKS5 proxy, to which the names of hosts are passed unresolved.

RFC 1928 and, for a user and password, RFC 1929.
"""

import asyncio
import ipaddress
import socket
import ssl
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest

SCHEMES: Final = ("socks5", "socks5h")
DEFAULT_PORT: Final = 1080
VERSION: Final = 5
AUTH_VERSION: Final = 1
NO_AUTH: Final = 0
PASSWORD: Final = 2
CONNECT: Final = 1
IPV4: Final = 1
NAME: Final = 3
IPV6: Final = 4
REASONS: Final = {
    1: "a general failure", 2: "its rules forbid it", 3: "the network is unreachable",
    4: "the host is unreachable", 5: "the connection is refused", 6: "the connection expired",
    7: "it does not support the command", 8: "it does not support the kind of address",
}  # fmt: skip
UNRESOLVED: Final = "0.0.0.0"  # nosec B104  # noqa: S104 # never connected to


def is_socks(proxy: str) -> bool:
    """Whether the address of a proxy is one of SOCKS5."""
    return urlsplit(proxy).scheme in SCHEMES


class _NoResolver(AbstractResolver):
    """Leaves the resolution of names to the proxy."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host=UNRESOLVED, port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None: ...


class SocksConnector(aiohttp.TCPConnector):
    """Connects to every host through one SOCKS5 proxy."""

    def __init__(self, proxy: str, **options: Any) -> None:
        super().__init__(resolver=_NoResolver(), **options)
        self._proxy = urlsplit(proxy)

    async def _wrap_create_connection(  # type: ignore[override]
        self,
        *arguments: Any,
        req: ClientRequest,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 # the signature of aiohttp
        client_error: type[aiohttp.ClientConnectorError] = aiohttp.ClientConnectorError,
        addr_infos: object = None,
        **options: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        host, port = req.url.host or "", req.url.port or 443
        try:
            async with asyncio.timeout(timeout.sock_connect):
                sock = await open_tunnel(self._proxy, host, port)
                return await self._loop.create_connection(*arguments, **options, sock=sock)
        except ssl.CertificateError as error:
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError("no connection through the proxy") from None
        except OSError as error:
            raise client_error(req.connection_key, error) from error


async def open_tunnel(proxy: SplitResult, host: str, port: int) -> socket.socket:
    """A socket that is connected to a host through the proxy. Raises `OSError`, without the
    proxy's password."""
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(
        proxy.hostname or "", proxy.port or DEFAULT_PORT, type=socket.SOCK_STREAM
    )
    family, kind, protocol, _, address = addresses[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        await _authenticate(sock, proxy)
        await _connect(sock, host, port)
    except BaseException:
        sock.close()
        raise
    return sock


async def _authenticate(sock: socket.socket, proxy: SplitResult) -> None:
    loop = asyncio.get_running_loop()
    methods = bytes([NO_AUTH, PASSWORD] if proxy.username else [NO_AUTH])
    await loop.sock_sendall(sock, bytes([VERSION, len(methods)]) + methods)
    version, method = await _receive(sock, 2)
    if version != VERSION:
        raise OSError("the proxy does not speak SOCKS5")
    if method == NO_AUTH:
        return
    if method != PASSWORD or not proxy.username:
        raise OSError("the SOCKS5 proxy demands another kind of authentication")
    user, password = (
        unquote(text or "").encode()[:255] for text in (proxy.username, proxy.password)
    )
    await loop.sock_sendall(
        sock,
        bytes([AUTH_VERSION, len(user)]) + user + bytes([len(password)]) + password,
    )
    _, status = await _receive(sock, 2)
    if status != 0:
        raise OSError("the SOCKS5 proxy refuses the user or the password")


async def _connect(sock: socket.socket, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    request = bytes([VERSION, CONNECT, 0]) + _encode_host(host) + port.to_bytes(2, "big")
    await loop.sock_sendall(sock, request)
    _, status, _, kind = await _receive(sock, 4)
    if status != 0:
        reason = REASONS.get(status, f"error {status}")
        raise OSError(f"the SOCKS5 proxy does not connect to {host}: {reason}")
    # The address that the proxy connects from, which nothing here needs.
    length = {IPV4: 4, IPV6: 16}.get(kind)
    if length is None:
        (length,) = await _receive(sock, 1)
    await _receive(sock, length + 2)


def _encode_host(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return bytes([NAME, len(name)]) + name
    return bytes([IPV4 if address.version == 4 else IPV6]) + address.packed


async def _receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await asyncio.get_running_loop().sock_recv(sock, count - len(data))
        if not part:
            raise OSError("the SOCKS5 proxy closed the connection")
        data += part
    return data
