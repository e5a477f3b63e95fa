"""Connections on their way: how many there may be, and TLS for those that begin to speak it.

A server of asyncio makes all that TLS takes for a connection once it is there, some 55 KiB, whether
anything ever comes over it or not. So connections are accepted as they are here, and TLS begins
with the first bytes that wait to be read.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)

AT_ONCE: Final = 64
"""Connections accepted before others have their turn."""
PAUSE: Final = 0.5
"""Seconds without accepting anything when the system has no room for another connection."""


class HalfOpen:
    """Connections that have not asked anything yet, in the order they came.

    Where there are more than `limit`, the oldest is dropped.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._drops: dict[Any, Callable[[], object]] = {}

    def add(self, connection: Any, drop: Callable[[], object]) -> None:
        """Count a connection, which `drop` ends."""
        self._drops[connection] = drop
        if len(self._drops) > self.limit:
            oldest = next(iter(self._drops))
            self._drops.pop(oldest)()

    def forget(self, connection: Any) -> None:
        """Count a connection no more."""
        self._drops.pop(connection, None)


class Handshakes:
    """Takes connections and speaks TLS with them; `context` may change at any time, and counts for
    those that come then. `timeout` is seconds, of waiting for a handshake and of the handshake."""

    def __init__(
        self,
        context: ssl.SSLContext,
        protocol: Callable[[], asyncio.Protocol],
        half_open: HalfOpen,
        timeout: float,
    ) -> None:
        self.context, self.timeout = context, timeout
        self._protocol, self._half_open = protocol, half_open

    async def accept(self, listener: socket.socket) -> None:
        """Take connections until cancelled; handshakes that are under way then end with it."""
        async with asyncio.TaskGroup() as group:
            while True:
                await _readable(listener)
                for _ in range(AT_ONCE):
                    try:
                        sock, _ = listener.accept()
                    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                        break
                    except OSError as error:
                        log.warning("no connection can be accepted at the moment",
                                    reason=error.strerror or str(error))  # fmt: skip
                        await asyncio.sleep(PAUSE)
                        break
                    sock.setblocking(False)
                    group.create_task(self._shake_hands(sock), name="handshake")

    async def _shake_hands(self, sock: socket.socket) -> None:
        task: Any = asyncio.current_task()
        self._half_open.add(task, task.cancel)
        try:
            try:
                async with asyncio.timeout(self.timeout):
                    await _readable(sock)
            except BaseException:
                sock.close()
                raise
            # From here on the transport closes it, whatever becomes of the handshake.
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, sock, ssl=self.context,
                ssl_handshake_timeout=self.timeout, ssl_shutdown_timeout=self.timeout,
            )  # fmt: skip
        except OSError as error:
            # TimeoutError and ssl.SSLError among them: those of who connects, not ours.
            log.debug("a handshake came to nothing", reason=str(error))
        except Exception:
            log.exception("a handshake failed")
        finally:
            self._half_open.forget(task)


async def _readable(sock: socket.socket) -> None:
    """Return once something waits to be read, and leave it there."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)
