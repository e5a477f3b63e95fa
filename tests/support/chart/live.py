"""The live WebSocket as a test without a loop holds it: by a loop in a thread of its own.

The library's own client for threads reads in one and writes in another, through one TLS
connection, which OpenSSL does not allow: what it writes is lost now and then, in 161 of 10,900
handshakes with Traefik.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anyio import fail_after
from anyio.from_thread import BlockingPortal, start_blocking_portal
from websockets.asyncio.client import ClientConnection, connect


class Live:
    """A WebSocket that is open."""

    def __init__(self, portal: BlockingPortal, connection: ClientConnection) -> None:
        self._portal, self._connection = portal, connection

    def recv(self, patience: float = 10) -> str | bytes:
        """The next message. Raises `ConnectionClosed`, and `TimeoutError` after `patience` s."""

        async def received() -> str | bytes:
            with fail_after(patience):
                return await self._connection.recv()

        return self._portal.call(received)

    def ping(self, patience: float = 5) -> None:
        """Wait for the answer to a ping. Raises as `recv` does."""

        async def answered() -> None:
            with fail_after(patience):
                await (await self._connection.ping())

        self._portal.call(answered)


@contextmanager
def opened(url: str, **more: Any) -> Iterator[Live]:
    """A WebSocket for the length of a block; `more` is what `websockets` takes.

    Raises `InvalidHandshake` where it is refused, and `OSError`.
    """
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(connect(url, proxy=None, **more)) as connection,
    ):
        yield Live(portal, connection)
