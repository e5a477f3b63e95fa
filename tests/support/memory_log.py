"""A shared log in memory: what each replica can read of it is up to the test."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from almenara.errors import Unavailable
from almenara.shared_log import LogBounds, LogMessage


class NoObjects:
    """An object store without snapshots."""

    async def names(self) -> set[str]:
        return set()


class MemoryLog:
    """The messages, and the sessions of all replicas."""

    def __init__(self) -> None:
        self.messages: list[LogMessage] = []
        self._positions: dict[str, int] = {}
        self.changed = asyncio.Event()

    def append(self, payload: bytes, message_id: str) -> int:
        if message_id not in self._positions:
            position = len(self.messages) + 1
            self.messages.append(LogMessage(position, position, payload))
            self._positions[message_id] = position
            self.wake()
        return self._positions[message_id]

    def wake(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class LogView:
    """The log as one replica reaches it."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.attempts = 0
        """How often its state was requested."""
        self._limit: int | None = None
        self._has_leader = True
        self._session = 0

    def limit(self, position: int | None) -> None:
        """Deliver messages up to a position only; None for all."""
        self._limit = position
        self.log.wake()

    def lose_leader(self) -> None:
        """End the session. A server can be connected to, and responds to nothing else."""
        self._has_leader = False
        self.end_session()

    def elect_leader(self) -> None:
        self._has_leader = True

    def end_session(self) -> None:
        self._session += 1
        self.log.wake()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        yield MemorySession(self)

    async def prepare(self, first: int = 1) -> str:
        raise NotImplementedError

    async def check(self) -> Any:
        raise NotImplementedError


class MemorySession:
    max_bytes = 1_000_000
    leases: Any = None
    lease_ttl = 6.0
    state: Any = None
    snapshots: Any = NoObjects()

    def __init__(self, view: LogView) -> None:
        self._view, self._number = view, view._session

    async def bounds(self) -> LogBounds:
        self._view.attempts += 1
        # Other tasks run while the response is awaited.
        for _ in range(5):
            await asyncio.sleep(0)
        self._check()
        return LogBounds("memory", 1, len(self._view.log.messages))

    async def append(self, payload: bytes, message_id: str) -> int:
        self._check()
        return self._view.log.append(payload, message_id)

    async def read(self, start: int) -> AsyncIterator[Sequence[LogMessage]]:
        self._check()
        position = start - 1
        yield []
        while True:
            changed = self._view.log.changed
            messages = self._view.log.messages[position : self._view._limit]
            self._check()
            if messages:
                position = messages[-1].position
                yield messages
            else:
                await changed.wait()

    def _check(self) -> None:
        if self._number != self._view._session or not self._view._has_leader:
            raise Unavailable("the log has no leader")
