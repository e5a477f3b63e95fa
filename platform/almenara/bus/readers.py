"""Queries off the event loop, on connections that only read, shared fairly between callers.

Callers take turns: whoever queues a hundred slow queries waits for them, and others do not. One
caller occupies all threads but one at most, may have `max_waiting` queries waiting, and its queries
have their deadline from the moment they arrive. A query is interrupted
when its caller is cancelled.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog

from almenara.bus import BusClosedError
from almenara.bus.schema import connect
from almenara.bus.storage_errors import (
    DamagedDatabaseError,
    describe_damage,
    is_damage,
    may_pass,
)
from almenara.errors import LimitExceeded, Unavailable, describe_error

log = structlog.get_logger(__name__)

OPCODES_BETWEEN_CHECKS: Final = 20_000
UNLIMITED: Final = 2**31

T = TypeVar("T")


class _Running(threading.local):
    """The query that a thread runs."""

    check: Callable[[], None] | None = None


_RUNNING: Final = _Running()


def check_deadline() -> None:
    """To be called by queries between steps of their own, which SQLite can't interrupt.

    Raises `QueryTooSlowError` where the query of this thread is cancelled or takes too long.
    """
    if _RUNNING.check is not None:
        _RUNNING.check()


class QueryTooSlowError(LimitExceeded):
    """A query took longer than it may; the text has a remedy."""


class TooManyQueriesError(LimitExceeded):
    """A caller has too many queries waiting; the text has a remedy."""


class PendingQuery(msgspec.Struct):
    """A query that waits for a thread."""

    run: Callable[[sqlite3.Connection], Any]
    result: "asyncio.Future[Any]"
    caller: str
    """Whose share of the readers it takes; empty for Almenara itself."""
    deadline: float
    """On the monotonic clock, counted from the arrival of the query."""
    is_abandoned: bool = False


class FairQueue:
    """Pending queries by caller. Each caller has one turn before any has the next."""

    def __init__(self, threads: int, max_waiting: int) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, deque[PendingQuery]] = OrderedDict()
        self._running: Counter[str] = Counter()
        self._max_running, self._max_waiting = max(threads - 1, 1), max_waiting
        # One token for each query: threads sleep here, which costs less than a condition variable.
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def put(self, query: PendingQuery) -> None:
        """Add a query. Raises `TooManyQueriesError`."""
        with self._lock:
            waiting = self._waiting.setdefault(query.caller, deque())
            if query.caller and len(waiting) >= self._max_waiting:
                while waiting and waiting[0].is_abandoned:
                    waiting.popleft()
            if query.caller and len(waiting) >= self._max_waiting:
                raise TooManyQueriesError(
                    f"{len(waiting)} queries of yours are waiting already; try again when they are"
                    " done"
                )
            waiting.append(query)
        self._tokens.put(True)

    def close(self, threads: int) -> None:
        """Make each thread end once nothing is waiting."""
        for _ in range(threads):
            self._tokens.put(False)

    def get(self) -> PendingQuery | None:
        """Return the next query, once there is one; None when the queue is closed."""
        while self._tokens.get():
            with self._lock:
                query = self._next()
                if query is not None:
                    self._running[query.caller] += 1
                    return query
        return None

    def _next(self) -> PendingQuery | None:
        for caller in list(self._waiting):
            waiting = self._waiting[caller]
            while waiting and waiting[0].is_abandoned:
                waiting.popleft()
            if not waiting:
                del self._waiting[caller]
            elif not caller or self._running[caller] < self._max_running:
                query = waiting.popleft()
                del self._waiting[caller]
                if waiting:
                    # To the end of the line.
                    self._waiting[caller] = waiting
                return query
        return None

    def remaining(self) -> list[PendingQuery]:
        """Return what is still waiting."""
        with self._lock:
            return [query for waiting in self._waiting.values() for query in waiting]

    def done(self, query: PendingQuery) -> None:
        """Note that a query has ended; its caller may have another waiting for that."""
        with self._lock:
            self._running[query.caller] -= 1
            if not self._running[query.caller]:
                del self._running[query.caller]
            is_waiting = query.caller in self._waiting
        if is_waiting:
            # The token of that query may have been spent while its caller was at the limit.
            self._tokens.put(True)


class Readers:
    """A few threads with a reading connection each.

    Handing a query to an executor costs several times what a short query takes, hence threads of
    our own on one queue.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        timeout: float,
        name: str,
        max_waiting: int = UNLIMITED,
        in_transaction: bool = False,
    ) -> None:
        self.path, self.timeout, self._in_transaction = path, timeout, in_transaction
        self._queue = FairQueue(count, max_waiting)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._generation = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}") for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, run: Callable[[sqlite3.Connection], T], caller: str = "") -> T:
        """Return what `run` returns; it is interrupted when this call is cancelled.

        Raises `LimitExceeded`, `Unavailable`, and what `run` raises.
        """
        if self._closed:
            raise BusClosedError("the bus is closed")
        query = PendingQuery(
            run, self._loop.create_future(), caller, time.monotonic() + self.timeout
        )
        self._queue.put(query)
        try:
            result: T = await query.result
            return result
        finally:
            query.is_abandoned = True

    def reconnect(self) -> None:
        """Make every thread open a new connection before its next query."""
        self._generation += 1

    def close(self) -> None:
        """Wait for what is queued and end the threads."""
        self._closed = True
        self._queue.close(len(self._threads))
        for thread in self._threads:
            thread.join()
        for query in self._queue.remaining():
            self._report(_fail, query.result, BusClosedError("the bus is closed"))

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        generation = self._generation
        while (query := self._queue.get()) is not None:
            try:
                if query.is_abandoned:
                    continue
                if connection is not None and generation != self._generation:
                    connection.close()
                    connection = None
                if connection is None:
                    generation = self._generation
                    connection = self._connect()
                result = self._run(connection, query)
            except Exception as error:
                if isinstance(error, Unavailable) and connection is not None:
                    # The file may be another one, or back, by the next query.
                    connection.close()
                    connection = None
                self._report(_fail, query.result, error)
            else:
                self._report(_succeed, query.result, result)
            finally:
                self._queue.done(query)
        if connection is not None:
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        try:
            return _connect_and_probe(self.path)
        except sqlite3.Error as error:
            if not may_pass(error, self.path.parent):
                raise self._translate(error) from error
        # Without space for the index of the write-ahead log the file alone can still be read.
        try:
            return _connect_and_probe(self.path, immutable=True)
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _run(self, connection: sqlite3.Connection, query: PendingQuery) -> Any:
        if time.monotonic() > query.deadline:
            raise self._too_slow()
        connection.set_progress_handler(
            lambda: query.is_abandoned or time.monotonic() > query.deadline, OPCODES_BETWEEN_CHECKS
        )
        _RUNNING.check = lambda: self._check(query)
        if self._in_transaction:
            # An event that is sealed meanwhile is read once.
            connection.execute("BEGIN")
        try:
            try:
                return query.run(connection)
            except sqlite3.OperationalError as error:
                if "decode" not in str(error).lower():
                    raise
                # A damaged row holds bytes that are not text; decode what can be.
                with _lossy_text(connection):
                    return query.run(connection)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
                raise self._too_slow() from None
            if is_damage(error) or may_pass(error, self.path.parent):
                raise self._translate(error) from error
            raise
        finally:
            connection.set_progress_handler(None, 0)
            _RUNNING.check = None
            if connection.in_transaction:
                connection.rollback()

    def _check(self, query: PendingQuery) -> None:
        if query.is_abandoned or time.monotonic() > query.deadline:
            raise self._too_slow()

    def _too_slow(self) -> QueryTooSlowError:
        return QueryTooSlowError(
            f"the query took longer than {self.timeout:g} s; narrow it by time or by source"
        )

    def _translate(self, error: sqlite3.Error) -> Unavailable:
        if is_damage(error):
            return DamagedDatabaseError(describe_damage(error, self.path.parent))
        return Unavailable(
            f"The history in {self.path.parent} cannot be read at the moment:"
            f" {describe_error(error)}. Check the disk; reading is tried again with each request."
        )

    def _report(self, function: Callable[..., None], *arguments: Any) -> None:
        # After the loop has been closed, no caller is left.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


def _connect_and_probe(path: Path, immutable: bool = False) -> sqlite3.Connection:
    connection = connect(path, writable=False, immutable=immutable)
    try:
        connection.execute("SELECT last_sequence FROM position").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _lossy_text(connection: sqlite3.Connection) -> Iterator[None]:
    connection.text_factory = lambda text: text.decode("utf-8", "replace")
    try:
        yield
    finally:
        connection.text_factory = str


def _succeed(result: "asyncio.Future[Any]", value: Any) -> None:
    if not result.done():
        result.set_result(value)


def _fail(result: "asyncio.Future[Any]", error: Exception) -> None:
    if not result.done():
        result.set_exception(error)
