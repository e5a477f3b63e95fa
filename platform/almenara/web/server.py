"""The server: uvicorn on our own listening socket, with deadlines, and a drain before it stops."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from almenara.settings import ServerSettings
from almenara.web.wire import LiveProtocol

BACKLOG: Final = 2048
UNSENT: Final = 65_536
"""Bytes that the kernel may hold for a client besides those on their way."""
LARGEST_FRAME: Final = 16_384
PING_INTERVAL: Final = 20.0
PING_TIMEOUT: Final = 10.0


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
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(settings.user_timeout * 1000)
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


def deadline_protocol(seconds: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with a deadline for the headers of a connection's first request."""

    class DeadlineHttpProtocol(HttpToolsProtocol):
        deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.deadline = self.loop.call_later(seconds, transport.abort)

        def on_headers_complete(self) -> None:
            self.forget_deadline()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self.forget_deadline()
            super().connection_lost(exc)

        def forget_deadline(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return DeadlineHttpProtocol


class DrainingServer(uvicorn.Server):
    """Drains before it shuts down: told to stop, it first runs `drain` to its end."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._told.is_set():
            # Told twice: whoever waits for us does not want to wait for the drain.
            self.should_exit = True
            self.force_exit = True
        self._loop.call_soon_threadsafe(self._told.set)

    async def main_loop(self) -> None:
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(self._drain_when_told())
            await super().main_loop()
            draining.cancel()

    async def _drain_when_told(self) -> None:
        await self._told.wait()
        await self._drain()
        self.should_exit = True


def server(
    app: Any, settings: ServerSettings, drain: Callable[[], Awaitable[None]]
) -> DrainingServer:
    """The server of an application, ready to `serve(sockets=[listening_socket(…)])`."""
    config = uvicorn.Config(
        app,
        http=deadline_protocol(settings.header_timeout),
        ws=LiveProtocol,
        ws_max_size=LARGEST_FRAME,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=PING_TIMEOUT,
        # Ours instead, without a context for each socket: see web/wire.py.
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        timeout_keep_alive=30,
        server_header=False,
        access_log=False,
        log_config=None,
        lifespan="off",
        proxy_headers=False,
    )
    return DrainingServer(config, drain)
