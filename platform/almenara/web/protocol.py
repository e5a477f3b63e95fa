"""Sending frames to many WebSockets: each frame is encoded once, and its bytes are written.

Through ASGI every socket would encode, frame and copy every frame again, in a task of its own. So
channels write directly to uvicorn's WebSocket protocol (`LiveProtocol`); handshake, control frames
and incoming messages remain uvicorn's. With a uvicorn whose protocol differs, frames go through
ASGI at three times the cost (`AsgiPeer`).
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import uvicorn
from litestar import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets import http11
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame as WireFrame, Opcode
from websockets.http11 import Request

from almenara.live.frames import Frame
from almenara.live.outbox import Outbox

EXTENSION: Final = "almenara.peer"
DEFLATE: Final = ServerPerMessageDeflateFactory(
    # Without context takeover a compressed frame has the same bytes for every socket, and no socket
    # needs memory for a context.
    server_no_context_takeover=True,
    client_no_context_takeover=True,
)
SHARED: Final = PerMessageDeflate(True, True, 15, 15, {"level": 1})
USED_ATTRIBUTES: Final = (
    "close_sent", "conn", "connection_lost", "connection_made", "data_received", "disconnected",
    "handle_connect", "handshake_complete", "handshake_initiated", "loop", "on_task_complete",
    "pause_writing", "queue", "resume_writing", "send", "transport",
)  # fmt: skip
"""What `LiveProtocol` uses of uvicorn's protocol; none of it is a public interface."""
USED_CONN_ATTRIBUTES: Final = ("available_extensions", "data_to_send", "parser")
BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
# `server.max_url_bytes` and `server.max_header_bytes` limit the length already; a smaller limit of
# the library would leave a page without its WebSocket.
http11.MAX_LINE_LENGTH = 1_048_576
COMPRESSION_THRESHOLD: Final = 256
"""Bytes below which compression gains nothing."""


def encode_frame(frame: Frame, is_deflated: bool) -> bytes:
    """Return the bytes of a frame on the wire, encoded once for all sockets."""
    encoded = frame.packed.get(is_deflated)
    if encoded is None:
        data = frame.text.encode()
        extensions = [SHARED] if is_deflated and len(data) >= COMPRESSION_THRESHOLD else []
        encoded = WireFrame(Opcode.TEXT, data).serialize(mask=False, extensions=extensions)
        frame.packed[is_deflated] = encoded
    return encoded


class LiveProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, to which an outbox writes frames."""

    outbox: Outbox | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn.available_extensions = [DEFLATE]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Any data that the socket does not accept at once means that the browser is slow. Not 0:
        # with TLS even an empty buffer would exceed it, and every page would count as slow.
        self.transport.set_write_buffer_limits(high=1)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            # The request is complete, and websockets has refused it. uvicorn would neither send the
            # response nor close the connection, and would fail on it at shutdown.
            response = b"".join(self.conn.data_to_send())
            self.transport.write(response or BAD_REQUEST)
            self.handshake_complete = self.close_sent = True
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            # Scope extensions are ASGI's place for features of particular servers.
            extensions: dict[str, Any] = cast("dict[str, Any]", self.scope["extensions"])
            extensions[EXTENSION] = self

    def forget_handshake(self) -> None:
        """Free the headers of the handshake; the page may stay open for days."""
        for message in (self.request, self.response):
            message.headers.clear()
        self.scope["headers"] = []

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        # When thousands disconnect at once, leaving this to the garbage collector would stall all
        # other pages.
        self.scope.clear()  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.conn.parser.close()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # Otherwise uvicorn logs each refused handshake as an error of the application.
            self.handshake_complete = True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.outbox is not None and self.outbox.blocked_since is None:
            self.outbox.blocked_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.outbox is not None:
            self.outbox.blocked_since = None
            # Deferred, because the transport may be in the middle of a write.
            self.loop.call_soon(self.outbox.drained)

    @property
    def waiting(self) -> int:
        return self.transport.get_write_buffer_size()

    def write(self, frame: Frame) -> None:
        if not (self.close_sent or self.disconnected or self.transport.is_closing()):
            self.transport.write(encode_frame(frame, bool(self.conn.extensions)))

    def end(self) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1000, "reason": None})

    async def close(self, code: int, patience: float) -> None:
        """Send a close code; abort where the browser reads nothing for `patience` seconds."""
        # The connection may have ended already, and then there is nothing to report.
        with contextlib.suppress(Exception):
            try:
                async with asyncio.timeout(patience):
                    await self.send({"type": "websocket.close", "code": code, "reason": None})
            except TimeoutError:
                self.transport.abort()


def missing_attributes(protocol: type = WebSocketsSansIOProtocol) -> list[str]:
    """Return what `LiveProtocol` needs and this uvicorn lacks. Needs a running event loop."""
    config = uvicorn.Config(_unused_app, log_config=None, lifespan="off")
    try:
        instance = protocol(config, ServerState(), {}, asyncio.get_running_loop())
    except TypeError as error:
        return [f"{protocol.__name__}(config, server_state, app_state, loop): {error}"]
    present = {*dir(instance), *getattr(protocol, "__annotations__", ())}
    missing = [name for name in USED_ATTRIBUTES if name not in present]
    conn = getattr(instance, "conn", None)
    return missing + [f"conn.{name}" for name in USED_CONN_ATTRIBUTES if not hasattr(conn, name)]


async def _unused_app(scope: Any, receive: Any, send: Any) -> None:
    """An application that receives no request."""


class AsgiPeer:
    """Sends frames through ASGI, with a task for each browser.

    A client that stops reading is not disconnected at once; its connection ends after
    `server.tcp_user_timeout`.
    """

    def __init__(self, socket: WebSocket[Any, Any, Any]) -> None:
        self.outbox: Outbox | None = None
        self.waiting = 0
        self._socket = socket
        self._frames: deque[Frame] = deque()
        self._wake = asyncio.Event()
        self._ended = False

    def write(self, frame: Frame) -> None:
        self._frames.append(frame)
        self.waiting += frame.size
        if self.outbox is not None and self.outbox.blocked_since is None:
            self.outbox.blocked_since = asyncio.get_running_loop().time()
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Send queued frames for the duration of a block."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._write())
            try:
                yield
            finally:
                task.cancel()

    async def _write(self) -> None:
        # The receiving side notices whatever ends the connection.
        with contextlib.suppress(Exception):
            while self.outbox is not None:
                await self._wake.wait()
                self._wake.clear()
                while self._frames:
                    frame = self._frames.popleft()
                    await self._socket.send_text(frame.text)
                    self.waiting -= frame.size
                if self._ended:
                    await self._socket.close(self.outbox.close_code or 1000)
                    return
                self.outbox.blocked_since = None
                self.outbox.drained()

    async def close(self, code: int, patience: float) -> None:
        """Send a close code, within `patience` seconds."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(patience):
                await self._socket.close(code)
