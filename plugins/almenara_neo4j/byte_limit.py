"""A bound for what a server sends in answer to a query, beneath the driver.

The driver reads a message as a whole, however long it is, and drops rows that nothing reads one by
one, so that a server that sends without end would take memory and the processor until the time
limit. It has no setting for that, and makes its connections itself: their class is replaced by one
that counts. It counts nothing but queries within `limited_bytes`, so that other users of the driver
are not affected.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)

MAX_BYTES: Final = 16 * 2**20
"""Of the response to a query: 1,000 nodes, each with a vector of 1,536 numbers, have 14 MiB."""


class ResponseTooLargeError(OSError):
    """A server sent more than a response may have."""


class Budget:
    """How many bytes a server may still send."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def spend(self, count: int) -> None:
        """Raise `ResponseTooLargeError` where the server has sent too much."""
        self._left -= count
        if self._left < 0:
            raise ResponseTooLargeError


_budget: ContextVar[Budget | None] = ContextVar("almenara_neo4j_budget", default=None)


@contextmanager
def limited_bytes(limit: int = MAX_BYTES) -> Iterator[None]:
    """Limit what connections of the driver receive in a block of code.

    Beyond the limit, the driver raises an error that has `ResponseTooLargeError` as its cause, and
    closes the connection.
    """
    token = _budget.set(Budget(limit))
    try:
        yield
    finally:
        _budget.reset(token)


def _install() -> None:
    """Replace the class of connections, where this version of the driver has it."""
    try:
        connections: Any = import_module("neo4j._async.io._bolt._base")
        plain: Any = connections.AsyncBoltSocket
    except (ImportError, AttributeError):
        log.warning("this version of the neo4j driver reads responses of any length")
        return

    class CountingSocket(plain):  # type: ignore[misc]
        """A connection that counts what it receives."""

        async def recv(self, n: int) -> bytes:
            data: bytes = await super().recv(n)
            _spend(len(data))
            return data

        async def recv_into(self, buffer: Any, nbytes: int) -> int:
            count: int = await super().recv_into(buffer, nbytes)
            _spend(count)
            return count

    connections.AsyncBoltSocket = CountingSocket


def _spend(count: int) -> None:
    if (budget := _budget.get()) is not None:
        budget.spend(count)


_install()
