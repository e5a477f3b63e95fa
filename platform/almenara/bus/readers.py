"""Queries off the event loop, on connections that only read, each with a deadline."""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from almenara.bus import BusClosedError
from almenara.bus.schema import connect
from almenara.errors import LimitExceeded

OPCODES_BETWEEN_CHECKS: Final = 20_000

T = TypeVar("T")


class QueryTooSlowError(LimitExceeded):
    """A query took longer than it may; the text says what to do."""


class Question(msgspec.Struct):
    """A query that waits for a thread."""

    query: Callable[[sqlite3.Connection], Any]
    answer: "asyncio.Future[Any]"
    abandoned: bool = False


class Readers:
    """A few threads with a reading connection each.

    Handing a question to an executor costs several times what a short query takes, hence threads
    of our own on one queue.
    """

    def __init__(self, path: Path, count: int, deadline: float, name: str) -> None:
        self.path, self.deadline = path, deadline
        self._questions: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}") for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What `query` returns; it is interrupted when the caller is cancelled.

        Raises `QueryTooSlowError`, `sqlite3.Error`, and `BusClosedError`.
        """
        if self._closed:
            raise BusClosedError("the bus is closed")
        question = Question(query, self._loop.create_future())
        self._questions.put(question)
        try:
            answer: T = await question.answer
            return answer
        finally:
            question.abandoned = True

    def close(self) -> None:
        """Wait for what was asked and end the threads."""
        self._closed = True
        for _ in self._threads:
            self._questions.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        connection: sqlite3.Connection | None = None
        while (question := self._questions.get()) is not None:
            if question.abandoned:
                continue
            try:
                if connection is None:
                    connection = connect(self.path, writable=False)
                answer = self._query(connection, question)
            except Exception as error:
                self._tell(_fail, question.answer, error)
            else:
                self._tell(_succeed, question.answer, answer)
        if connection is not None:
            connection.close()

    def _tell(self, how: Callable[["asyncio.Future[Any]", Any], None], *said: Any) -> None:
        # Without a loop there is nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(how, *said)

    def _query(self, connection: sqlite3.Connection, question: Question) -> Any:
        end = time.monotonic() + self.deadline
        connection.set_progress_handler(
            lambda: question.abandoned or time.monotonic() > end, OPCODES_BETWEEN_CHECKS
        )
        try:
            return question.query(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_INTERRUPT":
                raise
            raise QueryTooSlowError(
                f"the query took longer than {self.deadline:g} s; narrow it by time or by source"
            ) from None
        finally:
            connection.set_progress_handler(None, 0)


def _succeed(answer: "asyncio.Future[Any]", value: Any) -> None:
    if not answer.done():
        answer.set_result(value)


def _fail(answer: "asyncio.Future[Any]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
