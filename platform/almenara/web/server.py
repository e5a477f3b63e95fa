"""The server: uvicorn on a socket of our own, with deadlines, and a drain before shutdown."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any, Final

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from almenara.config import ServerSettings
from almenara.web.handshakes import IdleConnections, TlsAcceptor
from almenara.web.protocol import LiveProtocol, missing_attributes
from almenara.web.tls import tls_context

log = structlog.get_logger(__name__)

BACKLOG: Final = 2048
UNSENT_BYTES: Final = 65_536
"""Unsent bytes that the kernel buffers for a client."""
LARGEST_FRAME: Final = 16_384
PING_INTERVAL: Final = 20.0
PING_TIMEOUT: Final = 10.0
CLOSE_GRACE: Final = 1.0
"""Seconds in which uvicorn closes an idle connection properly before it is aborted."""


class PortTakenError(OSError):
    """The address to listen on is not available; the text has the reason and a remedy."""


def open_listener(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens on the configured address. Raises `PortTakenError`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Accepted connections inherit it: a client that stops reading is disconnected after
            # this time, where uvicorn would wait for its buffer for ever.
            sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.tcp_user_timeout * 1000)
            )
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Otherwise the kernel buffers megabytes for a client that does not read, and a slow
            # client would receive them before anything current.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        sock.bind((settings.host, settings.port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise PortTakenError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}."
            f" {_suggest_address(error)}"
        ) from None
    return sock


def _suggest_address(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "Set server.host to an address of this machine, or to 0.0.0.0 for all of them."
    if error.errno == errno.EACCES:
        return "Set server.port to 1024 or more, which needs no privileges."
    return "Stop the process that uses the port, or set server.port (0 lets the system choose)."


HEADERS_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


def deadline_protocol(
    settings: ServerSettings, idle: IdleConnections, max_intake_bytes: int
) -> type[HttpToolsProtocol]:
    """Return uvicorn's HTTP protocol with a deadline and a size limit for the headers of each
    request, and a limit of connections that wait for one."""
    largest_request = settings.max_header_bytes + max(settings.max_body_bytes, max_intake_bytes)

    class DeadlineHttpProtocol(HttpToolsProtocol):
        deadline: asyncio.TimerHandle | None = None
        is_kept_alive = False
        header_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.set_deadline(settings.header_timeout)

        def set_deadline(self, seconds: float, *, is_kept_alive: bool = False) -> None:
            self.clear_deadline()
            self.is_kept_alive, self.header_bytes = is_kept_alive, 0
            self.deadline = self.loop.call_later(seconds, self.transport.abort)
            idle.add(self, self.transport.abort)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self.deadline is None or self.is_kept_alive:
                self.set_deadline(settings.header_timeout)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            is_done = self.cycle.response_complete and not self.transport.is_closing()
            if is_done and self.deadline is None:
                # uvicorn closes silent connections. Line ends, or the rest of an unread body, are
                # not a request either, and each byte of them would extend its timeout.
                self.set_deadline(settings.keep_alive + CLOSE_GRACE, is_kept_alive=True)

        def data_received(self, data: bytes) -> None:
            if self.deadline is not None:
                # An upper bound, since a part of the body may be included.
                self.header_bytes += len(data)
                if self.header_bytes > largest_request:
                    self.transport.write(HEADERS_TOO_LARGE)
                    self.transport.close()
                    return
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self.clear_deadline()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self.clear_deadline()
            super().connection_lost(exc)

        def clear_deadline(self) -> None:
            idle.remove(self)
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return DeadlineHttpProtocol


class DrainingServer(uvicorn.Server):
    """Runs `drain` to its end after SIGTERM or SIGINT, before uvicorn shuts down."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: ServerSettings,
        idle: IdleConnections,
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._listeners: Sequence[socket.socket] = ()
        self._is_stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._acceptor = (
            TlsAcceptor(config.ssl, self._create_protocol, idle, settings.header_timeout)
            if config.ssl is not None
            else None
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is None:
            await super().startup(sockets=sockets)
            return
        await super().startup(sockets=[])
        self._listeners = sockets or ()

    def use_context(self, context: ssl.SSLContext) -> None:
        """Use another TLS context for new connections; open ones keep theirs."""
        if self._acceptor is not None:
            self._acceptor.context = context

    def _create_protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._is_stopping.is_set():
            # A second signal skips the drain.
            self.should_exit = True
            self.force_exit = True
        self._loop.call_soon_threadsafe(self._is_stopping.set)

    async def main_loop(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._drain_on_signal())]
            if self._acceptor is not None:
                tasks += [
                    group.create_task(self._acceptor.accept(listener))
                    for listener in self._listeners
                ]
            await super().main_loop()
            for task in tasks:
                task.cancel()

    async def _drain_on_signal(self) -> None:
        await self._is_stopping.wait()
        await self._drain()
        self.should_exit = True


def create_server(
    app: Any,
    settings: ServerSettings,
    drain: Callable[[], Awaitable[None]],
    max_intake_bytes: int = 0,
) -> DrainingServer:
    """Return the server of an application, ready to `serve(sockets=[open_listener(…)])`.

    `max_intake_bytes` is the largest body that senders may push.

    Raises `ConfigError` where the certificate is invalid.
    """
    tls = settings.tls
    if missing := missing_attributes():
        log.warning("unsupported uvicorn version; using the slower ASGI path",
                    uvicorn=uvicorn.__version__, missing=missing)  # fmt: skip
    idle = IdleConnections(settings.max_idle_connections)
    config = uvicorn.Config(
        app,
        ssl_context_factory=(lambda *_: tls_context(tls)) if tls is not None else None,
        http=deadline_protocol(settings, idle, max_intake_bytes),
        ws="auto" if missing else LiveProtocol,
        ws_max_size=LARGEST_FRAME,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=PING_TIMEOUT,
        # `web.protocol` compresses instead, without a context for each socket.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]
        server_header=False,
        access_log=False,
        log_config=None,
        lifespan="off",
        proxy_headers=False,
    )
    # Loaded now, so that an invalid certificate is reported before any source runs.
    config.load()
    return DrainingServer(config, settings, idle, drain)
