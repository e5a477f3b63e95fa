"""The way of a frame to many sockets: packed once, written as it is.

Through ASGI each socket would encode, frame and copy every frame anew, in a task of its own. So
uvicorn's WebSocket protocol is itself what a channel writes to; the handshake, control frames and
whatever comes in stay uvicorn's.
"""

import asyncio
import contextlib
from typing import Any, Final, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.http11 import Request

from almenara.panels.outbox import Outbox
from almenara.panels.renderer import Frame

EXTENSION: Final = "almenara.peer"
DEFLATE: Final = ServerPerMessageDeflateFactory(
    # Without a context a compressed frame means the same on every socket, and no socket needs
    # memory for one.
    server_no_context_takeover=True,
    client_no_context_takeover=True,
)
SHARED: Final = PerMessageDeflate(True, True, 15, 15, {"level": 1})
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
        # Whatever the socket does not take at once tells that the browser is behind.
        self.transport.set_write_buffer_limits(high=0)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            # An extension of the scope is ASGI's place for what only some servers can do.
            extensions: dict[str, Any] = cast("dict[str, Any]", self.scope["extensions"])
            extensions[EXTENSION] = self

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            # uvicorn would log each refused handshake as an error of the application.
            self.handshake_complete = True

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.outbox is not None and self.outbox.late is None:
            self.outbox.late = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.outbox is not None:
            self.outbox.late = None
            # Later, because the transport may be in the middle of a write.
            self.loop.call_soon(self.outbox.emptied)

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
