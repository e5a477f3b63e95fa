"""Blocking clients, kept off the event loop."""

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
    """A client that blocks, in a thread of its own in which it is made, used and closed.

        async with BlockingClient(connect) as client:
            rows = await client.call(lambda connection: connection.query(...))

    Calls run one after another. One that hangs can be left by a timeout or by cancellation: the
    thread is then given up, which keeps neither the source nor the process from ending, and the
    next call is made on a new client.
    """

    def __init__(self, make: Callable[[], C], *, close: Callable[[C], Any] | None = None) -> None:
        self._make, self._close = make, close
        self._jobs: queue.SimpleQueue[Job | None] | None = None

    async def __aenter__(self) -> "BlockingClient[C]":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._give_up()

    async def call(self, work: Callable[[C], T]) -> T:
        """What `work` returns or raises, run in the thread; making the client may raise as well."""
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
            self._give_up()
            raise

    def _give_up(self) -> None:
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
                    _settle(loop, future, None, error)
                else:
                    _settle(loop, future, result, None)


@contextlib.contextmanager
def _closing(client: Callable[[], Any], close: Callable[[Any], Any] | None) -> Iterator[None]:
    try:
        yield
    finally:
        if close is not None and client() is not None:
            with contextlib.suppress(Exception):
                close(client())


def _settle(
    loop: asyncio.AbstractEventLoop,
    future: "asyncio.Future[Any]",
    result: Any,
    error: BaseException | None,
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is not None:
            # A future refuses StopIteration, and a source cannot do anything with it either.
            wrong = isinstance(error, StopIteration)
            future.set_exception(RuntimeError("StopIteration") if wrong else error)
        else:
            future.set_result(result)

    # The loop may be gone by the time an abandoned call comes back.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)


async def blocking(work: Callable[[], T]) -> T:
    """What one blocking call returns, run in a thread that is left behind on cancellation."""
    async with _one_call() as client:
        return await client.call(lambda _: work())


@contextlib.asynccontextmanager
async def _one_call() -> AsyncIterator[BlockingClient[bool]]:
    async with BlockingClient(lambda: True) as client:
        yield client
