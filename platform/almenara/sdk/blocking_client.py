"""Blocking clients, in threads of their own."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, TypeVar

C = TypeVar("C")
T = TypeVar("T")

Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[Any], Any]]


class BlockingClient(Generic[C]):
    """A client that blocks, in a thread of its own in which it is created, used and closed.

        async with BlockingClient(connect) as client:
            rows = await client.call(lambda connection: connection.query(...))

    Calls run one after another. A call that hangs can be left by a timeout or by cancellation: the
    thread is then abandoned, which keeps neither the source nor the process from ending, and the
    next call uses a new client.
    """

    def __init__(self, make: Callable[[], C], *, close: Callable[[C], Any] | None = None) -> None:
        self._make, self._close = make, close
        self._jobs: queue.SimpleQueue[Job | None] | None = None

    async def __aenter__(self) -> "BlockingClient[C]":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._abandon()

    async def call(self, work: Callable[[C], T]) -> T:
        """Run `work` in the thread; return its result or raise its error, or that of the client."""
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            threading.Thread(
                target=self._work, args=(self._jobs,), name="blocking client", daemon=True
            ).start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((loop, future, work))
        try:
            return await future
        except asyncio.CancelledError:
            self._abandon()
            raise

    def _abandon(self) -> None:
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None

    def _work(self, jobs: "queue.SimpleQueue[Job | None]") -> None:
        client: C | None = None
        with _closing(lambda: client, self._close):
            while (job := jobs.get()) is not None:
                loop, future, work = job
                try:
                    if client is None:
                        client = self._make()
                    result: Any = work(client)
                except BaseException as error:
                    _set_result(loop, future, None, error)
                else:
                    _set_result(loop, future, result, None)


@contextlib.contextmanager
def _closing(client: Callable[[], Any], close: Callable[[Any], Any] | None) -> Iterator[None]:
    try:
        yield
    finally:
        if close is not None and client() is not None:
            with contextlib.suppress(Exception):
                close(client())


def _set_result(
    loop: asyncio.AbstractEventLoop,
    future: "asyncio.Future[Any]",
    result: Any,
    error: BaseException | None,
) -> None:
    def set_result() -> None:
        if future.done():
            return
        if error is not None:
            # A future refuses StopIteration, and a source could not handle it either.
            wrong = isinstance(error, StopIteration)
            future.set_exception(RuntimeError("StopIteration") if wrong else error)
        else:
            future.set_result(result)

    # The loop may be closed by the time an abandoned call returns.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(set_result)


async def blocking(work: Callable[[], T]) -> T:
    """Run one blocking call in a thread, which is abandoned on cancellation; return its result."""
    async with _one_call() as client:
        return await client.call(lambda _: work())


@contextlib.asynccontextmanager
async def _one_call() -> AsyncIterator[BlockingClient[bool]]:
    async with BlockingClient(lambda: True) as client:
        yield client
