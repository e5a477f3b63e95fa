"""A connection between Almenara and a server that goes silent, breaks off or lies, on the wire."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self

Mode = Literal[
    "pass", "refuse", "reset", "silent", "half", "drip", "garbage", "slow",
    "error", "empty", "cut", "page",
]  # fmt: skip
FAULTS: tuple[Mode, ...] = ("refuse", "reset", "silent", "half", "drip", "garbage")
LIES: dict[Mode, tuple[str, str, bytes]] = {
    "error": ("500 Internal Server Error", "application/json", b'{"kind":"Status","code":500}'),
    "empty": ("200 OK", "application/json", b"{}"),
    "cut": ("200 OK", "application/json", b'{"kind":"List","items":[{"metadata":{'),
    "page": ("200 OK", "text/html", b"<!doctype html><title>Sign in</title><form></form>"),
}
"""The status, content type and body of every answer, by mode."""
HALF = 60
"""Bytes of each direction of the server after which a connection is cut."""
SLOW = 0.3
"""Seconds by which a slow link delays each part of an answer."""


class FaultyLink:
    """Passes connections on to a port of 127.0.0.1, or does to them what `mode` says.

    `refuse` accepts no connection, `reset` closes each at once, `silent` forwards nothing more,
    `half` cuts what the server sends after some bytes, `drip` forwards a byte now and then,
    `garbage` sends random bytes in place of what the server sends, and `slow` delays it. The modes
    of `LIES` answer every HTTP request in place of the server.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.mode: Mode = "pass"
        self.port = 0
        self.delayed = 0
        """How often `slow` has delayed a part of an answer."""
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def _call(self, call: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(call, self._loop).result(20)

    def set(self, mode: Mode) -> None:
        """Apply a mode, to connections that are open as well."""
        self._call(self._set(mode))

    async def _set(self, mode: Mode) -> None:
        was_refused = self.mode == "refuse"
        self.mode = mode
        if mode == "refuse":
            await self._close_listener()
        elif was_refused:
            await self._listen()
        if mode not in ("silent", "slow"):
            self._abort()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _abort(self) -> None:
        for writer in list(self._connections):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            writer.transport.abort()
            return
        if self.mode in LIES:
            await self._lie(reader, writer)
            return
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, to_server}
        self._connections |= ends
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, to_server, lambda data: data))
                group.create_task(self._forward(from_server, writer, self._distort))
        except* OSError:
            pass
        finally:
            for end in ends:
                end.transport.abort()
            self._connections -= ends

    async def _lie(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close the connection."""
        status, content_type, body = LIES[self.mode]
        head = (
            f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self._connections.add(writer)
        try:
            with contextlib.suppress(
                OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
            ):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(head.encode() + body)
                await writer.drain()
            writer.close()
        finally:
            self._connections.discard(writer)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        distort: Callable[[bytes], bytes],
    ) -> None:
        sent = 0
        while data := await reader.read(65_536):
            while self.mode == "silent":
                await asyncio.sleep(0.05)
            is_distorted = distort == self._distort
            data = distort(data)
            if is_distorted and self.mode == "half":
                data = data[: max(HALF - sent, 0)]
            if is_distorted and self.mode == "drip":
                for position in range(len(data)):
                    writer.write(data[position : position + 1])
                    await asyncio.sleep(0.5)
                    if self.mode != "drip":
                        break
            elif data:
                if is_distorted and self.mode == "slow":
                    await asyncio.sleep(SLOW)
                    self.delayed += 1
                writer.write(data)
            sent += len(data)
            await writer.drain()
            if is_distorted and self.mode == "half" and sent >= HALF:
                raise ConnectionResetError
        raise ConnectionResetError

    def _distort(self, data: bytes) -> bytes:
        return os.urandom(len(data)) if self.mode == "garbage" else data

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async def close() -> None:
            await self._close_listener()
            self._abort()
            # A connection that is still served would end on a closed loop.
            served = asyncio.all_tasks() - {asyncio.current_task()}
            for task in served:
                task.cancel()
            await asyncio.gather(*served, return_exceptions=True)

        with contextlib.suppress(TimeoutError):
            self._call(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
