"""Queries off the event loop, on connections that only read, each with a deadline."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from almenara.bus.schema import connect

OPCODES_BETWEEN_CHECKS: Final = 20_000

T = TypeVar("T")


class QueryTooSlowError(TimeoutError):
    """A query took longer than it may; the text says what to do."""


class Readers:
    """A few threads with a reading connection each."""

    def __init__(self, path: Path, count: int, deadline: float, name: str) -> None:
        self.path, self.deadline = path, deadline
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What `query` returns; it is interrupted when the caller is cancelled.

        Raises `QueryTooSlowError`, and `sqlite3.Error`.
        """
        abandoned = threading.Event()
        future = asyncio.get_running_loop().run_in_executor(
            self._pool, self._query, query, abandoned
        )
        try:
            return await future
        finally:
            abandoned.set()

    def _query(self, query: Callable[[sqlite3.Connection], T], abandoned: threading.Event) -> T:
        connection = self._connection()
        end = time.monotonic() + self.deadline
        connection.set_progress_handler(
            lambda: abandoned.is_set() or time.monotonic() > end, OPCODES_BETWEEN_CHECKS
        )
        try:
            return query(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_INTERRUPT":
                raise
            raise QueryTooSlowError(
                f"the query took longer than {self.deadline:g} s; narrow it by time or by source"
            ) from None
        finally:
            connection.set_progress_handler(None, 0)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self.path, writable=False)
            self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Wait for running queries and close the connections."""
        self._pool.shutdown()
        for connection in self._connections:
            connection.close()
        self._connections.clear()
