"""A balancer in front of replicas: one address, whose connections go to replicas that are ready."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

CHECK_INTERVAL: Final = 0.25
"""Seconds between two readiness checks of a replica."""
CHECK_TIMEOUT: Final = 2.0
"""Seconds that a replica has to answer a check."""
FAILED_CHECKS: Final = 2
"""Checks without an answer after which the connections of a replica are closed."""
CHUNK: Final = 65_536
LINGER: Final = 1.0
"""Seconds that a client has to read that no replica is ready."""
CHECK: Final = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
READY: Final = b"HTTP/1.1 200"
UNAVAILABLE: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 22\r\n"
    b"Connection: close\r\n\r\nNo replica is ready.\r\n"
)


class Backend:
    """A replica on a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_ready = False
        self.connections: set[asyncio.StreamWriter] = set()
        self._unanswered = 0

    async def run_checks(self) -> None:
        """Check readiness until cancelled.

        A replica that is not ready gets no new connections. Those of one that does not answer are
        closed, so that browsers reconnect to another one.
        """
        while True:
            is_ready = await self._check()
            self.is_ready = is_ready is True
            self._unanswered = self._unanswered + 1 if is_ready is None else 0
            if self._unanswered >= FAILED_CHECKS:
                for connection in self.connections:
                    connection.transport.abort()
            await asyncio.sleep(CHECK_INTERVAL)

    async def _check(self) -> bool | None:
        """Return whether the replica is ready; None where it does not answer."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(CHECK)
                    return (await reader.readline()).startswith(READY)
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError, ValueError):
            return None


class Balancer:
    """Forwards the connections to a port to the replicas, to the one with the fewest first."""

    def __init__(self, port: int, backend_ports: Sequence[int]) -> None:
        self.port = port
        self.backends = [Backend(backend_port) for backend_port in backend_ports]
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled. Raises `OSError` where the port is in use."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        try:
            async with asyncio.TaskGroup() as group:
                for backend in self.backends:
                    group.create_task(backend.run_checks())
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._forward_to_ready(reader, writer)
        except OSError:
            # The end of this connection and of nothing else.
            writer.transport.abort()
        finally:
            writer.close()

    async def _forward_to_ready(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        ready = [backend for backend in self.backends if backend.is_ready]
        for backend in sorted(ready, key=lambda each: len(each.connections)):
            try:
                upstream = await asyncio.open_connection("127.0.0.1", backend.port)
            except OSError:
                backend.is_ready = False
                continue
            backend.connections.add(upstream[1])
            try:
                await forward((reader, writer), upstream)
            finally:
                backend.connections.discard(upstream[1])
            return
        writer.write(UNAVAILABLE)
        writer.write_eof()
        # Closed with data that was not read, the connection would be reset, and the answer lost.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while await reader.read(CHUNK):
                    pass


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def forward(client: Stream, upstream: Stream) -> None:
    """Copy both directions until the upstream ends the connection. Raises `OSError`."""
    requests = asyncio.create_task(_copy_requests(client[0], upstream[1]))
    try:
        await _copy(upstream[0], client[1])
    finally:
        requests.cancel()
        await asyncio.gather(requests, return_exceptions=True)
        upstream[1].transport.abort()


async def _copy_requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy what the client sends; its end ends the connection."""
    try:
        await _copy(reader, writer)
        with contextlib.suppress(OSError):
            writer.write_eof()
    except OSError:
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
