"""A proxy on the wire before a real API server, for what that cannot be made to do."""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from support.api_server import ApiServer

Answer = Callable[[str], bytes | None]


def answer(status: int, body: str = "", *headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} It", f"content-length: {len(body)}", "connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def status(code: int, reason: str) -> str:
    """A Status object, as an API server answers with."""
    return (
        f'{{"kind":"Status","apiVersion":"v1","status":"Failure","code":{code},'
        f'"reason":"{reason}","message":"made up by the test: {reason}"}}'
    )


class ApiProxy:
    """Passes each request on over a connection of its own, and notes it in `requests`.

    `instead` may answer in place of the API server: given `GET /path?query`, it returns the bytes
    of an answer, or None to pass the request on.
    """

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.instead: Answer = lambda _: None
        self.delay = 0.0
        """Seconds before each request is passed on."""
        self.requests: list[tuple[float, str]] = []
        """When, by the monotonic clock, and the request: `/path?query`."""
        self._flows = asyncio.Event()
        self._flows.set()
        self._open: dict[asyncio.StreamWriter, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def matching(self, pattern: str = "", since: float = 0.0) -> list[str]:
        """The requests that match, probes left out."""
        return [
            path
            for when, path in self.requests
            if when >= since and re.search(pattern, path) and path != "/version"
        ]

    def freeze(self) -> None:
        """Let nothing through any more, and close nothing: half open."""
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        """Break every connection."""
        for writer in list(self._open):
            writer.transport.abort()

    def inject(self, line: bytes) -> int:
        """Put a line into every watch that is open; into how many."""
        watches = [writer for writer, path in self._open.items() if "watch=true" in path]
        for writer in watches:
            writer.write(b"%x\r\n%s\n\r\n" % (len(line) + 1, line))
        return len(watches)

    async def __aenter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.server._certificate)
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # The streams of this Python tell of a cancelled task as of an error.
        ends = (OSError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError)
        with contextlib.suppress(*ends):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                self.requests.append((time.monotonic(), path))
                self._open[writer] = path
                await self._flows.wait()
                await asyncio.sleep(self.delay)
                if (made := self.instead(path)) is not None:
                    writer.write(made)
                    await writer.drain()
                else:
                    await self._pass(head, writer)
            finally:
                self._open.pop(writer, None)
                writer.close()

    async def _pass(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        context = ssl.create_default_context(cafile=str(self.server.ca))
        upstream, sending = await asyncio.open_connection(
            "127.0.0.1", self.server.port, ssl=context
        )
        try:
            sending.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            while data := await upstream.read(65_536):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        finally:
            sending.transport.abort()
