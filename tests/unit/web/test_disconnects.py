"""Requests whose client hangs up are cancelled; all others pass unchanged."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from almenara.web.middleware.disconnects import DisconnectMiddleware

pytestmark = pytest.mark.anyio

Handler = Callable[[Any, Any, Any], Awaitable[None]]
REQUEST = {"type": "http.request", "body": b"body", "more_body": False}
DISCONNECT = {"type": "http.disconnect"}


class Connection:
    """A client: what it sends, and what it has received."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        message = await self.incoming.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def run(self, handler: Handler) -> None:
        await DisconnectMiddleware(handler)({"type": "http"}, self.receive, self.send)  # type: ignore[arg-type]


async def test_disconnect_cancels_the_handler() -> None:
    connection, outcome = Connection(), list[str]()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            outcome.append("cancelled")
            raise

    connection.incoming.put_nowait(REQUEST)
    running = asyncio.create_task(connection.run(handler))
    await asyncio.sleep(0.01)
    assert not running.done()
    connection.incoming.put_nowait(DISCONNECT)
    async with asyncio.timeout(5):
        await running
    assert outcome == ["cancelled"]


async def test_response_and_body_pass_unchanged() -> None:
    connection = Connection()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        body = await receive()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": body["body"]})

    connection.incoming.put_nowait(REQUEST)
    await connection.run(handler)
    assert [each.get("body") for each in connection.sent] == [None, b"body"]


async def test_disconnect_after_the_response_started_reaches_the_handler() -> None:
    connection, seen = Connection(), list[Any]()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200})
        connection.incoming.put_nowait(DISCONNECT)
        seen.append(await receive())

    connection.incoming.put_nowait(REQUEST)
    await connection.run(handler)
    assert seen == [DISCONNECT]


async def test_errors_of_receiving_and_handling_reach_their_places() -> None:
    connection = Connection()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ValueError, match="too large"):
            await receive()
        raise LookupError("from the handler")

    connection.incoming.put_nowait(ValueError("too large"))
    with pytest.raises(LookupError, match="from the handler"):
        await connection.run(handler)


async def test_cancellation_from_outside_is_passed_on() -> None:
    connection, outcome = Connection(), list[str]()

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            outcome.append("ended")

    running = asyncio.create_task(connection.run(handler))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert outcome == ["ended"]
