"""The way of a frame to many sockets: packed once, written as it is.

Through ASGI each socket would encode, frame and copy every frame anew, in a task of its own. So
uvicorn's WebSocket protocol is itself what a channel writes to; the handshake, control frames and
whatever comes in stay uvicorn's. Where that protocol is another than the one known here, frames go
through ASGI, at three times the cost (`AsgiPeer`).
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
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.http11 import Request

from almenara.live.frames import Frame
from almenara.live.outbox import Outbox

EXTENSION: Final = "almenara.peer"
DEFLATE: Final = ServerPerMessageDeflateFactory(
    # Without a context a compressed frame means the same on every socket, and no socket needs
    # memory for one.
    server_no_context_takeover=True,
    client_no_context_takeover=True,
)
SHARED: Final = PerMessageDeflate(True, True, 15, 15, {"level": 1})
RELIED_ON: Final = (
    "close_sent", "conn", "connection_lost", "connection_made", "data_received", "disconnected",
    "handle_connect", "handshake_complete", "handshake_initiated", "loop", "on_task_complete",
    "pause_writing", "queue", "resume_writing", "send", "transport",
)  # fmt: skip
"""What `LiveProtocol` uses of uvicorn's protocol, which promises none of it to anybody."""
RELIED_ON_OF_CONN: Final = ("available_extensions", "data_to_send", "parser")
BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
# Their length is held by `server.max_url_bytes` and `server.max_header_bytes` before; less than a
# request may have would leave a page without its WebSocket.
http11.MAX_LINE_LENGTH = 1_048_576
LEAST: Final = 256
"""Bytes below which compressing gains nothing."""


def packed(frame: Frame, deflated: bool) -> bytes:
    """The bytes of a frame on the wire, made once for all who get it."""
    found = frame.packed.get(deflated)
    if found is None:
        data = frame.text.encode()
        extensions = [SHARED] if deflated and len(data) >= LEAST else []
        found = WireFrame(Opcode.TEXT, data).serialize(mask=False, extensions=extensions)
        frame.packed[deflated] = found
    return found


class LiveProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, which an outbox can write frames to."""

    outbox: Outbox | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn.available_extensions = [DEFLATE]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Whatever the socket does not take at once tells that the browser is behind. Not 0: with
        # TLS nothing at all would be too much then, and every page would seem to be behind.
        self.transport.set_write_buffer_limits(high=1)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            # A whole request is handed over here, and websockets has refused it. uvicorn would
            # neither send that nor close, and fail over such a connection when it stops.
            answer = b"".join(self.conn.data_to_send())
            self.transport.write(answer or BAD_REQUEST)
            self.handshake_complete = self.close_sent = True
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            # An extension of the scope is ASGI's place for what only some servers can do.
            extensions: dict[str, Any] = cast("dict[str, Any]", self.scope["extensions"])
            extensions[EXTENSION] = self

    def forget_handshake(self) -> None:
        """Let go of what only the handshake needed; the page may stay for days."""
        for it in (self.request, self.response):
            it.headers.clear()
        self.scope["headers"] = []

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        # Where thousands leave at once, who waits for the garbage collector makes all others wait.
        self.scope.clear()  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.conn.parser.close()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # uvicorn would log each refused handshake as an error of the application.
            self.handshake_complete = True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.outbox is not None and self.outbox.blocked_since is None:
            self.outbox.blocked_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.outbox is not None:
            self.outbox.blocked_since = None
            # Later, because the transport may be in the middle of a write.
            self.loop.call_soon(self.outbox.drained)

    @property
    def waiting(self) -> int:
        return self.transport.get_write_buffer_size()

    def write(self, frame: Frame) -> None:
        if not (self.close_sent or self.disconnected or self.transport.is_closing()):
            self.transport.write(packed(frame, bool(self.conn.extensions)))

    def end(self) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": 1000, "reason": None})

    async def close(self, code: int, patience: float) -> None:
        """Close with a code, or for good where the browser takes nothing for `patience` seconds."""
        # Whatever ended the connection already, there is nobody left to tell.
        with contextlib.suppress(Exception):
            try:
                async with asyncio.timeout(patience):
                    await self.send({"type": "websocket.close", "code": code, "reason": None})
            except TimeoutError:
                self.transport.abort()


def lacking(protocol: type = WebSocketsSansIOProtocol) -> list[str]:
    """What this uvicorn lacks of what `LiveProtocol` relies on; to be called on an event loop."""
    config = uvicorn.Config(_nothing, log_config=None, lifespan="off")
    try:
        made = protocol(config, ServerState(), {}, asyncio.get_running_loop())
    except TypeError as error:
        return [f"{protocol.__name__}(config, server_state, app_state, loop): {error}"]
    found = {*dir(made), *getattr(protocol, "__annotations__", ())}
    lacks = [it for it in RELIED_ON if it not in found]
    conn = getattr(made, "conn", None)
    return lacks + [f"conn.{it}" for it in RELIED_ON_OF_CONN if not hasattr(conn, it)]


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that is never asked."""


class AsgiPeer:
    """Writes frames the way any ASGI server takes them, with a task for the browser.

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
        """Write what waits, for the length of a block."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._write())
            try:
                yield
            finally:
                task.cancel()

    async def _write(self) -> None:
        # Whatever ends the connection is heard by who listens to it.
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
        """Close with a code, within `patience` seconds."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(patience):
                await self._socket.close(code)
