"""The server: uvicorn on our own listening socket, with deadlines, and a drain before it stops."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType
from typing import Any, Final

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from almenara.config import ServerSettings
from almenara.web.handshakes import HalfOpen, Handshakes
from almenara.web.protocol import LiveProtocol, lacking
from almenara.web.tls import tls_context

log = structlog.get_logger(__name__)

BACKLOG: Final = 2048
UNSENT: Final = 65_536
"""Bytes that the kernel may hold for a client besides those on their way."""
LARGEST_FRAME: Final = 16_384
PING_INTERVAL: Final = 20.0
PING_TIMEOUT: Final = 10.0
LEFT_TO_UVICORN: Final = 1.0
"""Seconds in which uvicorn closes a kept connection properly before it is dropped."""


class PortTakenError(OSError):
    """The address to listen on cannot be had; the text says why and what to do."""


def listening_socket(settings: ServerSettings) -> socket.socket:
    """A socket that listens where the settings say. Raises `PortTakenError`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Accepted connections inherit it: a client that stops reading is gone after this
            # long, where uvicorn would wait for its buffer for ever.
            sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.tcp_user_timeout * 1000)
            )
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # The kernel would hold megabytes for a client that does not read, and who is behind
            # would read them before anything current.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        sock.bind((settings.host, settings.port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise PortTakenError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. Stop"
            " what uses the port, or set server.port (0 lets the system choose)."
        ) from None
    return sock


TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


def deadline_protocol(settings: ServerSettings, half_open: HalfOpen) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with a deadline for the headers of each request, and a limit of their
    size and of the connections that are on their way to send them, or kept to send others."""

    class DeadlineHttpProtocol(HttpToolsProtocol):
        deadline: asyncio.TimerHandle | None = None
        kept = False
        header_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.wait(settings.header_timeout)

        def wait(self, seconds: float, *, kept: bool = False) -> None:
            self.forget_deadline()
            self.kept, self.header_bytes = kept, 0
            self.deadline = self.loop.call_later(seconds, self.transport.abort)
            half_open.add(self, self.transport.abort)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self.deadline is None or self.kept:
                self.wait(settings.header_timeout)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            done = self.cycle.response_complete and not self.transport.is_closing()
            if done and self.deadline is None:
                # uvicorn closes who is silent. Line ends, or what is left of a body that nobody
                # reads, are no request, and each byte of them would do for ever.
                self.wait(settings.keep_alive + LEFT_TO_UVICORN, kept=True)

        def data_received(self, data: bytes) -> None:
            if self.deadline is not None:
                # An upper bound: a part of the body may be in it already.
                self.header_bytes += len(data)
                if self.header_bytes > settings.max_header_bytes + settings.max_body_bytes:
                    self.transport.write(TOO_LARGE)
                    self.transport.close()
                    return
            super().data_received(data)

        def on_headers_complete(self) -> None:
            self.forget_deadline()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self.forget_deadline()
            super().connection_lost(exc)

        def forget_deadline(self) -> None:
            half_open.forget(self)
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return DeadlineHttpProtocol


class DrainingServer(uvicorn.Server):
    """Drains before it shuts down: told to stop, it first runs `drain` to its end."""

    def __init__(
        self,
        config: uvicorn.Config,
        settings: ServerSettings,
        half_open: HalfOpen,
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._listeners: Sequence[socket.socket] = ()
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._handshakes = (
            Handshakes(config.ssl, self._protocol, half_open, settings.header_timeout)
            if config.ssl is not None
            else None
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._handshakes is None:
            await super().startup(sockets=sockets)
            return
        await super().startup(sockets=[])
        self._listeners = sockets or ()

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Encrypt new connections with this; those there are go on with theirs."""
        if self._handshakes is not None:
            self._handshakes.context = context

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._told.is_set():
            # Told twice: whoever waits for us does not want to wait for the drain.
            self.should_exit = True
            self.force_exit = True
        self._loop.call_soon_threadsafe(self._told.set)

    async def main_loop(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._drain_when_told())]
            if self._handshakes is not None:
                tasks += [group.create_task(self._handshakes.accept(it)) for it in self._listeners]
            await super().main_loop()
            for it in tasks:
                it.cancel()

    async def _drain_when_told(self) -> None:
        await self._told.wait()
        await self._drain()
        self.should_exit = True


def server(
    app: Any, settings: ServerSettings, drain: Callable[[], Awaitable[None]]
) -> DrainingServer:
    """The server of an application, ready to `serve(sockets=[listening_socket(…)])`.

    Raises `ConfigError` where the certificate is no good.
    """
    tls = settings.tls
    if lacks := lacking():
        log.warning(
            "this uvicorn is another than the one known; live pages cost three times as much",
            uvicorn=uvicorn.__version__, lacks=lacks,
        )  # fmt: skip
    half_open = HalfOpen(settings.max_idle_connections)
    config = uvicorn.Config(
        app,
        ssl_context_factory=(lambda *_: tls_context(tls)) if tls is not None else None,
        http=deadline_protocol(settings, half_open),
        ws="auto" if lacks else LiveProtocol,
        ws_max_size=LARGEST_FRAME,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=PING_TIMEOUT,
        # Ours instead, without a context for each socket: see web/wire.py.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]
        server_header=False,
        access_log=False,
        log_config=None,
        lifespan="off",
        proxy_headers=False,
    )
    # Now, so that a bad certificate is told of before any source runs.
    config.load()
    return DrainingServer(config, settings, half_open, drain)
