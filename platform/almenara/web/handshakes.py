"""Accepting connections: a limit of idle ones, and TLS only once a client sends something.

asyncio's own server allocates the TLS state of a connection when it is accepted, some 55 KiB,
whether the client ever sends anything or not. Here connections are accepted without it, and the
handshake starts with the first bytes that arrive.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import structlog

from almenara.errors import describe_error

log = structlog.get_logger(__name__)

ACCEPT_BATCH: Final = 64
"""Connections that are accepted before other tasks run."""
PAUSE: Final = 0.5
"""Seconds without accepting when the system has no file descriptors left."""


class IdleConnections:
    """Connections without a request in progress, oldest first.

    Beyond `limit`, the oldest is dropped.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._drop_callbacks: dict[Any, Callable[[], object]] = {}

    def add(self, connection: Any, drop: Callable[[], object]) -> None:
        """Register a connection, which `drop` would end."""
        self._drop_callbacks[connection] = drop
        if len(self._drop_callbacks) > self.limit:
            oldest = next(iter(self._drop_callbacks))
            self._drop_callbacks.pop(oldest)()

    def remove(self, connection: Any) -> None:
        """Unregister a connection."""
        self._drop_callbacks.pop(connection, None)


class TlsAcceptor:
    """Accepts connections and performs their TLS handshakes.

    `context` may be replaced at any time and applies to the connections that follow. `timeout` is
    in seconds, for the first bytes and again for the handshake.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        create_protocol: Callable[[], asyncio.Protocol],
        idle: IdleConnections,
        timeout: float,
    ) -> None:
        self.context, self.timeout = context, timeout
        self._create_protocol, self._idle = create_protocol, idle

    async def accept(self, listener: socket.socket) -> None:
        """Accept connections until cancelled, which cancels handshakes in progress as well."""
        async with asyncio.TaskGroup() as group:
            while True:
                await _wait_readable(listener)
                for _ in range(ACCEPT_BATCH):
                    try:
                        sock, _ = listener.accept()
                    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                        break
                    except OSError as error:
                        log.warning("cannot accept connections", reason=describe_error(error))
                        await asyncio.sleep(PAUSE)
                        break
                    sock.setblocking(False)
                    group.create_task(self._handshake(sock), name="TLS handshake")

    async def _handshake(self, sock: socket.socket) -> None:
        task: Any = asyncio.current_task()
        self._idle.add(task, task.cancel)
        try:
            try:
                async with asyncio.timeout(self.timeout):
                    await _wait_readable(sock)
            except BaseException:
                sock.close()
                raise
            # From here on the transport closes the socket, whatever the handshake raises.
            await asyncio.get_running_loop().connect_accepted_socket(
                self._create_protocol,
                sock,
                ssl=self.context,
                ssl_handshake_timeout=self.timeout,
                ssl_shutdown_timeout=self.timeout,
            )
        except OSError as error:
            # Errors of the client, TimeoutError and ssl.SSLError among them.
            log.debug("a TLS handshake failed", reason=describe_error(error))
        except Exception:
            log.exception("a TLS handshake failed")
        finally:
            self._idle.remove(task)


async def _wait_readable(sock: socket.socket) -> None:
    """Return once data is available, without reading it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
